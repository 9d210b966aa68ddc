"""A 3x3 convolution that halves a map, whose gradients on CPUs are plain matrix products.

The heads of pSp and e4e are chains of these, down to one pixel. XLA writes their gradients as convolutions with the
batch for channels and a map for a kernel, and turns every kernel's axes around in memory first; on CPU that takes 1.1
to 12 times as long as nine matrix products on shifted slices, the more the smaller the map.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@jax.custom_vjp
def halve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 2, one pixel of zeros around: (B, H, W, I) and (3, 3, I, O) -> (B, ceil(H / 2), ceil(W / 2), O)."""
    return _convolve(x, kernel)


def for_linen(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """`halve` where `nn.Conv(conv_general_dilated=...)` calls it, and lax's own convolution for every other one."""
    plain = tuple(strides) == (2, 2) and kernel.shape[:2] == (3, 3) and tuple(map(tuple, padding)) == ((1, 1), (1, 1))
    if plain and all(side % 2 == 0 for side in x.shape[1:3]):
        return halve(x, kernel)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _convolve(x, kernel):
    return lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT)


def _forward(x, kernel):
    return _convolve(x, kernel), (x, kernel)


def _backward(kept, gradient):
    x, kernel = kept
    if x.shape[1] % 2 or x.shape[2] % 2:
        return _by_convolutions(x, kernel, gradient)
    return lax.platform_dependent(x, kernel, gradient, cpu=_by_products, default=_by_convolutions)


halve.defvjp(_forward, _backward)


def _by_convolutions(x, kernel, gradient):
    return jax.vjp(_convolve, x, kernel)[1](gradient)


def _by_products(x, kernel, gradient):
    """Of a map with even sides."""
    (_, _, _, channels), (_, h, w, _) = x.shape, gradient.shape
    flat = gradient.reshape(-1, gradient.shape[-1])
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    to_kernel, to_x = [], []
    for i in range(3):
        for j in range(3):
            seen = padded[:, i : i + 2 * h - 1 : 2, j : j + 2 * w - 1 : 2].reshape(-1, channels)
            to_kernel.append(seen.T @ flat)
            to_x.append(lax.dot_general(flat, kernel[i, j], (((1,), (1,)), ((), ()))).reshape(*gradient.shape[:3], -1))
    rows = [_interleave(*to_x[3 * i : 3 * i + 3], axis=2) for i in range(3)]
    return _interleave(*rows, axis=1), jnp.stack(to_kernel).reshape(kernel.shape)


def _interleave(first: jax.Array, second: jax.Array, third: jax.Array, axis: int) -> jax.Array:
    """Add up what lands on each pixel along an axis.

    Pixel 2a has the second tap of window a alone, pixel 2a + 1 the third tap of window a and the first of window a + 1.
    """
    after = jnp.roll(first, -1, axis)
    last = lax.broadcasted_iota(jnp.int32, first.shape, axis) == first.shape[axis] - 1
    odd = third + jnp.where(last, 0, after)  # window a + 1 of the last is outside
    pairs = jnp.stack([second, odd], axis + 1)
    shape = list(first.shape)
    shape[axis] *= 2
    return pairs.reshape(shape)
