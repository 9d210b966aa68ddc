"""From a photo to aligned faces: detection, choice and crop in one step."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lsap_jax.data.align import ffhq_align, ffhq_quad, five_points, looks_aligned, quad_side
from lsap_jax.data.detect import detect
from lsap_jax.data.images import check_pixels
from lsap_jax.errors import ConfigError, FaceError


@dataclasses.dataclass(frozen=True)
class AlignedFace:
    """One face, cropped as in FFHQ.

    Attributes:
      image: (size, size, 3) uint8.
      landmarks: (5, 2) x, y in pixels of the photo it came from.
      notes: what a user should know: other faces left out, enlargement, an image left as it was.
    """

    image: np.ndarray
    landmarks: np.ndarray
    notes: tuple[str, ...] = ()


def faces_of(
    image: np.ndarray,
    mtcnn: Mapping[str, Any] | None = None,
    *,
    which: str = "largest",
    size: int = 1024,
    landmarks: Sequence[npt.ArrayLike] | None = None,
    keep_aligned: bool = True,
) -> list[AlignedFace]:
    """The faces of one photo, each upright and centred as the generators expect them.

    Args:
      image: (H, W, 3) uint8.
      mtcnn: the detector's params, of `lsap_jax.pretrained.load("mtcnn")`; not needed with `landmarks`.
      which: only the "largest" face, or "all", largest first.
      size: side of the results, in pixels: the generator's resolution.
      landmarks: the photo's faces, (5, 2) or (68, 2) each, in place of detection.
      keep_aligned: if the image is an FFHQ-like crop of a face already (`align.looks_aligned`), do not cut it a
        second time, which would only blur it; it is resized if need be.

    Returns:
      at least one face.

    Raises:
      FaceError: if there is no face, or the landmarks given are none.
      ImageError: if `image` is not (H, W, 3) uint8.
      ConfigError: if `which` is unknown, or there is neither a detector nor landmarks.
    """
    if which not in ("largest", "all"):
        raise ConfigError(f"which={which!r}: must be 'largest' or 'all'")
    check_pixels(image)
    notes = []
    if landmarks is not None:
        found = [five_points(face) for face in landmarks]
        found.sort(key=lambda face: quad_side(ffhq_quad(face, image.shape)), reverse=True)
    elif mtcnn is not None:
        detected = [face.landmarks for face in detect(mtcnn, image)]
        found = [face for face in detected if _is_usable(face, image)]
        if len(found) < len(detected):
            notes.append(f"{len(detected) - len(found)} faces left out: turned away, or mostly outside of the photo")
    else:
        raise ConfigError("finding faces needs MTCNN's params (lsap_jax.pretrained.load('mtcnn')) or landmarks")
    if not found:
        raise FaceError(
            "no face was found; give its landmarks in a JSON file, or, if the image is cropped as in FFHQ already, "
            "have it taken as aligned"
        )
    if which == "largest" and len(found) > 1:
        notes.append(f"{len(found)} faces: the largest was taken")
        found = found[:1]
    return [_aligned(image, face, size, keep_aligned, notes) for face in found]


def _is_usable(landmarks: np.ndarray, image: np.ndarray) -> bool:
    try:
        ffhq_quad(landmarks, image.shape)
    except FaceError:
        return False
    return True


def _aligned(
    image: np.ndarray, landmarks: np.ndarray, size: int, keep_aligned: bool, notes: Sequence[str]
) -> AlignedFace:
    if keep_aligned and looks_aligned(image, landmarks):
        if image.shape[0] != size:
            image = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))
        return AlignedFace(image, landmarks, (*notes, "already aligned: left as it is"))
    side = quad_side(ffhq_quad(landmarks))
    if side < size / 2:
        notes = [*notes, f"enlarged: the crop is {side:.0f} pixels wide in the photo, {size} here"]
    return AlignedFace(ffhq_align(image, landmarks, size), landmarks, tuple(notes))
