"""Making training images look like photos that people have: framing, colour, and the wear of files.

A generator's samples are all sharp, well exposed and exactly aligned. `augment` gives every image of a batch its own
random framing and colour, which the target shares, and then a blur, a loss of resolution, noise and JPEG artefacts that
only the encoder's input gets: the encoder learns to see the clean picture behind them.

Pure functions of a PRNG key, in one jit with the training step. Everything separable is a matrix product with the rows
and the columns of an image (side 256 and less: the products of a 1024-pixel image would take longer than its encoder).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.data.resize import as_images
from lsap_jax.errors import ConfigError

# The quantisation tables of the JPEG standard (ITU-T T.81, annex K), which common encoders scale by quality.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# Of RGB, in this order: luma and chroma of JFIF (ITU-R BT.601, full range).
_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
# (frequency, pixel): the orthonormal cosine transform of 8 pixels.
_DCT = np.cos(np.outer(np.arange(8), 2 * np.arange(8) + 1) * np.pi / 16) * np.where(np.arange(8), 0.5, 8**-0.5)[:, None]
# What is drawn for an image: always all of it, so that no strength changes the meaning of another's draw.
_DRAWS = (
    *("down", "right", "scale", "rotation", "flip"),
    *("brightness", "contrast", "saturation", "red", "green", "blue", "gamma"),
    *("blur", "blur?", "downscale", "downscale?", "noise", "noise?", "jpeg", "jpeg?"),
)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Strengths: 0 is off, and all 0 leaves images as they are, bit for bit. "+-a" is uniform in -a ... a.

    Attributes:
      shift: +- fraction of the side, along both axes.
      scale: +- logarithm of the magnification about the centre.
      rotation: +- degrees about the centre.
      flip: probability of mirroring left and right; only where no code of the image is known.
      brightness: +- on the scale [-1, 1].
      contrast: +- logarithm of the factor about the image's mean grey.
      saturation: +- logarithm of the factor about each pixel's grey.
      white_balance: +- logarithm of the gain of each channel.
      gamma: +- logarithm of the exponent.
      blur: largest standard deviation of the Gaussian, in pixels.
      downscale: largest logarithm of the factor by which the image is shrunk, and brought back bilinearly.
      noise: largest standard deviation, on the scale [-1, 1].
      jpeg: how far the quality goes below 100 (70: qualities from 30 to 100).
      degraded: probability of each of blur, downscale, noise, jpeg, for each image by itself.
    """

    shift: float = 0.0
    scale: float = 0.0
    rotation: float = 0.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    white_balance: float = 0.0
    gamma: float = 0.0
    blur: float = 0.0
    downscale: float = 0.0
    noise: float = 0.0
    jpeg: float = 0.0
    degraded: float = 0.5

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            limit = {"jpeg": 99, "flip": 1, "degraded": 1, "shift": 1}.get(field.name, np.inf)
            if not 0 <= value <= limit:
                raise ConfigError(f"augment.{field.name}={value}: must be from 0 (off) to {limit}")


def augment(key: jax.Array, images: jax.Array, settings: Augment) -> tuple[jax.Array, jax.Array]:
    """Draw one augmentation for every image.

    Turning one strength on or off leaves the draws of the others as they were.

    Args:
      key: PRNG key.
      images: (B, h, w, 3) in [-1, 1].
      settings: static under jit.

    Returns:
      (inputs, targets), both (B, h, w, 3) in [-1, 1]: targets have the geometry and the colour only.

    Raises:
      ImageError: if `images` are no float batch.
    """
    images = as_images(images)
    return jax.vmap(functools.partial(_augment, settings))(jax.random.split(key, images.shape[0]), images)


