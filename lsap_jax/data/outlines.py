"""Shapes drawn on a grid: every pixel of a float32 array (H, W) by the part of it that is covered.

Rows first, counted from the top, then columns. A point (row, column) counts from the left top corner of the left top
pixel, so that pixel i covers i..i + 1, and going to another grid only scales.
"""

import math

import numpy as np
import numpy.typing as npt

from lsap_jax.errors import RegionError

Region = np.ndarray
Size = int | tuple[int, int]

_SUBROWS = 4  # lines on which an outline is evaluated within one row
_ELLIPSE = 48  # corners of the polygon that stands for an ellipse


def box(row: float, column: float, height: float, width: float, size: Size, grid: float | None = None) -> Region:
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
    for centre, length, n in zip((row, column), (height, width), height_and_width(size), strict=True):
        start = (centre - length // 2) * n / (grid or n)
        stop = start + length * n / (grid or n)
        pixels = np.arange(n)
        coverage.append(np.clip(np.minimum(stop, pixels + 1) - np.maximum(start, pixels), 0, 1))
    return np.outer(*coverage).astype(np.float32)


def polygon(points: npt.ArrayLike, size: Size, grid: float | None = None) -> Region:
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
    corners = numbers(points)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise RegionError(f"a polygon of shape {corners.shape}; give at least three finite corners (row, column)")
    height, width = height_and_width(size)
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


def ellipse(row: float, column: float, height: float, width: float, size: Size, angle: float = 0) -> Region:
    """An ellipse by its centre and axes, in pixels of `size`, turned clockwise by `angle` degrees: (H, W)."""
    turn = np.exp(1j * (np.arange(_ELLIPSE) + 0.5) * 2 * np.pi / _ELLIPSE)
    # The polygon's corners lie a little outside, so that its area is the ellipse's.
    grow = math.sqrt(2 * math.pi / _ELLIPSE / math.sin(2 * math.pi / _ELLIPSE))
    at = grow * (turn.real * width / 2 + 1j * turn.imag * height / 2) * np.exp(1j * np.radians(angle))
    return polygon(np.stack([row + at.imag, column + at.real], axis=1), size)


def numbers(values: npt.ArrayLike) -> np.ndarray:
    """Any nested numbers as float64.

    Raises:
      RegionError: if they are none.
    """
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise RegionError("a region or outline must be an array of numbers") from None


def height_and_width(size: Size) -> tuple[int, int]:
    """A size as (height, width).

    Raises:
      RegionError: if one is below 1.
    """
    height, width = (size, size) if isinstance(size, int | np.integer) else size
    if min(height, width) < 1:
        raise RegionError(f"a region of {height} x {width} pixels; both must be at least 1")
    return int(height), int(width)
