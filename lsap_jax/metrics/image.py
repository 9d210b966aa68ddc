"""Distances between images, pixel by pixel and window by window: (B, H, W, 3) twice, in [-1, 1] -> (B,)."""

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.data import resize
from lsap_jax.errors import ImageError

PEAK = 2.0  # from black to white
SSIM_WINDOW = 11  # pixels
SSIM_SIGMA = 1.5  # pixels


@jax.jit
def mse(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean squared error of each pair, images in [-1, 1] (four times that of images in [0, 1])."""
    a, b = _pair(a, b)
    return jnp.square(a - b).mean((1, 2, 3))


@jax.jit
def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio of each pair in dB, 10 log10(4 / mse); infinite for equal images.

    The peak of [-1, 1] is 2: a difference of one 8-bit level everywhere is 48.13 dB.
    """
    return 10 * jnp.log10(PEAK**2 / mse(a, b))


@jax.jit
def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Structural similarity of each pair (Wang et al., 2004), 1 for equal images.

    The paper's settings: Gaussian window of 11 pixels with sigma 1.5, K = (0.01, 0.03), windows wholly inside the
    image; mean over positions and the three colour channels.

    Raises:
      ImageError: if a side is shorter than the window.
    """
    a, b = _pair(a, b)
    if min(a.shape[1:3]) < SSIM_WINDOW:
        raise ImageError(f"images of shape {a.shape}: SSIM needs sides of at least {SSIM_WINDOW} pixels")
    mean_a, mean_b = _blur(a), _blur(b)
    # Moments about the image's own mean colour: E[x^2] - E[x]^2 would lose digits in flat bright regions.
    centre = (a.mean((1, 2), keepdims=True) + b.mean((1, 2), keepdims=True)) / 2
    da, db, ca, cb = mean_a - centre, mean_b - centre, a - centre, b - centre
    var_a, var_b, covariance = _blur(ca * ca) - da * da, _blur(cb * cb) - db * db, _blur(ca * cb) - da * db
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    # In [0, peak], where the paper defines luminance.
    mean_a, mean_b = mean_a + PEAK / 2, mean_b + PEAK / 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean((1, 2, 3))


def _blur(x: jax.Array) -> jax.Array:
    """The window's mean around every position where it lies inside: (B, H, W, C) -> (B, H - 10, W - 10, C)."""
    return resize.resample(x, _window_weights(x.shape[1]), _window_weights(x.shape[2]))


def _window_weights(n: int) -> np.ndarray:
    offsets = np.arange(n) - np.arange(n - SSIM_WINDOW + 1)[:, None]
    inside = (offsets >= 0) & (offsets < SSIM_WINDOW)
    weights = np.exp(-0.5 * (offsets - SSIM_WINDOW // 2) ** 2 / SSIM_SIGMA**2) * inside
    return weights / weights.sum(1, keepdims=True)


def _pair(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    if jnp.shape(a) != jnp.shape(b):
        raise ImageError(f"images of one shape are compared, not {jnp.shape(a)} with {jnp.shape(b)}")
    return resize.as_images(a), resize.as_images(b)
