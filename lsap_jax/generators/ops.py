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

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
LEAK, GAIN = 0.2, 2.0**0.5

Taps = tuple[float, ...]


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


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: str | Sequence = "SAME") -> jax.Array:
    """Plain convolution in the dtype of `x`, summed in float32."""
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (stride, stride),
        padding,
        dimension_numbers=DIMENSIONS,
        preferred_element_type=jnp.float32,
    )


def fan_in_scale(kernel: jax.Array) -> float:
    """1/sqrt(fan-in) of an HWIO kernel: the factor of an equalised convolution."""
    return 1.0 / float(np.prod(kernel.shape[:-1])) ** 0.5


def demodulation(kernel: jax.Array, style: jax.Array) -> jax.Array:
    """Output factor (B, O) of a demodulated convolution, with the equalised scale folded in.

    scale * rsqrt(scale^2 sum_{k,i} (w_{kio} s_i)^2 + 1e-8).
    """
    scale = fan_in_scale(kernel)
    power = jnp.square(style) @ jnp.sum(jnp.square(kernel), axis=(0, 1))
    return scale * lax.rsqrt(scale**2 * power + 1e-8)


def per_channel(v: jax.Array) -> jax.Array:
    """(C,) or (B, C) as a factor of an image (B, H, W, C)."""
    return v.reshape(-1, 1, 1, v.shape[-1])


def filter_gain(taps: Taps, gain: float) -> np.ndarray:
    """The filter as correlation weights: flipped, summing to `gain`."""
    flipped = np.asarray(taps[::-1], np.float64)
    return flipped * (gain / flipped.sum())


def _pad(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Zero-pad one axis; negative amounts crop."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _weighted_sum(terms: list[tuple[float, jax.Array]]) -> jax.Array:
    total = terms[0][1] * terms[0][0]
    for weight, x in terms[1:]:
        total = total + x * weight
    return total


def interleave(phases: Sequence[jax.Array], axis: int) -> jax.Array:
    """[even samples, odd samples] along `axis` -> all samples, twice as many.

    The new axis is collapsed at once, one spatial axis at a time, which keeps a batch sharding explicit.
    """
    return lax.collapse(jnp.stack(phases, axis + 1), axis, axis + 2)


def fir(x: jax.Array, taps: Taps, pad: tuple[int, int], axis: int, down: int = 1, gain: float = 1.0) -> jax.Array:
    """Pad one spatial axis with zeros, filter it, take every `down`-th sample."""
    weights = filter_gain(taps, gain)
    x = _pad(x, axis, *pad)
    length = (x.shape[axis] - len(weights)) // down + 1
    return _weighted_sum(
        [
            (w, lax.slice_in_dim(x, j, j + down * (length - 1) + 1, stride=down, axis=axis))
            for j, w in enumerate(weights)
        ]
    )


def fir2d(x: jax.Array, taps: Taps, pad: tuple[int, int], down: int = 1, gain: float = 1.0) -> jax.Array:
    """`fir` along rows, then columns; `gain` for each axis."""
    return fir(fir(x, taps, pad, 1, down, gain), taps, pad, 2, down, gain)


def _upsample(x: jax.Array, taps: Taps, axis: int) -> jax.Array:
    """Twice as many samples along `axis`: zeros between, then the filter with gain 2."""
    weights, before = filter_gain(taps, 2.0), (len(taps) + 1) // 2
    phases = []
    for phase in (0, 1):
        # Output 2i + phase is the sum over j of weights[j] u[2i + phase + j - before], where u[2i] = x[i].
        terms = [(j + phase - before) // 2 for j in range(len(taps))]
        used = [j for j in range(len(taps)) if (j + phase - before) % 2 == 0]
        n = x.shape[axis]
        lo, hi = min(terms[j] for j in used), max(terms[j] for j in used)
        padded = _pad(x, axis, max(-lo, 0), max(hi, 0))
        start = max(-lo, 0)
        phases.append(
            _weighted_sum(
                [
                    (weights[j], lax.slice_in_dim(padded, start + terms[j], start + terms[j] + n, axis=axis))
                    for j in used
                ]
            )
        )
    return interleave(phases, axis)


def upsample2d(x: jax.Array, taps: Taps) -> jax.Array:
    """(B, H, W, C) -> (B, 2H, 2W, C), the mean kept: zeros between samples, then the filter with gain 2 per axis."""
    return _upsample(_upsample(x, taps, 1), taps, 2)


def downsample2d(x: jax.Array, taps: Taps) -> jax.Array:
    """(B, 2H, 2W, C) -> (B, H, W, C): the filter, then every second sample."""
    n = len(taps)
    return fir2d(x, taps, ((n - 1) // 2, (n - 2) // 2), down=2)


def transposed_conv_phases(x: jax.Array, kernel: jax.Array) -> list[list[jax.Array]]:
    """The transposed 3x3 convolution of stride 2, as its four phases.

    z[2i + k] += x[i] w[k] along both axes, (B, H, W, I) -> (B, 2H + 1, 2W + 1, O). Sample 2i of an axis sees taps 0
    and 2, sample 2i + 1 sees tap 1 alone; so the phases are small dense convolutions with nine taps a pixel of `x`.

    Returns:
      [[even/even, even/odd], [odd/even, odd/odd]] of sizes H + 1 or H, W + 1 or W.
    """
    taps = (slice(None, None, -2), slice(1, 2))  # phase 0: taps 2 and 0, at x[i - 1] and x[i]
    pads = ((1, 1), (0, 0))
    return [[conv(x, kernel[taps[a], taps[b]], padding=(pads[a], pads[b])) for b in (0, 1)] for a in (0, 1)]


def upsample_conv(x: jax.Array, kernel: jax.Array, taps: Taps) -> jax.Array:
    """Transposed 3x3 convolution of stride 2, then the filter with gain 2 per axis: (B, H, W, I) -> (B, 2H, 2W, O).

    The stored kernel is used as it is (no flip), as in both reference implementations.
    """
    phases = transposed_conv_phases(x, kernel)
    z = interleave([interleave(row, 2) for row in _even_sizes(phases)], 1)
    z = z[:, :-1, :-1]
    n = len(taps)
    return fir2d(z, taps, ((n - 1) // 2, (n - 2) // 2), gain=2.0)


def _even_sizes(phases: list[list[jax.Array]]) -> list[list[jax.Array]]:
    """Odd phases padded by one zero to the size of the even ones."""
    return [[_pad(_pad(p, 1, 0, a), 2, 0, b) for b, p in enumerate(row)] for a, row in enumerate(phases)]


def downsample_conv(x: jax.Array, kernel: jax.Array, taps: Taps) -> jax.Array:
    """The filter, then a convolution of stride 2: (B, 2H, 2W, I) -> (B, H, W, O)."""
    n, k = len(taps), kernel.shape[0]
    if k == 1:
        return conv(downsample2d(x, taps), kernel)
    pad = ((n - 1) // 2 + k // 2, (n - 2) // 2 + k // 2)
    return conv(fir2d(x, taps, pad), kernel, stride=2, padding="VALID")
