"""Finding faces: MTCNN's cascade over one photo of any size.

P-Net slides over a pyramid of scales and proposes windows, R-Net rejects most and O-Net the rest; each also corrects
the box, and O-Net adds five landmarks. The steps, thresholds and rounding are facenet-pytorch 2.6's `detect_face`,
with one repair: a crop that hangs over the photo's border is filled with black, as in the paper's code, where
facenet-pytorch cuts it off and so stretches the face and misplaces its landmarks.

Compiled shapes do not depend on the photo. A level of the pyramid lies in the corner of the smallest of a fixed
series of square canvases (a dozen, each compiled once in a process); crops go through R-Net and O-Net in batches of
a fixed size.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from lsap_jax.data.images import check_pixels
from lsap_jax.networks import mtcnn

FACTOR = 0.709  # from one level of the pyramid to the next: half the area
SMALLEST_FACE = 20  # pixels
SMALLEST_PART = 1 / 50  # ... but in large photos this part of the longer side: smaller faces are bystanders
THRESHOLDS = (0.6, 0.7, 0.7)  # least probability that passes P-Net, R-Net, O-Net

_LONGEST_SIDE = 2048  # pixels; larger photos are reduced first, the networks see 48-pixel crops anyway
_LARGEST_LEVEL = mtcnn.CELL / SMALLEST_PART  # 600 pixels
_RNET_BATCH, _ONET_BATCH = 64, 16

_pnet = jax.jit(mtcnn.pnet)
_rnet = jax.jit(mtcnn.rnet)
_onet = jax.jit(mtcnn.onet)


@dataclasses.dataclass(frozen=True)
class Face:
    """One face in a photo; coordinates in pixels of that photo, x to the right and y down.

    Attributes:
      box: (4,) left, top, right, bottom; may reach beyond the photo.
      score: probability of being a face, 0..1.
      landmarks: (5, 2) centres of the left and right eye, tip of the nose, left and right corner of the mouth;
        left and right as seen in the image.
    """

    box: np.ndarray
    score: float
    landmarks: np.ndarray

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


def detect(
    params: Mapping[str, Any],
    image: np.ndarray,
    *,
    min_size: float | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[Face]:
    """Find every face in a photo.

    Args:
      params: MTCNN's params {"pnet", "rnet", "onet"}, as from `lsap_jax.pretrained.load("mtcnn")`.
      image: (H, W, 3) uint8.
      min_size: about the side of the smallest face to look for, in pixels; by default 20, or a fiftieth of the photo's
        longer side if that is more.
      thresholds: least probability that passes P-Net, R-Net, O-Net.

    Returns:
      the faces, largest first; an empty list if there is none.

    Raises:
      ImageError: if `image` is not (H, W, 3) uint8.
    """
    check_pixels(image)
    longer = max(image.shape[:2])
    if min_size is None:
        min_size = max(SMALLEST_FACE, SMALLEST_PART * longer)
    reduction = -(-longer // _LONGEST_SIDE)
    if reduction > 1:
        image = np.asarray(Image.fromarray(image).reduce(reduction))
    table = _summed_area_table(image)

    boxes = _propose(params["pnet"], table, min_size / reduction, thresholds[0])
    boxes = _refine(params["rnet"], table, boxes, thresholds[1])
    boxes, scores, landmarks = _finish(params["onet"], table, boxes, thresholds[2])

    # Back to pixels of the photo: pixel i of the reduced one is the mean of reduction * i + 0 ... reduction - 1.
    shift = (reduction - 1) / 2
    boxes, landmarks = boxes * reduction + shift, landmarks * reduction + shift
    faces = [Face(*values) for values in zip(boxes, scores.tolist(), landmarks, strict=True)]
    return sorted(faces, key=lambda face: face.area, reverse=True)


def _propose(params: Any, table: np.ndarray, min_size: float, threshold: float) -> np.ndarray:
    """P-Net over the pyramid: square windows (N, 4) that may hold a face of at least `min_size` pixels."""
    height, width = table.shape[0] - 1, table.shape[1] - 1
    scale = mtcnn.CELL / min_size
    levels = []  # dispatched one after the other, read afterwards
    while min(height, width) * scale >= mtcnn.CELL:
        h, w = int(height * scale + 1), int(width * scale + 1)
        side = _canvas_side(max(h, w))
        canvas = np.zeros((1, side, side, 3), np.float32)
        canvas[:, :h, :w] = _normalise(_resample(table, np.array([[0, 0, width, height]]), h, w))
        levels.append((scale, _pnet(params, canvas, np.array([h, w], np.int32))))
        scale *= FACTOR

    boxes, scores, offsets = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)], [np.zeros((0, 4), np.float32)]
    for scale, (probability, offset) in levels:
        probability = np.asarray(probability)[0]
        cells = np.argwhere(probability >= threshold)
        score = probability[*cells.T]
        corner = mtcnn.STRIDE * cells[:, ::-1].astype(np.float32)
        box = np.concatenate([np.floor((corner + 1) / scale), np.floor((corner + mtcnn.CELL) / scale)], axis=1)
        keep = nms(box, score, 0.5)
        boxes.append(box[keep])
        scores.append(score[keep])
        offsets.append(np.asarray(offset)[0][*cells[keep].T])
    boxes, scores, offsets = np.concatenate(boxes), np.concatenate(scores), np.concatenate(offsets)
    keep = nms(boxes, scores, 0.7)
    return _square(_corrected(boxes[keep], offsets[keep], extra=0))


def _refine(params: Any, table: np.ndarray, boxes: np.ndarray, threshold: float) -> np.ndarray:
    """R-Net on every window (N, 4): the better placed squares (M, 4) of those that pass."""
    crops = _crop(table, boxes, mtcnn.RNET_SIZE)
    scores, offsets = _in_batches(lambda x: _rnet(params, x), crops, _RNET_BATCH)
    passed = scores > threshold
    boxes, scores, offsets = boxes[passed], scores[passed], offsets[passed]
    keep = nms(boxes, scores, 0.7)
    return _square(_corrected(boxes[keep], offsets[keep]))


def _finish(
    params: Any, table: np.ndarray, boxes: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """O-Net on every square (N, 4): boxes (M, 4), scores (M,) and landmarks (M, 5, 2) of the faces."""
    crops = _crop(table, boxes, mtcnn.ONET_SIZE)
    scores, offsets, landmarks = _in_batches(lambda x: _onet(params, x), crops, _ONET_BATCH)
    passed = scores > threshold
    boxes, scores, offsets, landmarks = boxes[passed], scores[passed], offsets[passed], landmarks[passed]
    side = boxes[:, None, 2:] - boxes[:, None, :2] + 1
    landmarks = landmarks * side + boxes[:, None, :2] - 1  # boxes count pixels from 1
    boxes = _corrected(boxes, offsets)
    keep = nms(boxes, scores, 0.7, of_smaller=True)
    return boxes[keep], scores[keep], landmarks[keep]


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, of_smaller: bool = False) -> np.ndarray:
    """Greedy non-maximum suppression: of boxes that overlap by more than `threshold`, only the best scored stays.

    Args:
      boxes: (N, 4) left, top, right, bottom in pixels.
      scores: (N,).
      threshold: overlap in 0..1.
      of_smaller: measure overlap as intersection over the smaller box, counting pixels, instead of over the union.

    Returns:
      indices of the boxes that stay, best first.
    """
    extra = 1 if of_smaller else 0  # [left, right] as pixels holds one more than as lengths
    left, top, right, bottom = boxes.T
    area = (right - left + extra) * (bottom - top + extra)
    order = np.argsort(-scores, kind="stable")
    keep = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(best)
        w = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest]) + extra
        h = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest]) + extra
        shared = np.maximum(w, 0) * np.maximum(h, 0)
        whole = np.minimum(area[best], area[rest]) if of_smaller else area[best] + area[rest] - shared
        order = rest[shared <= threshold * whole]
    return np.array(keep, int)


def _corrected(boxes: np.ndarray, offsets: np.ndarray, extra: int = 1) -> np.ndarray:
    """Move every edge of (N, 4) boxes by its offset (N, 4), in units of the box's width or height."""
    size = boxes[:, 2:] - boxes[:, :2] + extra
    return boxes + offsets * np.concatenate([size, size], axis=1)


