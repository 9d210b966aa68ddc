"""The operations of StyleGAN2: modulated convolution, resampling by a small filter, noise, bias and activation.

The modulated convolution (Karras et al. 2020, arXiv 1912.04958, section 2.2) is defined with one kernel per image,
w'_{kio} = w_{kio} s_i d_o with d_o = rsqrt(sum_{k,i} (w_{kio} s_i)^2 + 1e-8). A convolution is linear, so the style can
be taken out to the input and the demodulation to the output:

    conv(x, w') = conv(x * s, w) * d

One kernel then serves the whole batch: an ordinary convolution under `vmap` and under sharding, where the textbook form
is a grouped convolution whose gradient is 10 to 26 times slower. sum (w s)^2 is a matrix product of s^2 with sum_k w^2.

Weights are the checkpoints' own "equalised" ones (unit variance at initialisation); the factor 1/sqrt(fan-in) goes into
the output factor, so no scaled copy of a kernel is ever made.

Resampling follows `upfirdn2d`: insert zeros, pad, correlate with the flipped filter, take every n-th sample. The
filters are separable and short, so each pass is a sum of shifted slices, which XLA fuses; a depthwise convolution is
far slower.

All images are NHWC, all kernels HWIO.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
LEAK, GAIN = 0.2, 2.0**0.5

Taps = tuple[float, ...]


def random_tree(key: jax.Array, shapes: Any) -> Any:
    """A tree of shapes (tuples) -> the same tree of standard normal arrays, out of one draw, which compiles fast."""
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    sizes = [math.prod(shape) for shape in leaves]
    parts = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return treedef.unflatten([part.reshape(shape) for part, shape in zip(parts, leaves, strict=True)])


def leaky_relu(x: jax.Array) -> jax.Array:
    """Leaky ReLU of slope 0.2 times sqrt(2), which keeps the variance of a standard normal."""
    return jnp.where(x > 0, x * GAIN, x * (LEAK * GAIN))


def normalize_second_moment(x: jax.Array) -> jax.Array:
    """(..., C) scaled to a mean square of 1 over the last axis ("pixel norm")."""
    return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


def dense(params: dict[str, jax.Array], x: jax.Array, lr_multiplier: float = 1.0) -> jax.Array:
    """Equalised linear layer, (..., I) -> (..., O): weight (I, O) and bias (O,) are stored over `lr_multiplier`."""
    weight, bias = params["weight"], params["bias"]
    y = x @ weight * (lr_multiplier / weight.shape[0] ** 0.5)
    return y + (bias * lr_multiplier).reshape((1,) * (y.ndim - 1) + bias.shape)


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution that keeps the size, forward and backward in the dtype of `x`."""
    return _conv(x, kernel, 1, "SAME")


def _conv(x, kernel, stride, padding):
    kernel = kernel.astype(x.dtype)
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=DIMENSIONS)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def padded_conv(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[tuple[int, int], ...]) -> jax.Array:
    """Convolution with any stride and padding, whose gradient to the kernel is a matrix product for each tap.

    XLA on CPU has no fast form for the kernel's gradient where stride, padding or kernel are not the usual ones: the
    gradient of a 256-pixel generator to its weights took fifteen times as long as that to its code.
    """
    return _conv(x, kernel, stride, padding)


