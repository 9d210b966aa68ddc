"""The three networks of MTCNN, a cascade that finds faces and five landmarks in each.

Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", 2016
(arXiv 1604.02878), in the form of facenet-pytorch 2.6, whose weights `checkpoints.convert_mtcnn` reads. Plain
functions of frozen params; `data.detect` runs the cascade around them.

Images enter as (value - 127.5) / 128 with value in 0..255, not as the [-1, 1] of the rest of the package.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Params = Mapping[str, Any]

CELL = 12  # P-Net looks at windows of 12 pixels ...
STRIDE = 2  # ... every 2 pixels
RNET_SIZE = 24
ONET_SIZE = 48

# Landmarks are compared and cropped by in pixels: no bf16 or TF32 passes in these small networks.
_PRECISION = lax.Precision.HIGHEST


def _conv(params: Params, x: jax.Array) -> jax.Array:
    """Valid convolution, stride 1: (B, H, W, I) -> (B, H - k + 1, W - k + 1, O)."""
    dims = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, params["kernel"], (1, 1), "VALID", dimension_numbers=dims, precision=_PRECISION)
    return y + params["bias"].reshape(1, 1, 1, -1)


def _linear(params: Params, x: jax.Array) -> jax.Array:
    """(B, I) -> (B, O)."""
    return jnp.matmul(x, params["kernel"], precision=_PRECISION) + params["bias"].reshape(1, -1)


def _prelu(params: Params, x: jax.Array) -> jax.Array:
    """max(0, x) + slope min(0, x), one slope per channel (the last axis)."""
    return jnp.where(x >= 0, x, x * params["slope"].reshape((1,) * (x.ndim - 1) + (-1,)))


def _pooled(size: Any, window: int) -> Any:
    """Length of an axis of `size` after `max_pool`: ceil((size - window) / 2) + 1."""
    return (size - window + 1) // 2 + 1


def max_pool(x: jax.Array, window: int) -> jax.Array:
    """Max pooling with stride 2 in "ceil mode": a last window may hang over the edge.

    Args:
      x: (B, H, W, C), H and W at least `window`.
      window: 2 or 3 pixels.

    Returns:
      (B, ceil((H - window) / 2) + 1, ceil((W - window) / 2) + 1, C).
    """
    overhang = [(0, (_pooled(n, window) - 1) * 2 + window - n) for n in x.shape[1:3]]
    padding = ((0, 0), *overhang, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, 2, 2, 1), padding)


def _keep(x: jax.Array, size: jax.Array, fill: float) -> jax.Array:
    """Replace what lies outside the first size = (h, w) rows and columns of (B, H, W, C) by `fill`."""
    rows = jnp.arange(x.shape[1])[None, :, None, None] < size[0]
    columns = jnp.arange(x.shape[2])[None, None, :, None] < size[1]
    return jnp.where(rows & columns, x, fill)


def pnet(params: Params, images: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Proposal network: every 2 pixels, is there a face in the 12-pixel window?

    The image may sit in the top left corner of a larger canvas, so that one compiled shape serves many sizes. The
    answer is the one for the image alone: only a pooling window at its edge could see the canvas, and is kept from
    it.

    Args:
      params: {conv1, prelu1, conv2, prelu2, conv3, prelu3, conv4_1, conv4_2}.
      images: (B, H, W, 3), zero outside of `size`.
      size: (2,) integers h, w >= 12, the extent of the images in the canvas; traced, so it may change freely.

    Returns:
      probability (B, H', W') in 0..1, zero for cells outside of the image; offsets of the box's left, top, right and
      bottom edge (B, H', W', 4) in units of the box's side. Cell (i, j) is the window from pixel (2i, 2j).
    """
    x = _prelu(params["prelu1"], _conv(params["conv1"], images))
    x = max_pool(_keep(x, size - 2, -jnp.inf), 2)
    # Windows wholly outside hold -inf, which would become NaN in the next convolution.
    x = _keep(x, _pooled(size - 2, 2), 0.0)
    x = _prelu(params["prelu2"], _conv(params["conv2"], x))
    x = _prelu(params["prelu3"], _conv(params["conv3"], x))
    probability = jax.nn.softmax(_conv(params["conv4_1"], x))[..., 1:]
    return _keep(probability, _pooled(size - 2, 2) - 4, 0.0)[..., 0], _conv(params["conv4_2"], x)


def rnet(params: Params, crops: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Refinement network: is this crop a face, and where are its edges really?

    Args:
      params: {conv1..3, prelu1..4, dense4, dense5_1, dense5_2}.
      crops: (B, 24, 24, 3).

    Returns:
      probability (B,) in 0..1; edge offsets (B, 4) in units of the crop's side.
    """
    x = max_pool(_prelu(params["prelu1"], _conv(params["conv1"], crops)), 3)
    x = max_pool(_prelu(params["prelu2"], _conv(params["conv2"], x)), 3)
    x = _prelu(params["prelu3"], _conv(params["conv3"], x))
    x = _prelu(params["prelu4"], _linear(params["dense4"], x.reshape(x.shape[0], -1)))
    return jax.nn.softmax(_linear(params["dense5_1"], x))[:, 1], _linear(params["dense5_2"], x)


def onet(params: Params, crops: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Output network: a last verdict, the edges, and five landmarks.

    Args:
      params: {conv1..4, prelu1..5, dense5, dense6_1, dense6_2, dense6_3}.
      crops: (B, 48, 48, 3).

    Returns:
      probability (B,) in 0..1; edge offsets (B, 4) and landmarks (B, 5, 2), x then y, both in units of the crop's
      side: left eye, right eye, tip of the nose, left and right corner of the mouth, as seen in the image.
    """
    x = max_pool(_prelu(params["prelu1"], _conv(params["conv1"], crops)), 3)
    x = max_pool(_prelu(params["prelu2"], _conv(params["conv2"], x)), 3)
    x = max_pool(_prelu(params["prelu3"], _conv(params["conv3"], x)), 2)
    x = _prelu(params["prelu4"], _conv(params["conv4"], x))
    x = _prelu(params["prelu5"], _linear(params["dense5"], x.reshape(x.shape[0], -1)))
    # The layer holds five x, then five y.
    landmarks = _linear(params["dense6_3"], x).reshape(-1, 2, 5).swapaxes(1, 2)
    return jax.nn.softmax(_linear(params["dense6_1"], x))[:, 1], _linear(params["dense6_2"], x), landmarks
