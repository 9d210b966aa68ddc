"""Regions of an image: a float32 array (H, W) in [0, 1], 1 inside, soft at the edges.

One order everywhere: rows first, counted from the top, then columns. A point (row, column) counts from the left top
corner of the left top pixel, so that pixel i covers i..i + 1, and going to another grid only scales. Landmarks alone
come as their detectors give them: (x, y), pixel centres at whole numbers.

    eyes = box(120, 128, 20, 115)                                  # LowRankGAN's, on its grid of 256
    soft = feather(union(eyes, face_part(landmarks, "mouth")), 4)
    parse("eyes+mouth@4", size=256)                                # the same words on a command line
"""

import math
import os
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from lsap_jax.data import images
from lsap_jax.data import resize as resampling
from lsap_jax.data.align import five_points
from lsap_jax.errors import FaceError, ImageError, RegionError

Region = np.ndarray
Size = int | tuple[int, int]
GRID = 256  # pixels, side of the grid of `NAMED` and of the numbers in `parse`

# Boxes of LowRankGAN and ReSeFa on images in FFHQ's alignment: row and column of the centre, height, width.
NAMED = {
    "left_eye": (120, 95, 20, 38),
    "right_eye": (120, 159, 20, 38),
    "eyes": (120, 128, 20, 115),
    "nose": (142, 131, 40, 46),
    "mouth": (184, 127, 30, 70),
    "chin": (217, 130, 42, 110),
    "left_region": (128, 74, 128, 64),
    "point_eye": (120, 95, 2, 2),
    "point_mouth": (184, 127, 2, 2),
    "eyebrow": (126, 105, 15, 118),
}

# The mean face in FFHQ's alignment, (x, y) in units of the side: MTCNN's points on 108 aligned faces, made even.
MEAN_LANDMARKS = np.array([[0.376, 0.472], [0.624, 0.472], [0.5, 0.620], [0.384, 0.731], [0.616, 0.731]])

_SUBROWS = 4  # lines on which an outline is evaluated within one row
_ELLIPSE = 48  # corners of the polygon that stands for an ellipse
_EDGE = 1e-3  # values closer to 0 or 1 count as such


