"""Attributes of aligned face images as numbers: pose, mouth, eyes, hair and skin, measured by landmarks and regions.

    measured = attributes.load(landmarks68=True)
    measured.names          # ("yaw", "pitch", ...)
    measured(images)        # (B, K), NaN where no face was found

Geometry is in the face's own axes, so none of it but `roll` changes when the image is turned. Lengths are in units of
the distance between the eyes; left and right are as seen in the image. Colours are of the image's own values (sRGB)
brought to 0..1, and averaged over soft regions (`data.face_parts`). From five points, MTCNN's, or dlib's where
they are asked for: those are twice as steady (between 50 faces and their mirror images yaw differs by 1.1 degrees
against 2.5, of a spread of 20; pitch by 1.1 against 2.9; mouth_width by 0.02 against 0.04):

* yaw: degrees by which the face turns to the image's right. With the nose's tip o to the right of the line from between
  the eyes to the middle of the mouth, along the line of the eyes, it is atan(o / 0.4): the tip stands 0.4 in front of
  the plane of eyes and mouth. Exact for a distant camera and a face of these proportions; otherwise monotonic.
* pitch: degrees by which it looks up, likewise from the height of the tip, 0 for FFHQ's mean face.
* roll: degrees by which the line of the eyes is turned clockwise as seen. Small in aligned images, by construction.
* mouth_width: distance of the mouth's corners.

From dlib's 68 (an optional asset: its licence excludes commercial use), which follow eyelids and lips:

* mouth_open: gap between the inner lips, mean of three places, over the width of the mouth.
* eyes_open: height over width of the opening between the lids (eye aspect ratio, Soukupova & Cech 2016), mean of both.
* smile: how high the mouth's corners stand above the middle of the inner lips, plus half the mouth's width: the two
  deviate about as much from face to face. Looking down raises it too.
* brow_raise: height of the brows above the eyes' corners, mean over both.

From regions:

* brightness: mean luma 0.2126 R + 0.7152 G + 0.0722 B of the whole image; needs no face.
* hair_brightness: mean luma of a band over the forehead, centred 1.4 above the eyes. FFHQ's alignment keeps that band
  in the frame, and it lies between hairline and crown of most heads; of a bald or covered one it measures that instead.
* skin_brightness, skin_redness: mean luma, and R / (R + G + B), of the cheeks under the eyes. Grey is 1/3.
* mouth_redness: R / (R + G + B) of the lips, with whatever shows between them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from lsap_jax import pretrained
from lsap_jax.data import detect, resize
from lsap_jax.data.align import five_points
from lsap_jax.data.face_parts import MEAN_LANDMARKS, face_part
from lsap_jax.data.images import to_uint8
from lsap_jax.errors import FaceError, ImageError
from lsap_jax.networks import dlib_landmarks

SIDE = 256  # pixels, of the images that are measured
POSE = ("yaw", "pitch", "roll", "mouth_width")
LIDS_AND_LIPS = ("mouth_open", "eyes_open", "smile", "brow_raise")
COLOURS = ("brightness", "hair_brightness", "skin_brightness", "skin_redness", "mouth_redness")

_COLOUR_SIDE = 128  # pixels, of the grid that colours are averaged on
_SMALLEST_FACE = 60  # pixels of SIDE; an aligned face has about 130
_STRAY = 0.2  # of the side; a face whose points lie further from the mean aligned face is a bystander
_LUMA = np.array([0.2126, 0.7152, 0.0722])
_DEPTH = 0.4  # of the nose's tip before the plane of eyes and mouth, in distances of the eyes
_LENGTH = 1.04  # from between the eyes to the mouth, in the same unit, mean of FFHQ
_TIP = 0.57  # of that length down to the nose's tip, mean of FFHQ


@dataclasses.dataclass(frozen=True)
class Attributes:
    """Named measures of images.

    Attributes:
      names: K of them.
      measure: (B, H, W, 3) in [-1, 1] -> (B, K) float32, NaN where something cannot be measured.
    """

    names: tuple[str, ...]
    measure: Callable[[jax.Array | np.ndarray], np.ndarray]

    def __call__(self, images: jax.Array | np.ndarray) -> np.ndarray:
        """Apply `measure`."""
        return self.measure(images)


def load(landmarks68: bool = False) -> Attributes:
    """The attributes of this module, with detectors fetched on first use.

    Args:
      landmarks68: measure lids, lips and brows too, by dlib's 68 landmarks, which are for non-commercial use.

    Raises:
      FetchError: if a detector cannot be fetched.
    """
    mtcnn, _ = pretrained.load("mtcnn")
    return attributes(mtcnn, pretrained.load("dlib-landmarks-68")[0] if landmarks68 else None)


def attributes(mtcnn: Mapping[str, Any], predictor: Mapping[str, np.ndarray] | None = None) -> Attributes:
    """The attributes of this module.

    An image is reduced to 256 pixels a side first. The rest takes about 40 ms of processor time, 30 of them for the
    detector, whatever the image's size.

    Args:
      mtcnn: params of the face detector.
      predictor: params of dlib's 68 landmarks; without them, what needs them is left out.

    Returns:
      the record; it raises ImageError for images that are not square floats (B, H, W, 3).
    """
    names = (*POSE, *(LIDS_AND_LIPS if predictor is not None else ()), *COLOURS)

    def measure(images: jax.Array | np.ndarray) -> np.ndarray:
        images = resize.as_images(images)
        if images.shape[1] != images.shape[2]:
            raise ImageError(f"images of shape {images.shape}: attributes are measured on aligned, square face images")
        pixels = to_uint8(np.asarray(resize.area(images, SIDE)))
        rows = np.empty((len(pixels), len(names)), np.float32)
        for i, image in enumerate(pixels):
            values = _of_one(mtcnn, predictor, image)
            rows[i] = [values.get(name, np.nan) for name in names]
        return rows

    return Attributes(names, measure)


def face_points(mtcnn: Mapping[str, Any], image: np.ndarray) -> np.ndarray | None:
    """Five landmarks of the face that an aligned image is of: the one nearest to where the alignment puts faces.

    Args:
      mtcnn: params of the face detector.
      image: (S, S, 3) uint8.

    Returns:
      (5, 2) x, y in pixels, or None if no face lies there.
    """
    side = len(image)
    expected = MEAN_LANDMARKS * side - 0.5
    found = detect.detect(mtcnn, image, min_size=side * _SMALLEST_FACE / SIDE)
    points = min((face.landmarks for face in found), key=lambda p: _distance(p, expected), default=None)
    return points if points is not None and _distance(points, expected) <= _STRAY * side else None


def pose(points: np.ndarray) -> dict[str, float]:
    """`POSE` from five landmarks (5, 2) x, y.

    Raises:
      FaceError: if the points form no face.
    """
    left_eye, right_eye, nose, left_mouth, right_mouth = np.asarray(points, np.float64)
    across, eyes = right_eye - left_eye, (left_eye + right_eye) / 2
    down = (left_mouth + right_mouth) / 2 - eyes
    if across[0] * down[1] - across[1] * down[0] <= 0:
        raise FaceError(f"landmarks {np.round(points, 1).tolist()} form no face seen from the front")
    aside, along = np.linalg.solve(np.stack([across, down], axis=1), nose - eyes)
    return {
        "yaw": float(np.degrees(np.arctan(aside / _DEPTH))),
        "pitch": float(np.degrees(np.arctan((_TIP - along) * _LENGTH / _DEPTH))),
        "roll": float(np.degrees(np.arctan2(across[1], across[0]))),
        "mouth_width": float(np.hypot(*(right_mouth - left_mouth)) / np.hypot(*across)),
    }


def lids_and_lips(points: np.ndarray) -> dict[str, float]:
    """`LIDS_AND_LIPS` from iBUG's 68 landmarks (68, 2) x, y."""
    p = np.asarray(points, np.float64)
    across = p[42:48].mean(0) - p[36:42].mean(0)
    eye_distance = np.hypot(*across)
    down = np.array([-across[1], across[0]]) / eye_distance
    width = _distance(p[48], p[54])
    lids = [
        (_distance(p[i + 1], p[i + 5]) + _distance(p[i + 2], p[i + 4])) / (2 * _distance(p[i], p[i + 3]))
        for i in (36, 42)
    ]
    lift = ((p[62] + p[66]) / 2 - (p[48] + p[54]) / 2) @ down
    brows = (p[[36, 39, 42, 45]].mean(0) - p[17:27].mean(0)) @ down
    return {
        "mouth_open": float(sum(max((p[lower] - p[upper]) @ down, 0) for upper, lower in _LIPS) / len(_LIPS) / width),
        "eyes_open": float(np.mean(lids)),
        "smile": float((lift + width / 2) / eye_distance),
        "brow_raise": float(brows / eye_distance),
    }


