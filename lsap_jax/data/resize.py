"""Resampling of image arrays: pure, differentiable, the same on every backend.

Everything here is linear in the image and separable, so a resize is two small matrix products (or a mean
over blocks). Images are (..., H, W, C); sizes are a side in pixels or (height, width).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.errors import ImageError

Size = int | tuple[int, int]
_MOST_SLICES = 32  # a larger factor would make a long program


def as_images(images: jax.Array | np.ndarray, name: str = "images") -> jax.Array:
    """Check and convert a batch: (B, H, W, 3) floats in [-1, 1] -> the same as float32.

    Raises:
      ImageError: if the array has another rank or channel count, or holds integers (0..255 would silently be
        taken for [-1, 1]).
    """
    if jnp.ndim(images) != 4 or images.shape[-1] != 3:
        raise ImageError(f"{name} have shape {jnp.shape(images)}; they must be (B, H, W, 3)")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ImageError(f"{name} are {images.dtype}; they must be floats in [-1, 1]: x / 127.5 - 1 for 8-bit images")
    return jnp.asarray(images, jnp.float32)


def area(images: jax.Array, size: Size) -> jax.Array:
    """Resize by the mean over the area that each output pixel covers; an axis that grows is interpolated.

    For whole-number factors this is the exact box mean (`adaptive_avg_pool2d` and OpenCV's INTER_AREA agree
    with it there); otherwise pixels on a border count by the part that is covered, as in INTER_AREA. An axis
    whose output is larger than its input is resized bilinearly (half-pixel centres), since an area mean
    would only repeat pixels.

    Args:
      images: (..., H, W, C).
      size: side, or (height, width), of the result in pixels.

    Returns:
      (..., height, width, C).
    """
    height, width = _pair(size)
    h, w = images.shape[-3:-1]
    if (h, w) == (height, width):
        return images
    if h % height == 0 and w % width == 0:
        return _box_means(images, height, width)
    rows = _area_weights(h, height) if height < h else _bilinear_weights(h, height)
    columns = _area_weights(w, width) if width < w else _bilinear_weights(w, width)
    return resample(images, rows, columns)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _box_means(images: jax.Array, height: int, width: int) -> jax.Array:
    """Means over blocks, as sums of slices; with the gradient of a reduction.

    XLA's reductions take twice as long on CPU, and fifteen times where they fuse with what came before, such as
    rounding to 8 bits; their gradient is no slower.
    """
    return _by_blocks(images, height, width, _mean_of_slices)


@_box_means.defjvp
def _box_means_jvp(height, width, primals, tangents):
    (images,), (tangent,) = primals, tangents
    return _box_means(images, height, width), _by_blocks(tangent, height, width, lambda x: x.mean(-2))


def _by_blocks(images: jax.Array, height: int, width: int, mean: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """`mean` over axis -2 for blocks of rows, then of columns: rows first, so that the larger part is contiguous."""
    *batch, h, w, c = images.shape
    images = mean(images.reshape(*batch, height, h // height, w * c))
    return mean(images.reshape(*batch, height, width, w // width, c))


def _mean_of_slices(x: jax.Array) -> jax.Array:
    if x.shape[-2] > _MOST_SLICES:
        return x.mean(-2)
    total = x[..., 0, :]
    for i in range(1, x.shape[-2]):
        total = total + x[..., i, :]
    return total / x.shape[-2]


def adaptive_average_pool(images: jax.Array, size: Size) -> jax.Array:
    """PyTorch's `adaptive_avg_pool2d`: (..., H, W, C) -> (..., height, width, C).

    Output i is the plain mean of input rows floor(i H / height) ... ceil((i + 1) H / height) - 1. For factors
    that are not whole these bins overlap, and the result differs from `area`.
    """
    height, width = _pair(size)
    h, w = images.shape[-3:-1]
    return resample(images, _bin_weights(h, height), _bin_weights(w, width))


def bilinear(images: jax.Array, size: Size, antialias: bool = True) -> jax.Array:
    """Bilinear resize with half-pixel centres (`align_corners=False`): (..., H, W, C) -> (..., height, width, C).

    With `antialias` the triangle widens with the factor when shrinking, as in Pillow and in
    `F.interpolate(antialias=True)`; without it this is plain `F.interpolate(mode="bilinear")`.
    """
    height, width = _pair(size)
    *batch, _, _, c = images.shape
    return jax.image.resize(images, (*batch, height, width, c), "linear", antialias=antialias)


def resample(images: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """Apply one weight matrix to the rows and one to the columns of images.

    Args:
      images: (..., H, W, C).
      rows: (height, H) weights.
      columns: (width, W) weights.

    Returns:
      (..., height, width, C).
    """
    precision = jax.lax.Precision.HIGHEST  # bf16 or TF32 weights would shift the grey level of flat regions
    images = jnp.einsum("yh,...hwc->...ywc", jnp.asarray(rows, images.dtype), images, precision=precision)
    return jnp.einsum("xw,...ywc->...yxc", jnp.asarray(columns, images.dtype), images, precision=precision)


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _area_weights(n: int, m: int) -> np.ndarray:
    edges = np.arange(m + 1) * (n / m)
    pixels = np.arange(n)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(overlap, 0) * (m / n)


def _bilinear_weights(n: int, m: int) -> np.ndarray:
    centres = np.clip((np.arange(m) + 0.5) * (n / m) - 0.5, 0, n - 1)
    return np.maximum(1 - np.abs(centres[:, None] - np.arange(n)), 0)


def _bin_weights(n: int, m: int) -> np.ndarray:
    starts = np.arange(m) * n // m
    stops = -(-(np.arange(1, m + 1) * n) // m)
    inside = (np.arange(n) >= starts[:, None]) & (np.arange(n) < stops[:, None])
    return inside / inside.sum(1, keepdims=True)
