"""The two layers that frozen convolutional networks are made of, as functions of their weights."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax


def conv(params: Mapping[str, jax.Array], x: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    """Convolution with bias: (B, H, W, I) -> (B, H', W', O).

    Args:
      params: {"kernel": (kh, kw, I, O), "bias": (O,)}.
      x: activations.
      stride: in pixels.
      padding: zeros added on every side.
    """
    kernel, bias = params["kernel"], params["bias"]
    pads = ((padding, padding), (padding, padding))
    y = lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + bias.reshape(1, 1, 1, -1)


def max_pool(x: jax.Array, window: int, stride: int, ceil: bool = False) -> jax.Array:
    """Max pooling without padding, (B, H, W, C) -> (B, H', W', C), with H' = (H - window) / stride + 1.

    Args:
      x: activations.
      window: side in pixels.
      stride: in pixels.
      ceil: round H' up and let the last window hang over the edge (PyTorch's `ceil_mode`); otherwise down.
    """
    # Maxima of shifted slices: fused with what follows, and a gradient of adds instead of the
    # select-and-scatter of `reduce_window`. Ties share the gradient.
    for axis in (1, 2):
        steps, left = divmod(x.shape[axis] - window, stride)
        if left and ceil:
            steps += 1
            widths = [(0, 0)] * 4
            widths[axis] = (0, stride - left)
            x = jnp.pad(x, widths, constant_values=-jnp.inf)
        slices = [lax.slice_in_dim(x, i, i + steps * stride + 1, stride, axis) for i in range(window)]
        x = slices[0]
        for other in slices[1:]:
            x = jnp.maximum(x, other)
    return x