_LIPS = ((61, 67), (62, 66), (63, 65))  # upper and lower inner lip, one over the other


def _of_one(mtcnn: Any, predictor: Any, image: np.ndarray) -> dict[str, float]:
    """What can be measured on one image (SIDE, SIDE, 3) of uint8."""
    cell = SIDE // _COLOUR_SIDE
    colours = image.reshape(_COLOUR_SIDE, cell, _COLOUR_SIDE, cell, 3).mean((1, 3)) / 255
    values = {"brightness": float(colours.mean((0, 1)) @ _LUMA)}
    points = face_points(mtcnn, image)
    if points is None:
        return values
    try:
        if predictor is not None:
            fine = dlib_landmarks.landmarks(predictor, image, dlib_landmarks.box_from_points(predictor, points))
            points = five_points(fine)
            values |= lids_and_lips(fine)
        values |= pose(points)
        parts = {name: _mean(colours, points, name) for name in ("hair", "skin", "lips")}
    except FaceError:  # points that no face seen from the front can have
        return {"brightness": values["brightness"]}
    for name in ("hair", "skin"):
        values[f"{name}_brightness"] = float(parts[name] @ _LUMA)
    values["skin_redness"] = _redness(parts["skin"])
    values["mouth_redness"] = _redness(parts["lips"])
    return values


def _mean(colours: np.ndarray, points: np.ndarray, name: str) -> np.ndarray:
    """Mean colour (3,) of a part of the face; NaN where it lies outside of the image."""
    scaled = (points + 0.5) * (_COLOUR_SIDE / SIDE) - 0.5
    region = face_part(scaled, name, _COLOUR_SIDE)
    total = region.sum()
    return np.einsum("yx,yxc->c", region, colours) / total if total > 1 else np.full(3, np.nan)


def _redness(colour: np.ndarray) -> float:
    """R / (R + G + B); black counts as grey."""
    return float((colour[0] + 1e-3) / (colour.sum() + 3e-3))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of points (..., 2)."""
    return float(np.linalg.norm(a - b, axis=-1).mean())
