"""The FFHQ crop: from landmarks of one face to the square the generators were trained on.

Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks", 2019 (arXiv 1812.04948),
appendix C: an oriented square from the eyes and the mouth, cut from the photo, its missing parts filled by mirroring
the photo and fading that into a blur and then into one colour.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageStat

from lsap_jax.data.images import SMALLEST_SIDE, check_pixels, name_below
from lsap_jax.errors import FaceError

ALIGNED_WITHIN = 0.1  # of the side; see `looks_aligned`

_SUPERSAMPLING = 4  # samples per output pixel and axis before the antialiased reduction


def five_points(landmarks: npt.ArrayLike) -> np.ndarray:
    """The five points that alignment needs, from five or from iBUG's 68 (dlib's order).

    Args:
      landmarks: (5, 2) or (68, 2) x, y in pixels.

    Returns:
      (5, 2) float64: left eye, right eye, tip of the nose, left and right corner of the mouth, as seen in the image.

    Raises:
      FaceError: if there are neither 5 nor 68 points, or one is not finite.
    """
    try:
        points = np.asarray(landmarks, np.float64)
    except (TypeError, ValueError):
        raise FaceError("landmarks must be a list of [x, y] pairs of numbers") from None
    if points.shape not in ((5, 2), (68, 2)):
        raise FaceError(f"landmarks of shape {points.shape}; give 5 or 68 points [x, y] for each face")
    if not np.isfinite(points).all():
        raise FaceError("a landmark is not a finite number; leave that face out or correct it")
    if len(points) == 5:
        return points
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


def ffhq_quad(landmarks: npt.ArrayLike, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The square that FFHQ would cut out for a face.

    With e the vector from eye to eye, m from between the eyes to between the mouth's corners, and J a quarter turn,
    the half side x points along e - J m and is max(2 |e|, 1.8 |m|) long; the centre lies m / 10 below the eyes.

    Args:
      landmarks: (5, 2) or (68, 2) x, y in pixels, pixel centres at integers.
      shape: (H, W, ...) of the image, to refuse a face whose centre is not in it.

    Returns:
      (4, 2) corners: top left, bottom left, bottom right, top right of the upright face.

    Raises:
      FaceError: if the points are no face: too close together, left and right exchanged, or outside of the image.
    """
    points = five_points(landmarks)
    left_eye, right_eye, _, left_mouth, right_mouth = points
    eyes = (left_eye + right_eye) / 2
    eye_to_eye = right_eye - left_eye
    eye_to_mouth = (left_mouth + right_mouth) / 2 - eyes
    if eye_to_eye[0] * eye_to_mouth[1] - eye_to_eye[1] * eye_to_mouth[0] <= 0:
        raise FaceError(
            "the landmarks form no face seen from the front; the order is left eye, right eye, nose, left mouth "
            "corner, right mouth corner, left and right as seen in the image"
        )
    x, y = points.mean(axis=0)
    if shape is not None and not (0 <= x < shape[1] and 0 <= y < shape[0]):
        raise FaceError(
            f"the landmarks' centre ({x:.0f}, {y:.0f}) lies outside of the {shape[1]} x {shape[0]} image; they must be "
            "in pixels of this image, after its EXIF rotation"
        )
    x = eye_to_eye - _quarter_turn(eye_to_mouth)
    half = max(2.0 * np.hypot(*eye_to_eye), 1.8 * np.hypot(*eye_to_mouth))
    if 2 * half < SMALLEST_SIDE:
        raise FaceError(f"the landmarks span a face crop of {2 * half:.0f} pixels; at least {SMALLEST_SIDE} are needed")
    x *= half / np.hypot(*x)
    y = _quarter_turn(x)
    centre = eyes + 0.1 * eye_to_mouth
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def _quarter_turn(v: np.ndarray) -> np.ndarray:
    """Right becomes down, down becomes left."""
    return np.array([-v[1], v[0]])


def quad_side(quad: np.ndarray) -> float:
    """Side of a quad of `ffhq_quad`, in pixels."""
    return float(np.hypot(*(quad[3] - quad[0])))


def ffhq_align(image: np.ndarray, landmarks: npt.ArrayLike, size: int = 1024) -> np.ndarray:
    """Cut out and turn upright one face as in FFHQ.

    Args:
      image: (H, W, 3) uint8.
      landmarks: (5, 2) or (68, 2) x, y in pixels of the image.
      size: side of the result, in pixels.

    Returns:
      (size, size, 3) uint8.

    Raises:
      FaceError: if the landmarks are no face, or lie outside of the image.
      ImageError: if `image` is not (H, W, 3) uint8.
    """
    check_pixels(image)
    height, width = image.shape[:2]
    quad = ffhq_quad(landmarks, image.shape)
    picture = Image.fromarray(image)
    side = quad_side(quad)

    # A face much larger than the result: reduce first, so that supersampling suffices below.
    shrink = int(side / size / 2)
    if shrink > 1:
        picture = picture.resize((round(width / shrink), round(height / shrink)), Image.Resampling.LANCZOS)
        quad, side = quad / shrink, side / shrink

    # Only the square's surroundings matter, for speed and for the colour of the filling.
    border = max(round(side * 0.1), 3)
    low, high = np.floor(quad.min(axis=0)).astype(int), np.ceil(quad.max(axis=0)).astype(int)
    corner = np.maximum(low - border, 0)
    picture = picture.crop((*corner.tolist(), *np.minimum(high + border, picture.size).tolist()))
    quad, low, high = quad - corner, low - corner, high - corner

    missing = np.concatenate([np.maximum(border - low, 0), np.maximum(high + border - picture.size, 0)])
    if missing.max() > border - 4:
        missing = np.maximum(missing, round(side * 0.3))
        picture = _extend(picture, missing.tolist(), blur=side * 0.02)
        quad = quad + missing[:2]

    fine = (_SUPERSAMPLING * size, _SUPERSAMPLING * size)
    corners = (quad + 0.5).flatten().tolist()  # from pixel centres to Pillow's pixel corners
    picture = picture.transform(fine, Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))


