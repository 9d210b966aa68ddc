"""Parts of a face as soft regions, from five landmarks."""

import numpy as np
import numpy.typing as npt

from lsap_jax.data.align import five_points
from lsap_jax.data.outlines import Region, Size, ellipse
from lsap_jax.errors import FaceError, RegionError

# The mean face in FFHQ's alignment, (x, y) in units of the side: MTCNN's points on 108 aligned faces, made even.
MEAN_LANDMARKS = np.array([[0.376, 0.472], [0.624, 0.472], [0.5, 0.620], [0.384, 0.731], [0.616, 0.731]])

# Ellipses, in units of the face (about the distance of the eyes): which landmark, shift right and down from it, width,
# height. Of pairs, the left one; the right one mirrors it. Chosen on aligned photographs against dlib's 68 landmarks.
_PARTS = {
    "eye": ("eye", 0.0, 0.0, 0.62, 0.34),
    "brow": ("eye", -0.02, -0.32, 0.80, 0.30),
    "nose": ("nose", 0.0, -0.12, 0.72, 0.80),
    "mouth": ("mouth", 0.0, 0.0, 0.0, 0.60),
    "lips": ("mouth", 0.0, 0.0, 0.0, 0.36),
    "chin": ("mouth", 0.0, 0.55, 1.20, 0.60),
    "face": ("eyes", 0.0, 0.42, 2.15, 2.80),
    "cheek": ("eye", -0.08, 0.52, 0.50, 0.36),
    "hair": ("eyes", 0.0, -1.38, 1.70, 0.60),
}
_MOUTHS = {"mouth": 1.3, "lips": 1.05}  # widths in units of the mouth's own
_PAIRS = {"eyes": "eye", "brows": "brow", "skin": "cheek"}
FACE_PARTS = (
    *("left_eye", "right_eye", "eyes", "left_brow", "right_brow", "brows", "nose", "mouth", "lips", "chin", "face"),
    *("left_cheek", "right_cheek", "skin", "hair"),
)


def face_part(landmarks: npt.ArrayLike, name: str, size: Size) -> Region:
    """A part of one face, from five landmarks: ellipses in proportion to the face, turned with it.

    Args:
      landmarks: (5, 2) or (68, 2) x, y in pixels of `size`, pixel centres at whole numbers, as from `data.detect`; left
        and right as seen in the image.
      name: left_eye, right_eye, eyes, left_brow, right_brow, brows, nose, mouth (with the skin around it), lips, chin,
        face (hairline to chin), left_cheek, right_cheek, skin (both cheeks, under the eyes, where neither beard nor
        fringe reaches), or hair (a band over the forehead, where hair is unless the head is bald or covered).
      size: side, or (height, width), of the result.

    Returns:
      (H, W).

    Raises:
      RegionError: if no part has this name.
      FaceError: if the landmarks form no face.
    """
    if name not in FACE_PARTS:
        raise RegionError(f"no part of a face is named {name!r}; there are {', '.join(FACE_PARTS)}")
    points = five_points(landmarks) + 0.5
    middle, right, down = _frame(points)
    if name in _PAIRS:
        left, right = (face_part(landmarks, f"{side}_{_PAIRS[name]}", size) for side in ("left", "right"))
        return np.maximum(left, right)
    side, _, single = name.rpartition("_")
    anchor, x, y, width, height = _PARTS[single]
    left_eye, right_eye, nose, left_mouth, right_mouth = points @ np.array([1, 1j])
    at = {
        "eye": left_eye if side == "left" else right_eye,
        "eyes": middle,
        "nose": nose,
        "mouth": (left_mouth + right_mouth) / 2,
    }[anchor]
    at += (-x if side == "right" else x) * right + y * down
    unit = abs(right)
    width = _MOUTHS[name] * abs(right_mouth - left_mouth) if name in _MOUTHS else width * unit
    return ellipse(at.imag, at.real, height * unit, width, size, np.degrees(np.angle(right)))


def _frame(points: np.ndarray) -> tuple[complex, complex, complex]:
    """Middle between the eyes, step to the face's right in the image and step down, both one unit of the face long.

    The unit is FFHQ's: the distance of the eyes, or 0.9 of that from eyes to mouth where that is more, as it is in
    faces that are turned away.
    """
    left_eye, right_eye, _, left_mouth, right_mouth = points @ np.array([1, 1j])
    eyes, across = (left_eye + right_eye) / 2, right_eye - left_eye
    down = (left_mouth + right_mouth) / 2 - eyes
    unit = max(abs(across), 0.9 * abs(down))
    right = across - 1j * down
    if unit < 1 or abs(right) < 1e-6 or (across.conjugate() * down).imag <= 0:
        raise FaceError(f"landmarks {points.round(1).tolist()} form no face seen from the front")
    right *= unit / abs(right)
    return eyes, right, 1j * right
