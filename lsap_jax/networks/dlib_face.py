"""dlib's face descriptor: a 29-layer residual network that maps an aligned face to 128 numbers (D. King, 2017).

The network is `dlib_face_recognition_resnet_model_v1`, public domain (CC0), with its affine layers folded into
the convolutions before them. Descriptors of one person lie within a Euclidean distance of about 0.6. Against
dlib 20.0.1 on the same pixels (eight real chips and one of noise) no number differs by more than 4e-7.

It wants a *chip*: 150 x 150 pixels around the face, turned upright, with the landmarks at fixed places. `chip`
cuts one from any photo by five landmarks; `aligned_chips` from images in FFHQ's alignment, where the cut is the
same for all.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import ndimage

from lsap_jax.errors import ImageError
from lsap_jax.networks.layers import conv, max_pool

SIZE = 150  # pixels, side of a chip
PADDING = 0.25  # of the face's box, on each side of it
STRIDES = (1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 2, 1, 1, 2)  # of the residual blocks
SMALLEST = 128  # pixels, side of an aligned image

# dlib's mean face (68 landmarks, `mean_face_shape` in its get_face_chip_details) in units of the face's box:
# centre of the left and right eye (mean of its six landmarks), tip of the nose, left and right corner of the
# mouth; left and right as seen in the image.
MEAN_FACE = np.array(
    [[0.225492, 0.215990], [0.754761, 0.215990], [0.490127, 0.515625], [0.254149, 0.780233], [0.726104, 0.780233]]
)
# The same in pixels of the chip, whose first has its centre at 0 (so dlib's cutting has it, measured at scale 1).
TEMPLATE = (MEAN_FACE + PADDING) / (1 + 2 * PADDING) * SIZE - 0.5

# FFHQ's rule applied to that mean face: its crop is centred a tenth of the way from the eyes to the mouth, and
# its half side is max(2 |eye to eye|, 1.8 |eyes to mouth|). All in units of the face's box.
_EYES, _MOUTH = MEAN_FACE[:2].mean(0), MEAN_FACE[3:].mean(0)
_HALF = max(2 * (MEAN_FACE[1, 0] - MEAN_FACE[0, 0]), 1.8 * (_MOUTH[1] - _EYES[1]))
_CORNER = _EYES + 0.1 * (_MOUTH - _EYES) - _HALF
# So the chip's left top corner and side, in units of an FFHQ image's side, are
ALIGNED_CORNER = (-PADDING - _CORNER) / (2 * _HALF)  # x 0.150, y 0.253
ALIGNED_SIDE = (1 + 2 * PADDING) / (2 * _HALF)  # 0.709


def descriptor(params: Mapping[str, Any], chips: jax.Array) -> jax.Array:
    """Describe faces, as dlib's `compute_face_descriptor` without jitter does.

    Args:
      params: {"mean": (3,) RGB in 0..255, "stem": conv, "block0": {"conv1": conv, "conv2": conv}, ..., "block13",
        "head": {"kernel": (256, 128)}}, each conv {"kernel", "bias"}.
      chips: (B, 150, 150, 3) in [-1, 1], from `chip` or `aligned_chips`.

    Returns:
      (B, 128); not of unit length.
    """
    x = ((chips + 1) * 127.5 - params["mean"].reshape(1, 1, 1, 3)) / 256
    x = max_pool(jax.nn.relu(conv(params["stem"], x, stride=2)), 3, 2)
    for i, stride in enumerate(STRIDES):
        x = _block(params[f"block{i}"], x, stride)
    return x.mean((1, 2)) @ params["head"]["kernel"]


def aligned_chips(images: jax.Array) -> jax.Array:
    """Chips of images in FFHQ's alignment (photos cropped by it, and what FFHQ generators render).

    The face stands at the same place in all of these up to a few pixels, so one fixed crop serves, and it is
    linear in the image: (B, S, S, 3) -> (B, 150, 150, 3), shrinking antialiased, growing bilinearly.

    Raises:
      ImageError: if the images are not square or have sides below 128 pixels.
    """
    b, h, w, c = images.shape
    if h != w or h < SMALLEST:
        raise ImageError(f"images of shape {images.shape}: aligned faces are square, of at least {SMALLEST} pixels")
    scale = SIZE / (ALIGNED_SIDE * w)
    x, y = -ALIGNED_CORNER * w * scale
    return jax.image.scale_and_translate(
        images, (b, SIZE, SIZE, c), (1, 2), jnp.array([scale, scale]), jnp.array([y, x]), "linear", antialias=True
    )


def chip(image: jax.Array, landmarks: np.ndarray) -> jax.Array:
    """Cut the chip of one face out of any photo.

    The similarity (shift, turn, scale; no reflection) that takes the mean face nearest to the landmarks, in the
    least-squares sense, says where every pixel of the chip lies in the photo. Where the photo is finer than the
    chip, each pixel is the mean of a grid of samples; outside of the photo it is black, as dlib has it.

    Args:
      image: (H, W, 3) in [-1, 1].
      landmarks: (5, 2) x and y in pixels of the photo, the first pixel's centre at 0, as from `data.detect`: centres of
        the left and right eye, tip of the nose, left and right corner of the mouth.

    Returns:
      (150, 150, 3).

    Raises:
      ImageError: if the landmarks are not five distinct points.
    """
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.shape != TEMPLATE.shape or not np.isfinite(landmarks).all() or np.ptp(landmarks, axis=0).max() < 1:
        raise ImageError(f"landmarks {landmarks.tolist()}: five points (x, y) in pixels are needed, at least 1 apart")
    turn, shift = _similarity(TEMPLATE, landmarks)
    samples = max(1, round(abs(turn)))  # along each axis of one chip pixel
    steps = (np.arange(SIZE * samples) + 0.5) / samples - 0.5
    at = turn * (steps[None, :] + 1j * steps[:, None]) + shift
    coordinates = [jnp.asarray(at.imag, jnp.float32), jnp.asarray(at.real, jnp.float32)]

    def sample(channel: jax.Array) -> jax.Array:
        return ndimage.map_coordinates(channel, coordinates, order=1, mode="constant", cval=-1.0)

    fine = jax.vmap(sample, in_axes=-1, out_axes=-1)(jnp.asarray(image, jnp.float32))
    return fine.reshape(SIZE, samples, SIZE, samples, 3).mean((1, 3))


def _similarity(points: np.ndarray, onto: np.ndarray) -> tuple[complex, complex]:
    """The (a, b) that minimise sum |a p + b - q|^2 over pairs of points (N, 2), read as complex numbers."""
    p, q = points @ np.array([1, 1j]), onto @ np.array([1, 1j])
    centred = p - p.mean()
    a = (centred.conj() * (q - q.mean())).sum() / (centred.conj() * centred).sum()
    return a, q.mean() - a * p.mean()


def _block(params: Mapping[str, Any], x: jax.Array, stride: int) -> jax.Array:
    y = jax.nn.relu(conv(params["conv1"], x, stride, padding=1 if stride == 1 else 0))
    y = conv(params["conv2"], y, padding=1)
    if stride == 2:
        b, h, w, c = x.shape
        x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
    # dlib adds tensors of different sizes as if the smaller went on with zeros, in space and in channels.
    shape = np.maximum(x.shape, y.shape)
    return jax.nn.relu(_grow(x, shape) + _grow(y, shape))


def _grow(x: jax.Array, shape: np.ndarray) -> jax.Array:
    return jnp.pad(x, [(0, int(n) - m) for n, m in zip(shape, x.shape, strict=True)])