def _extend(picture: Image.Image, margins: list[int], blur: float) -> Image.Image:
    """Mirror a picture outwards, ever more blurred and then fading into its median colour.

    Args:
      picture: RGB.
      margins: pixels to add left, top, right, bottom; at least 1 each.
      blur: standard deviation in pixels.

    Returns:
      the picture, larger by the margins.
    """
    left, top, right, bottom = margins

    def depth(n: int, before: int, after: int) -> np.ndarray:
        """1 at either end, 0 where the picture begins, falling further inside of it."""
        i = np.arange(n, dtype=np.float32)
        return 1 - np.minimum(i / before, (n - 1 - i) / after)

    def faded(below: Image.Image, above: Image.Image, weight: np.ndarray) -> Image.Image:
        weight = np.rint(255 * np.clip(weight, 0, 1)).astype(np.uint8)
        return Image.composite(above, below, Image.fromarray(weight))

    picture = Image.fromarray(np.pad(np.asarray(picture), ((top, bottom), (left, right), (0, 0)), "reflect"))
    columns, rows = depth(picture.width, left, right), depth(picture.height, top, bottom)
    outside = np.maximum(rows[:, None], columns[None, :])
    picture = faded(picture, picture.filter(ImageFilter.GaussianBlur(blur)), 3 * outside + 1)
    median = tuple(ImageStat.Stat(picture).median)
    return faded(picture, Image.new("RGB", picture.size, median), outside)


def looks_aligned(image: np.ndarray, landmarks: npt.ArrayLike, tolerance: float = ALIGNED_WITHIN) -> bool:
    """Whether an image is an FFHQ-like crop already: square, and FFHQ's square for its face nearly the whole frame.

    Crops made with 68 landmarks deviate in their worst corner by 0.01 to 0.07 of the side from what MTCNN's five say
    (measured on eight); a portrait that merely happens to be square by far more (0.74).

    Args:
      image: (H, W, 3).
      landmarks: (5, 2) or (68, 2) x, y in pixels of the image.
      tolerance: greatest distance of a corner of FFHQ's square from the frame's corner, as part of the side.

    Returns:
      a bool; False too if the landmarks form no face.
    """
    side = image.shape[0]
    if image.shape[1] != side:
        return False
    try:
        quad = ffhq_quad(landmarks)
    except FaceError:
        return False
    frame = np.array([[0, 0], [0, side], [side, side], [side, 0]]) - 0.5
    return bool(np.hypot(*(quad - frame).T).max() <= tolerance * side)


def load_landmarks(path: str | os.PathLike) -> dict[str, list[np.ndarray]]:
    """Read landmarks that a person or another detector supplied.

    The file holds one JSON object: the name of each image, as its path below the images' folder with "/" or as its
    bare file name, and one face or a list of faces. A face is 5 points [x, y] (left eye, right eye, nose, left and
    right mouth corner, as seen in the image) or iBUG's 68, in pixels of the image after its EXIF rotation:

        {"anna.jpg": [[385, 240], [460, 239], [420, 290], [390, 330], [455, 329]]}

    Returns:
      for each name its faces, as arrays (5, 2).

    Raises:
      FaceError: if the file is missing or no JSON, or an entry is no face; the message names the entry.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FaceError(f"{path}: landmarks cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise FaceError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(content, dict):
        raise FaceError(f'{path}: must be an object {{"file name": [[x, y], ...5 or 68 points]}}')
    return {name: _faces(entry, f"{path}: {name!r}") for name, entry in content.items()}


def _faces(entry: object, where: str) -> list[np.ndarray]:
    """One face or a list of faces, as JSON gives them -> arrays (5, 2)."""
    if not isinstance(entry, list):
        raise FaceError(f"{where}: must be a list of points, or a list of faces")
    is_several = all(isinstance(face, list) and face and isinstance(face[0], list) for face in entry)
    try:
        faces = [five_points(face) for face in (entry if is_several else [entry])]
        for face in faces:
            ffhq_quad(face)  # refuse impossible faces here, where the file can be named
    except FaceError as error:
        raise FaceError(f"{where}: {error}") from None
    return faces


def match_landmarks(
    landmarks: Mapping[str, list[np.ndarray]], paths: Sequence[pathlib.Path], root: str | os.PathLike
) -> tuple[dict[pathlib.Path, list[np.ndarray]], list[str]]:
    """Which landmarks of a file belong to which images.

    Args:
      landmarks: of `load_landmarks`.
      paths: the images, of `images.list_images(root)`.
      root: the folder that was listed, or the one file itself.

    Returns:
      ({image: its faces}, names in the file that are none of the images).

    Raises:
      FaceError: if a bare file name fits several images.
    """
    by_path, by_name = {}, {}
    for path in paths:
        by_path[name_below(path, root)] = path
        by_name.setdefault(path.name, []).append(path)
    matched, unknown = {}, []
    for name, faces in landmarks.items():
        candidates = [by_path[name]] if name in by_path else by_name.get(name, [])
        if len(candidates) > 1:
            raise FaceError(
                f"landmarks for {name!r}: {len(candidates)} images have this name; write the path below {root}, such "
                f"as {name_below(candidates[0], root)!r}"
            )
        if not candidates:
            unknown.append(name)
        for path in candidates:
            matched[path] = faces
    return matched, unknown