def _square(boxes: np.ndarray) -> np.ndarray:
    """The square about each box's centre with the box's longer side."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + (size - side) / 2
    return np.concatenate([corner, corner + side], axis=1)


def _canvas_side(length: int) -> int:
    """Side of the smallest canvas of the fixed series that holds `length` pixels."""
    side = _LARGEST_LEVEL
    while side < length - 1:  # only if the caller asks for very small faces
        side /= FACTOR
    while side * FACTOR >= length - 1:
        side *= FACTOR
    return int(np.ceil(side)) + 1


def _summed_area_table(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H + 1, W + 1, 3) int32 sums over everything above and to the left of a pixel corner.

    The mean over any rectangle then takes four look-ups, exact in integers: 255 * 2048^2 < 2^31.
    """
    table = np.zeros((image.shape[0] + 1, image.shape[1] + 1, 3), np.int32)
    np.cumsum(image, axis=0, dtype=np.int32, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
    return table


def _resample(table: np.ndarray, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area-average rectangles of the photo to one size; what lies beyond its border is black.

    Bins are those of PyTorch's adaptive average pooling: bin i of n covers floor(i L / n) .. ceil((i + 1) L / n)
    of a length L.

    Args:
      table: of `_summed_area_table`.
      boxes: (N, 4) integers left, top, right, bottom, the last two exclusive.
      height: of the result.
      width: of the result.

    Returns:
      (N, height, width, 3) float32 in 0..255.
    """

    def bins(start: np.ndarray, stop: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        length = (stop - start)[:, None]
        i = np.arange(n)[None]
        return start[:, None] + i * length // n, start[:, None] - (-(i + 1) * length // n)

    left, right = bins(boxes[:, 0], boxes[:, 2], width)
    top, bottom = bins(boxes[:, 1], boxes[:, 3], height)
    area = ((bottom - top)[:, :, None] * (right - left)[:, None, :])[..., None]
    left, right = (np.clip(x, 0, table.shape[1] - 1)[:, None, :] for x in (left, right))
    top, bottom = (np.clip(y, 0, table.shape[0] - 1)[:, :, None] for y in (top, bottom))
    total = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    return (total / area).astype(np.float32)


def _normalise(pixels: np.ndarray) -> np.ndarray:
    """0..255 -> what the networks were trained on."""
    return (pixels - np.float32(127.5)) / np.float32(128)


def _crop(table: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """The networks' input (N, size, size, 3) for boxes (N, 4) whose pixels count from 1, the last included."""
    boxes = np.trunc(boxes).astype(int) - np.array([[1, 1, 0, 0]])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return _normalise(_resample(table, boxes, size, size))


def _in_batches(network: Callable, crops: np.ndarray, batch: int) -> tuple[np.ndarray, ...]:
    """Run a network over (N, ...) in batches of one fixed size, the last one filled with zeros."""
    chunks = []
    for start in range(0, max(len(crops), 1), batch):
        chunk = crops[start : start + batch]
        padded = np.zeros((batch, *crops.shape[1:]), crops.dtype)
        padded[: len(chunk)] = chunk
        chunks.append((len(chunk), network(padded)))
    outputs = [[np.asarray(value)[:n] for value in values] for n, values in chunks]
    return tuple(np.concatenate(values) for values in zip(*outputs, strict=True))
