"""Regions of an image: a float32 array (H, W) in [0, 1], 1 inside, soft at the edges.

Shapes come from `data.outlines` (box, polygon) and `data.face_parts` (face_part), and are names of this module too;
here are masks from files, what regions can be joined to, and a language for command lines.

One order everywhere: rows first, counted from the top, then columns. A point (row, column) counts from the left top
corner of the left top pixel, so that pixel i covers i..i + 1, and going to another grid only scales. Landmarks alone
come as their detectors give them: (x, y), pixel centres at whole numbers.

    eyes = box(120, 128, 20, 115, size=256)                        # LowRankGAN's
    soft = feather(union(eyes, face_part(landmarks, "mouth", 256)), 4)
    parse("eyes+mouth@4", size=256)                                # the same words on a command line
"""

import math
import os
import re
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from lsap_jax.data import images
from lsap_jax.data import resize as resampling
from lsap_jax.data.face_parts import FACE_PARTS, MEAN_LANDMARKS, face_part
from lsap_jax.data.outlines import Region, Size, box, height_and_width, numbers, polygon
from lsap_jax.errors import ImageError, RegionError

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

_EDGE = 1e-3  # values closer to 0 or 1 count as such


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
    return np.clip(np.asarray(resampling.area(jnp.asarray(region[..., None]), height_and_width(size)))[..., 0], 0, 1)


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
    region = numbers(region).astype(np.float32)
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
        region = feather(region, _number(match["feather"], term) * max(height_and_width(size)) / GRID)
    return complement(region) if match["complement"] else region


def _atom(atom: str, size: Size, landmarks: npt.ArrayLike | None) -> Region:
    if match := _NUMBERS.fullmatch(atom):
        values = [_number(number, atom) for number in match["numbers"].split(",")]
        if match["kind"] == "box":
            if len(values) != 4:
                raise RegionError(f"{atom!r}: a box is box:ROW,COLUMN,HEIGHT,WIDTH, its centre first")
            row, column, height, width = values
            return box(row, column, height, width, size, GRID)
        if len(values) % 2:
            raise RegionError(f"{atom!r}: a polygon is polygon:ROW,COLUMN,ROW,COLUMN,...")
        return polygon(np.reshape(values, (-1, 2)), size, GRID)
    if landmarks is not None and atom in FACE_PARTS:
        return face_part(landmarks, atom, size)
    if atom in NAMED:
        return box(*NAMED[atom], size, GRID)
    if atom in FACE_PARTS:
        height, width = height_and_width(size)
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