def _augment(a: Augment, key: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    key, noise_key = jax.random.split(key)
    # All at once: every call of the generator of random bits is slow to compile.
    draws = dict(zip(_DRAWS, jax.random.uniform(key, (len(_DRAWS),)), strict=True))

    def symmetric(*names):
        return jnp.stack([2 * draws[name] - 1 for name in names])

    if a.shift or a.scale or a.rotation:
        scale, angle = jnp.exp(a.scale * symmetric("scale")[0]), jnp.deg2rad(a.rotation) * symmetric("rotation")[0]
        image = move(image, a.shift * symmetric("down", "right"), scale, angle)
    if a.flip:
        image = jnp.where(draws["flip"] < a.flip, image[:, ::-1], image)
    if a.brightness or a.contrast or a.saturation or a.white_balance or a.gamma:
        image = _colour(a, symmetric, image)
    target = image
    wear = {"blur": _blur, "downscale": _lose_resolution, "noise": functools.partial(_add_noise, noise_key)}
    wear["jpeg"] = lambda loss, image: jpeg(image, 100 - loss)
    for name, function in wear.items():
        if strength := getattr(a, name):
            changed = function(strength * draws[name], image)
            image = jnp.where(draws[f"{name}?"] < a.degraded, changed, image)
    return image, target


def move(image: jax.Array, shift: jax.Array, scale: jax.Array, angle: jax.Array) -> jax.Array:
    """Rotate and magnify an image about its centre, then shift it; edges are repeated outwards.

    Sampled by the cubic of Keys (a = -0.5), which keeps fine detail that bilinear sampling would blur.

    Args:
      image: (h, w, 3).
      shift: (2,) down and right, in fractions of the side.
      scale: above 1 enlarges.
      angle: radians, clockwise as seen.
    """
    h, w, c = image.shape
    size = jnp.asarray([h, w], jnp.float32)
    centre = (size - 1) / 2
    grid = jnp.stack(jnp.meshgrid(jnp.arange(h, dtype=jnp.float32), jnp.arange(w, dtype=jnp.float32), indexing="ij"))
    down, right = grid - (centre + shift * size)[:, None, None]
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    y, x = cos * down - sin * right + centre[0], sin * down + cos * right + centre[1]
    top, left = jnp.floor(y), jnp.floor(x)
    rows, columns = _cubic(y - top), _cubic(x - left)
    flat = image.reshape(h * w, c)
    total = jnp.zeros_like(image)
    for i in range(4):
        row = jnp.clip(top.astype(jnp.int32) + (i - 1), 0, h - 1) * w
        for j in range(4):
            column = jnp.clip(left.astype(jnp.int32) + (j - 1), 0, w - 1)
            total = total + (rows[i] * columns[j])[..., None] * flat[row + column]
    return jnp.clip(total, -1, 1)


def _cubic(t: jax.Array) -> tuple[jax.Array, ...]:
    """Weights of the four neighbours at -1, 0, 1, 2 of a point at 0 <= t < 1."""
    return (
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        (((4 - 3 * t) * t + 1) * t) / 2,
        (t - 1) * t * t / 2,
    )


def _colour(a: Augment, symmetric: Callable[..., jax.Array], image: jax.Array) -> jax.Array:
    x = (image + 1) / 2
    if a.gamma:
        x = jnp.maximum(x, 1e-6) ** jnp.exp(a.gamma * symmetric("gamma")[0])
    if a.white_balance:
        x = x * jnp.exp(a.white_balance * symmetric("red", "green", "blue"))[None, None]
    grey = _mixed(_YCBCR[:1], jnp.moveaxis(x, -1, 0))[0][..., None]
    if a.saturation:
        x = grey + (x - grey) * jnp.exp(a.saturation * symmetric("saturation")[0])
    if a.contrast:
        x = grey.mean() + (x - grey.mean()) * jnp.exp(a.contrast * symmetric("contrast")[0])
    return jnp.clip(x * 2 - 1 + a.brightness * symmetric("brightness")[0], -1, 1)


def _blur(sigma: jax.Array, image: jax.Array) -> jax.Array:
    def weights(n):
        distance = jnp.arange(n)[:, None] - jnp.arange(-n, 2 * n)[None]  # in an image padded by its edges
        kernel = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-3)) ** 2)
        kernel = kernel / kernel.sum(1, keepdims=True)
        return jnp.concatenate(
            [
                (kernel[:, : n + 1].sum(1))[:, None],
                kernel[:, n + 1 : 2 * n - 1],
                (kernel[:, 2 * n - 1 :].sum(1))[:, None],
            ],
            axis=1,
        )

    return _separable(image, weights)


def _lose_resolution(log_factor: jax.Array, image: jax.Array) -> jax.Array:
    """Shrink by area means to a whole number of pixels, then enlarge bilinearly."""

    def weights(n):
        cells = jnp.clip(jnp.round(n * jnp.exp(-log_factor)), 1, n)
        side = n / cells  # in pixels
        edges = jnp.arange(n + 1) * side  # those beyond the image have no overlap with it
        pixels = jnp.arange(n)
        overlap = jnp.minimum(edges[1:, None], pixels[None] + 1) - jnp.maximum(edges[:-1, None], pixels[None])
        shrink = jnp.maximum(overlap, 0) / side
        centres = jnp.clip((pixels + 0.5) / side - 0.5, 0, cells - 1)
        enlarge = jnp.maximum(1 - jnp.abs(centres[:, None] - pixels[None]), 0)
        return jnp.matmul(enlarge, shrink, precision="highest")

    return _separable(image, weights)