def box(row: float, column: float, height: float, width: float, size: Size = GRID, grid: float | None = None) -> Region:
    """A rectangle by its centre, in LowRankGAN's convention.

    It covers rows `row - height // 2` up to, not including, `row - height // 2 + height`, and columns likewise; what
    lies beyond the image is cut off. On another grid, pixels at the edge are covered in part.

    Args:
      row: of the centre, in pixels of a grid.
      column: of the centre.
      height: in the same pixels.
      width: likewise.
      size: side, or (height, width), of the result.
      grid: side of the grid that the numbers count on; `size` itself by default.

    Returns:
      (H, W).

    Raises:
      RegionError: if the rectangle has no area, or a number is not finite.
    """
    if not np.isfinite([row, column, height, width]).all() or min(height, width) <= 0:
        raise RegionError(f"a box of height {height} and width {width} about ({row}, {column}); both must be positive")
    coverage = []
    for centre, length, n in zip((row, column), (height, width), _pair(size), strict=True):
        start = (centre - length // 2) * n / (grid or n)
        stop = start + length * n / (grid or n)
        pixels = np.arange(n)
        coverage.append(np.clip(np.minimum(stop, pixels + 1) - np.maximum(start, pixels), 0, 1))
    return np.outer(*coverage).astype(np.float32)


def polygon(points: npt.ArrayLike, size: Size = GRID, grid: float | None = None) -> Region:
    """The inside of a closed outline; where it crosses itself, what an odd number of turns encloses.

    Args:
      points: (N, 2) corners (row, column), N at least 3; they may lie beyond the image.
      size: side, or (height, width), of the result.
      grid: side of the grid that the numbers count on; `size` itself by default.

    Returns:
      (H, W), every pixel by the part of it that is covered: exact along a row, four samples down.

    Raises:
      RegionError: if there are fewer than three finite corners.
    """
    corners = _numbers(points)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise RegionError(f"a polygon of shape {corners.shape}; give at least three finite corners (row, column)")
    height, width = _pair(size)
    corners = corners * np.array([height / (grid or height), width / (grid or width)])

    # Where the outline crosses the middle lines of the subrows: (line, column) for each edge and line.
    line = (np.arange(height * _SUBROWS) + 0.5) / _SUBROWS
    (r0, c0), (r1, c1) = corners.T, np.roll(corners, -1, axis=0).T
    crossed = (r0 <= line[:, None]) != (r1 <= line[:, None])
    at, edge = np.nonzero(crossed)
    column = c0[edge] + (line[at] - r0[edge]) * (c1 - c0)[edge] / (r1 - r0)[edge]

    # A line is crossed an even number of times: inside begins at every first crossing and ends at every second.
    order = np.lexsort((column, at))
    sign = np.where(np.arange(len(at)) % 2, -1, 1)[:, None]
    right = np.clip(np.arange(1, width + 1) - column[order, None], 0, 1)  # part of each pixel right of the crossing
    region = np.zeros((height, width))
    np.add.at(region, at[order] // _SUBROWS, sign * right / _SUBROWS)
    return np.clip(region, 0, 1).astype(np.float32)


def ellipse(row: float, column: float, height: float, width: float, size: Size = GRID, angle: float = 0) -> Region:
    """An ellipse by its centre and axes, in pixels of `size`, turned clockwise by `angle` degrees: (H, W)."""
    turn = np.exp(1j * (np.arange(_ELLIPSE) + 0.5) * 2 * np.pi / _ELLIPSE)
    # The polygon's corners lie a little outside, so that its area is the ellipse's.
    grow = math.sqrt(2 * math.pi / _ELLIPSE / math.sin(2 * math.pi / _ELLIPSE))
    at = grow * (turn.real * width / 2 + 1j * turn.imag * height / 2) * np.exp(1j * np.radians(angle))
    return polygon(np.stack([row + at.imag, column + at.real], axis=1), size)


def from_png(path: str | os.PathLike, size: Size | None = None) -> Region:
    """A mask as an image file: white inside, black outside, grey in between.

    If the file has an alpha channel that is not opaque everywhere, that is the mask (opaque inside), whatever the
    colours.

    Args:
      path: of the file; any format that Pillow reads.
      size: side, or (height, width), of the result; the file's own by default.

    Returns:
      (H, W).

    Raises:
      RegionError: if the file cannot be read, or is coloured and opaque.
    """
    picture = _open(path)
    if picture.has_transparency_data:
        rgba = np.asarray(picture.convert("RGBA"))
        if rgba[..., 3].min() < 255:
            return _sized(rgba[..., 3] / 255, size)
    rgb = _rgb(path)
    if (rgb.max(-1).astype(int) - rgb.min(-1)).max() > 16:  # JPEG leaves a little colour
        raise RegionError(
            f"{path}: a coloured picture is no mask; paint the region white on black, make the rest transparent, or "
            f"name the colour that it is painted in ({os.fspath(path)}=red)"
        )
    return _sized(rgb.mean(-1) / 255, size)


def painted(
    path: str | os.PathLike, colour: str | Sequence[int], size: Size | None = None, tolerance: int = 32
) -> Region:
    """What is painted in one colour, say over a photo.

    Args:
      path: of the file.
      colour: a name or code such as "red", "#f00" or "#ff0000", or red, green, blue in 0..255.
      size: side, or (height, width), of the result; the file's own by default.
      tolerance: greatest difference from the colour in any channel, of 255: brushes smooth their edges.

    Returns:
      (H, W).

    Raises:
      RegionError: if the file cannot be read, or the colour is unknown or nowhere in it.
    """
    try:
        wanted = np.array(ImageColor.getrgb(colour) if isinstance(colour, str) else tuple(colour), int)[:3]
    except ValueError:
        raise RegionError(f"{colour!r} is no colour; write a name such as red, or a code such as #ff0000") from None
    if wanted.shape != (3,) or wanted.min() < 0 or wanted.max() > 255:
        raise RegionError(f"colour {colour!r}; give red, green and blue in 0..255")
    hit = np.abs(_rgb(path).astype(int) - wanted).max(-1) <= tolerance
    if not hit.any():
        raise RegionError(f"{path}: nothing in it is painted in {colour} (within {tolerance} of 255 in every channel)")
    return _sized(hit, size)


def labels(path: str | os.PathLike, numbers: Sequence[int], size: Size | None = None) -> Region:
    """Some labels of a segmentation that is stored as an image whose grey level or palette index is the label.

    The labels are compared at the file's own size, so resizing never mixes two numbers into a third.

    Args:
      path: of the file.
      numbers: the labels inside; in CelebAMask's order of 19 classes 4 and 5 are the eyes, 10 the mouth, 13 the hair.
      size: side, or (height, width), of the result; the file's own by default.

    Returns:
      (H, W).

    Raises:
      RegionError: if the file cannot be read or is coloured, or has none of the labels.
    """
    picture = _open(path)
    if picture.mode not in ("1", "L", "P", "I", "I;16"):
        raise RegionError(
            f"{path}: {picture.mode} pixels hold no labels; save the segmentation as grey or with palette"
        )
    values = np.asarray(picture)
    hit = np.isin(values, list(numbers))
    if not hit.any():
        there = ", ".join(map(str, np.unique(values)[:30].tolist()))
        raise RegionError(f"{path}: no pixel has label {', '.join(map(str, numbers))}; there are {there}")
    return _sized(hit, size)


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


def face_part(landmarks: npt.ArrayLike, name: str, size: Size = GRID) -> Region:
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
        return union(*(face_part(landmarks, f"{side}_{_PAIRS[name]}", size) for side in ("left", "right")))
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


def union(*regions: Region) -> Region:
    """Inside of any: the greatest value at every pixel. Soft regions stay soft, and none counts twice.

    Raises:
      RegionError: if there are none, or of different sizes.
    """
    return np.maximum.reduce(_alike(regions))


def intersection(*regions: Region) -> Region:
    """Inside of all: the least value at every pixel.

    Raises:
      RegionError: if there are none, or of different sizes.
    """
    return np.minimum.reduce(_alike(regions))


def complement(region: Region) -> Region:
    """The rest of the image."""
    return 1 - region


def feather(region: Region, radius: float) -> Region:
    """Soften the edges by a Gaussian whose standard deviation is `radius` pixels; 0 leaves them as they are.

    An edge then falls from 0.84 to 0.16 within `radius` on either side. The image's border is no edge: a region that
    touches it goes on beyond it.

    Raises:
      RegionError: if the radius is negative or not finite.
    """
    if not 0 <= radius < math.inf:
        raise RegionError(f"feather of {radius} pixels; it must be 0 or more")
    if radius == 0:
        return region
    rows, columns = (_gaussian(n, radius) for n in region.shape)
    return np.clip(rows @ region.astype(np.float64) @ columns.T, 0, 1).astype(np.float32)


def resize(region: Region, size: Size) -> Region:
    """To another grid: by the mean over the area of each pixel when shrinking, bilinearly when growing.

    The covered part of the image stays the same when shrinking, and up to what lies along the border when growing.
    """
    return np.clip(np.asarray(resampling.area(region[..., None], _pair(size)))[..., 0], 0, 1)


def check(region: npt.ArrayLike, name: str = "the region") -> Region:
    """Refuse what is no region, or divides the image into nothing and everything.

    Args:
      region: (H, W).
      name: for the message.

    Returns:
      it as a float32 array.

    Raises:
      RegionError: if it is no array (H, W) of finite numbers in [0, 1], or nothing is inside, or nothing outside.
    """
    region = _numbers(region).astype(np.float32)
    if region.ndim != 2:
        raise RegionError(f"{name} has shape {region.shape}; a region is (rows, columns)")
    if not np.isfinite(region).all() or region.min(initial=0) < 0 or region.max(initial=0) > 1:
        raise RegionError(f"{name} holds values outside of 0..1; divide masks of 8 bits by 255")
    if region.max(initial=0) < _EDGE:
        raise RegionError(f"{name} is empty: nothing lies inside of it; move or enlarge it")
    if region.min() > 1 - _EDGE:
        raise RegionError(f"{name} is the whole image: nothing lies outside of it; make it smaller")
    return region


def parse(spec: str, size: Size = GRID, landmarks: npt.ArrayLike | None = None) -> Region:
    """A region in words, for command lines: parts joined by "+".

        eyes                      a name: the part of the face where landmarks are given, else LowRankGAN's box on
                                  aligned faces, or the part of the mean aligned face
        box:120,128,20,115        row, column, height, width        polygon:60,40,90,200,200,128   rows and columns
        mask.png                  see `from_png`
        labels.png#4,5            see `labels`
        painted.png=red           see `painted`
        ~eyes                     everything but; of one part
        eyes@6                    feathered by 6 pixels; of one part

    All numbers count pixels of a grid of 256 (for rectangular sizes, of 256 by 256 cells).

    Args:
      spec: the words.
      size: side, or (height, width), of the result.
      landmarks: (5, 2) or (68, 2) x, y of the face in pixels of `size`.

    Returns:
      (H, W), neither empty nor full.

    Raises:
      RegionError: if a word is not understood, a file cannot be used, or the region is empty or full.
    """
    parts = [_term(term.strip(), size, landmarks) for term in spec.split("+")]
    return check(union(*parts), f"the region {spec!r}")


_TERM = re.compile(r"(?P<complement>~?)(?P<atom>[^@~]+)(?:@(?P<feather>[\d.]+))?")
_NUMBERS = re.compile(r"(?P<kind>box|polygon):(?P<numbers>.*)")
_FILE = re.compile(r"(?P<path>.+?\.\w+)(?:#(?P<labels>[\d,\s]+)|=(?P<colour>[#\w]+))?")


def _term(term: str, size: Size, landmarks: npt.ArrayLike | None) -> Region:
    match = _TERM.fullmatch(term)
    if match is None:
        raise RegionError(f"region {term!r}: write [~]NAME, box:..., or FILE, then [@PIXELS] to feather")
    region = _atom(match["atom"].strip(), size, landmarks)
    if match["feather"]:
        region = feather(region, _number(match["feather"], term) * max(_pair(size)) / GRID)
    return complement(region) if match["complement"] else region


def _atom(atom: str, size: Size, landmarks: npt.ArrayLike | None) -> Region:
    if match := _NUMBERS.fullmatch(atom):
        numbers = [_number(number, atom) for number in match["numbers"].split(",")]
        if match["kind"] == "box":
            if len(numbers) != 4:
                raise RegionError(f"{atom!r}: a box is box:ROW,COLUMN,HEIGHT,WIDTH, its centre first")
            return box(*numbers, size, GRID)
        if len(numbers) % 2:
            raise RegionError(f"{atom!r}: a polygon is polygon:ROW,COLUMN,ROW,COLUMN,...")
        return polygon(np.reshape(numbers, (-1, 2)), size, GRID)
    if landmarks is not None and atom in FACE_PARTS:
        return face_part(landmarks, atom, size)
    if atom in NAMED:
        return box(*NAMED[atom], size, GRID)
    if atom in FACE_PARTS:
        height, width = _pair(size)
        return face_part(MEAN_LANDMARKS * np.array([width, height]) - 0.5, atom, size)
    match = _FILE.fullmatch(atom)
    if match is None:
        names = ", ".join(dict.fromkeys([*NAMED, *FACE_PARTS]))
        raise RegionError(f"no region is named {atom!r}, and it is no file; there are {names}")
    if match["labels"]:
        return labels(match["path"], [int(_number(n, atom)) for n in match["labels"].split(",")], size)
    if match["colour"]:
        return painted(match["path"], match["colour"], size)
    return from_png(match["path"], size)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RegionError(f"{where!r}: {text.strip()!r} is no number") from None


def _numbers(values: npt.ArrayLike) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise RegionError("a region or outline must be an array of numbers") from None


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int | np.integer) else size
    if min(height, width) < 1:
        raise RegionError(f"a region of {height} x {width} pixels; both must be at least 1")
    return int(height), int(width)


def _alike(regions: Sequence[Region]) -> Sequence[Region]:
    shapes = {region.shape for region in regions}
    if len(shapes) != 1:
        raise RegionError(f"regions of sizes {sorted(shapes)} cannot be joined; resize them to one")
    return regions


def _gaussian(n: int, sigma: float) -> np.ndarray:
    """(n, n) rows of weights; what they would put beyond either end goes to the pixel at that end."""
    edges = np.arange(n + 1) - np.arange(n)[:, None] - 0.5
    below = np.vectorize(math.erf)(edges / (sigma * math.sqrt(2))) / 2 + 0.5
    below[:, 0], below[:, -1] = 0, 1
    return np.diff(below, axis=1)


def _sized(values: np.ndarray, size: Size | None) -> Region:
    region = values.astype(np.float32)
    return region if size is None else resize(region, size)


def _rgb(path: str | os.PathLike) -> np.ndarray:
    try:
        return images.read(path)
    except ImageError as error:
        raise RegionError(str(error)) from error


def _open(path: str | os.PathLike) -> Image.Image:
    """The file as it is: its palette indices and its alpha channel are not `images.read`'s business."""
    _rgb(path)  # refuses what is no image, with its reason
    with Image.open(path) as picture:
        picture.load()
        return picture.copy()