@functools.partial(padded_conv.defjvp, symbolic_zeros=True)
def _padded_conv_jvp(stride, padding, primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    y, terms = padded_conv(x, kernel, stride, padding), []
    if not isinstance(dx, SymbolicZero):
        terms.append(_conv(dx, kernel, stride, padding))
    if not isinstance(dkernel, SymbolicZero):
        padded = _pad(_pad(x, 1, *padding[0]), 2, *padding[1])
        for i, j in np.ndindex(*kernel.shape[:2]):
            rows = lax.slice_in_dim(padded, i, i + stride * (y.shape[1] - 1) + 1, stride, axis=1)
            seen = lax.slice_in_dim(rows, j, j + stride * (y.shape[2] - 1) + 1, stride, axis=2)
            terms.append(jnp.einsum("bhwi,io->bhwo", seen, dkernel[i, j].astype(x.dtype)))
    return y, functools.reduce(jnp.add, terms) if terms else jnp.zeros_like(y)


@jax.custom_jvp
def conv_to_rgb(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution with one kernel an image, to a few channels: (B, H, W, I), (B, I, O) -> (B, H, W, O) float32."""
    return jnp.einsum("bhwi,bio->bhwo", x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


@conv_to_rgb.defjvp
def _conv_to_rgb_jvp(primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    # The same product channel by channel: its transpose is elementwise, so fuses with the rest of the backward pass.
    along_x = [jnp.sum(dx * per_channel(kernel[:, :, o]), axis=-1) for o in range(kernel.shape[-1])]
    return conv_to_rgb(x, kernel), jnp.stack(along_x, axis=-1) + conv_to_rgb(x, dkernel)


def fan_in_scale(kernel: jax.Array) -> float:
    """1/sqrt(fan-in) of an HWIO kernel: the factor of an equalised convolution."""
    return math.prod(kernel.shape[:-1]) ** -0.5


def demodulation(kernel: jax.Array, style: jax.Array) -> jax.Array:
    """Output factor (B, O) of a demodulated convolution, with the equalised scale folded in.

    scale * rsqrt(scale^2 sum_{k,i} (w_{kio} s_i)^2 + 1e-8).
    """
    scale = fan_in_scale(kernel)
    # Tap by tap, which XLA fuses to one pass: its reduction over two short axes is far slower.
    squares = sum(jnp.square(kernel[i, j]) for i in range(kernel.shape[0]) for j in range(kernel.shape[1]))
    power = jnp.square(style) @ squares
    return scale * lax.rsqrt(scale**2 * power + 1e-8)


def per_channel(v: jax.Array) -> jax.Array:
    """(C,) or (B, C) as a factor of an image (B, H, W, C)."""
    return jnp.expand_dims(v, (0, 1, 2) if v.ndim == 1 else (1, 2))


def _pad(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Zero-pad one axis; negative amounts crop."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def interleave(phases: Sequence[jax.Array], axis: int) -> jax.Array:
    """[even samples, odd samples] along `axis` -> all samples, twice as many.

    The new axis is collapsed at once, one spatial axis at a time, which keeps a batch sharding explicit.
    """
    return lax.collapse(jnp.stack(phases, axis + 1), axis, axis + 2)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def correlate(x: jax.Array, weights: tuple[float, ...], axis: int, down: int = 1) -> jax.Array:
    """y[i] = sum_j weights[j] x[down i + j] along one axis, wherever all samples exist.

    A sum of slices, which XLA fuses to one pass. The transpose that JAX would derive is a sum of padded arrays, each
    made in a pass of its own; the derivative is therefore written as a sum of pads, whose transpose is one of slices.
    """
    length = (x.shape[axis] - len(weights)) // down + 1
    terms = [
        lax.slice_in_dim(x, j, j + down * (length - 1) + 1, stride=down, axis=axis) * w for j, w in enumerate(weights)
    ]
    return functools.reduce(jnp.add, terms)


@correlate.defjvp
def _correlate_jvp(weights, axis, down, primals, tangents):
    (x,), (dx,) = primals, tangents
    n = len(weights)
    length = (x.shape[axis] - n) // down + 1
    full = functools.reduce(jnp.add, [_pad(dx * w, axis, n - 1 - j, j) for j, w in enumerate(weights)])
    tangent = lax.slice_in_dim(full, n - 1, n - 1 + down * (length - 1) + 1, stride=down, axis=axis)
    return correlate(x, weights, axis, down), tangent


def _weights(taps: Taps, gain: float = 1.0) -> tuple[float, ...]:
    """The filter as correlation weights: flipped, summing to `gain`."""
    return tuple(gain * t / sum(taps) for t in reversed(taps))


def fir2d(x: jax.Array, taps: Taps, pad: tuple[int, int], down: int = 1) -> jax.Array:
    """Pad rows and columns with zeros, filter them, take every `down`-th sample."""
    for axis in (1, 2):
        x = correlate(_pad(x, axis, *pad), _weights(taps), axis, down)
    return x


def upsample2d(x: jax.Array, taps: Taps) -> jax.Array:
    """(B, H, W, C) -> (B, 2H, 2W, C), the mean kept: zeros between samples, then the filter with gain 2 per axis."""
    weights, before = _weights(taps, 2.0), (len(taps) + 1) // 2
    for axis in (1, 2):
        phases = []
        for phase in (0, 1):
            # Output 2i + phase is the sum over j of weights[j] u[2i + phase + j - before], where u[2i] = x[i].
            first = (before - phase) % 2
            own, start = weights[first::2], (phase + first - before) // 2
            phases.append(correlate(_pad(x, axis, -start, len(own) - 1 + start), own, axis))
        x = interleave(phases, axis)
    return x


def downsample2d(x: jax.Array, taps: Taps) -> jax.Array:
    """(B, 2H, 2W, C) -> (B, H, W, C): the filter, then every second sample."""
    n = len(taps)
    return fir2d(x, taps, ((n - 1) // 2, (n - 2) // 2), down=2)


def upsample_conv(x: jax.Array, kernel: jax.Array, taps: Taps) -> jax.Array:
    """Transposed 3x3 convolution of stride 2, then the filter with gain 2 per axis.

    The transposed convolution z[2i + k] += x[i] w[k] is computed in phases: along each axis sample 2i sees taps 0 and
    2, sample 2i + 1 sees tap 1 alone, so four small dense convolutions with nine taps in all make a 2x2 cell of z. The
    zeros that the filter needs around z come from wider padding of these convolutions.

    The stored kernel is used as it is (no flip), as in both reference implementations.

    Args:
      x: (B, H, W, I).
      kernel: (3, 3, I, O), used in the dtype of `x`.
      taps: of the filter.

    Returns:
      (B, 2H, 2W, O) float32; filtered in float32.
    """
    n, (height, width) = len(taps), x.shape[1:3]
    before, after = (n - 1) // 2, (n - 2) // 2
    order = (0, 1) if before % 2 == 0 else (1, 0)  # of z[-before], the first sample that the filter needs

    def padding(phase, size):
        first = -((before + phase) // 2)  # the first z[2 first + phase] needed
        cells = size + 1 + (before + after) // 2
        left = 1 - first if phase == 0 else -first
        return left, cells + (phase == 0) - size - left

    def convolved(a, b):
        kept = (slice(None, None, -2), slice(1, 2))  # even phase: taps 2 and 0, at x[i - 1] and x[i]
        return padded_conv(x, kernel[kept[a], kept[b]], 1, (padding(a, height), padding(b, width)))

    z = interleave([interleave([convolved(a, b) for b in order], 2) for a in order], 1).astype(jnp.float32)
    for axis, size in ((1, height), (2, width)):
        z = correlate(lax.slice_in_dim(z, 0, 2 * size + n - 1, axis=axis), _weights(taps, 2.0), axis)
    return z


def downsample_conv(x: jax.Array, kernel: jax.Array, taps: Taps) -> jax.Array:
    """The filter, then a convolution of stride 2: (B, 2H, 2W, I) -> (B, H, W, O)."""
    n, k = len(taps), kernel.shape[0]
    if k == 1:
        return conv(downsample2d(x, taps), kernel)
    pad = ((n - 1) // 2 + k // 2, (n - 2) // 2 + k // 2)
    return padded_conv(fir2d(x, taps, pad), kernel, 2, ((0, 0), (0, 0)))