def _add_noise(key: jax.Array, sigma: jax.Array, image: jax.Array) -> jax.Array:
    return jnp.clip(image + sigma * jax.random.normal(key, image.shape), -1, 1)


def jpeg(image: jax.Array, quality: jax.Array | float) -> jax.Array:
    """What is left of an image after a JPEG file with 4:2:0 chroma, as libjpeg writes and reads it.

    Args:
      image: (h, w, 3) in [-1, 1].
      quality: 1 (worst) ... 100; may be traced.

    Returns:
      (h, w, 3) in [-1, 1], in steps of 8 bits.
    """
    h, w, _ = image.shape
    pixels = jnp.round(jnp.clip(image, -1, 1) * 127.5 + 127.5)
    pixels = jnp.moveaxis(jnp.pad(pixels, ((0, -h % 16), (0, -w % 16), (0, 0)), mode="edge"), -1, 0)
    luma, *chroma = _mixed(_YCBCR, pixels)
    quality = jnp.clip(jnp.floor(quality), 1, 100)
    percent = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)

    def coded(plane, table):
        """Quantised and decoded again, (h, w) around 0."""
        step = jnp.clip(jnp.floor((table * percent + 50) / 100), 1, 255)[None, :, None, :]
        blocks = plane.reshape(plane.shape[0] // 8, 8, plane.shape[1] // 8, 8)
        # libjpeg has coefficients in eighths, and rounds their halves away from 0; flat blocks are often such halves.
        steps = jnp.round(_blockwise(_DCT, blocks) * 8) / 8 / step
        decoded = _blockwise(_DCT.T, jnp.sign(steps) * jnp.floor(jnp.abs(steps) + 0.5) * step)
        return jnp.clip(jnp.round(decoded), -128, 127).reshape(plane.shape)

    decoded = [coded(jnp.round(luma) - 128, _LUMINANCE) + 128]
    for plane in chroma:
        halved = jnp.round(plane).reshape(plane.shape[0] // 2, 2, plane.shape[1] // 2, 2).mean((1, 3))
        odd = jnp.arange(halved.shape[1])[None] % 2  # libjpeg rounds by turns up and down
        doubled = _doubled(_doubled(coded(jnp.floor(halved + 0.25 * (1 + odd)), _CHROMINANCE), 0), 1)
        odd = jnp.arange(doubled.shape[1])[None] % 2
        decoded.append(jnp.floor(doubled + (8 - odd) / 16))
    rgb = jnp.stack(_mixed(np.linalg.inv(_YCBCR), decoded), -1)
    return jnp.clip(jnp.round(rgb)[:h, :w] / 127.5 - 1, -1, 1)


def _mixed(matrix: np.ndarray, planes: Sequence[jax.Array] | jax.Array) -> list[jax.Array]:
    """Rows of a matrix (n, 3) over three planes: sums fuse where a matrix product with so few channels crawls."""
    r, g, b = planes
    return [float(row[0]) * r + float(row[1]) * g + float(row[2]) * b for row in matrix]


def _blockwise(basis: np.ndarray, blocks: jax.Array) -> jax.Array:
    """`basis` (8, 8) applied to the rows and the columns of blocks (h, 8, w, 8)."""
    b = jnp.asarray(basis, jnp.float32)
    return jnp.einsum("ui,hiwj,vj->huwv", b, blocks, b, precision="highest")


def _doubled(plane: jax.Array, axis: int) -> jax.Array:
    """Twice as long: 3/4 of the nearer and 1/4 of the next sample, as libjpeg's triangle filter."""
    n = plane.shape[axis]
    before = jnp.take(plane, np.maximum(np.arange(n) - 1, 0), axis)
    after = jnp.take(plane, np.minimum(np.arange(n) + 1, n - 1), axis)
    pairs = jnp.stack([0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after], axis + 1)
    return pairs.reshape(*plane.shape[:axis], 2 * n, *plane.shape[axis + 1 :])


def _separable(image: jax.Array, weights: Callable[[int], jax.Array]) -> jax.Array:
    return _product(weights(image.shape[0]), image, weights(image.shape[1]))


def _product(rows: jax.Array | np.ndarray, image: jax.Array, columns: jax.Array | np.ndarray) -> jax.Array:
    """`rows` (a, h) and `columns` (b, w) applied to an image (h, w, C) -> (a, b, C)."""
    rows, columns = jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32)
    image = jnp.einsum("yh,hwc->ywc", rows, image, precision="highest")
    return jnp.einsum("xw,ywc->yxc", columns, image, precision="highest")
