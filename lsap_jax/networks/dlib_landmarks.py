"""dlib's 68 landmarks of a face: a cascade of regression trees (Kazemi & Sullivan, CVPR 2014), in numpy.

The predictor is `shape_predictor_68_face_landmarks`, trained on iBUG 300-W, whose licence excludes commercial use.
Starting from the mean shape in the face's box, each of 15 forests compares the grey levels of pixels that lie at fixed
offsets from the landmarks found so far, and every tree adds the correction of the leaf it ends in.

Order of the landmarks (iBUG): 0-16 jaw, 17-21 and 22-26 brows, 27-30 bridge and 31-35 foot of the nose, 36-41 and 42-47
eyes, 48-59 outer and 60-67 inner lips; from left to right as seen in the image.
"""

from collections.abc import Mapping

import numpy as np

from lsap_jax.data.align import five_points
from lsap_jax.data.images import check_pixels
from lsap_jax.errors import FaceError


def landmarks(params: Mapping[str, np.ndarray], image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Find the landmarks of one face, as dlib's `shape_predictor` does (which rounds them to whole pixels).

    Args:
      params: of `pretrained.load("dlib-landmarks-68")`, see `checkpoints.dlib_shape_file.load`.
      image: (H, W, 3) uint8.
      box: (4,) left, top, right, bottom of the face in pixels, as from `box_from_points`; the face upright in it. May
        reach beyond the image, where everything counts as black.

    Returns:
      (68, 2) float32 x, y in pixels of the image, the first pixel's centre at 0.

    Raises:
      ImageError: if `image` is not (H, W, 3) uint8.
      FaceError: if the box is not finite or has no area.
    """
    check_pixels(image)
    box = np.asarray(box, np.float64)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise FaceError(f"a face's box {box.tolist()}; it must be left, top, right, bottom in pixels")
    corner, size = box[:2], box[2:] - box[:2]
    height, width = image.shape[:2]
    mean, shape = params["mean"], params["mean"]
    forests = zip(*(params[key] for key in ("anchors", "deltas", "pixels", "thresholds", "leaves")), strict=True)
    for anchors, deltas, pixels, thresholds, leaves in forests:
        turn = _similarity(mean, shape)
        at = np.floor((_turned(turn, deltas) + shape[anchors]) * size + corner + 0.5).astype(np.int64)
        x, y = at.T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        colours = image[y * inside, x * inside].astype(np.int32)
        grey = np.where(inside, colours.sum(-1) // 3, 0).astype(np.float32)
        passed = grey[pixels[..., 0]] - grey[pixels[..., 1]] > thresholds  # (T, S): every split of every tree
        corrections = leaves[np.arange(len(leaves)), _leaves(passed)]
        shape = np.concatenate([shape[None], corrections]).sum(0)  # one after the other, which dlib does too
    return (shape * size + corner).astype(np.float32)


def box_from_points(params: Mapping[str, np.ndarray], points: np.ndarray) -> np.ndarray:
    """The square to start from, for a face whose five points are known.

    It is the square on which the predictor's own mean shape lies nearest to the points, in the least-squares sense
    (shift and scale, no turn). A detector's box would do worse: each detector frames faces in its own way.

    Args:
      params: of the predictor.
      points: (5, 2) or (68, 2) x, y in pixels, as from `data.detect`.

    Returns:
      (4,) left, top, right, bottom in pixels.

    Raises:
      FaceError: if there are neither 5 nor 68 points, or they coincide.
    """
    points, mean = five_points(points), five_points(params["mean"])
    centred = mean - mean.mean(0)
    scale = (centred * (points - points.mean(0))).sum() / (centred**2).sum()
    if scale <= 0:
        raise FaceError(f"landmarks {points.tolist()} form no upright face")
    corner = points.mean(0) - scale * mean.mean(0)
    return np.concatenate([corner, corner + scale])


def _similarity(points: np.ndarray, onto: np.ndarray) -> tuple[np.float32, np.float32]:
    """Cosine and sine, times the scale, of the turn that takes centred points (P, 2) nearest to others."""
    p, q = (x.astype(np.float64) - x.mean(0, dtype=np.float64) for x in (points, onto))
    norm = (p * p).sum()
    a, b = (p * q).sum() / norm, (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum() / norm
    return np.float32(a), np.float32(b)


def _turned(turn: tuple[np.float32, np.float32], points: np.ndarray) -> np.ndarray:
    (a, b), (x, y) = turn, points.T
    return np.stack([a * x - b * y, b * x + a * y], axis=1)


def _leaves(passed: np.ndarray) -> np.ndarray:
    """Which leaf each tree ends in (T,), from the outcomes of its splits (T, S) in breadth-first order."""
    tree, node = np.arange(len(passed)), np.zeros(len(passed), np.int64)
    for _ in range((passed.shape[1] + 1).bit_length() - 1):
        node = 2 * node + np.where(passed[tree, node], 1, 2)
    return node - passed.shape[1]
