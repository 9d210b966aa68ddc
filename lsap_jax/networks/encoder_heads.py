"""Heads of encoders: from a trunk's feature maps to the rows of a W+ code.

Every head takes the trunk's taps (c1, c2, c3), from fine to coarse, and returns offsets (B, num_ws, w_dim). The pSp
family's (arXiv 2008.00951, 2102.02766, 2104.02699) make each row by a small network of its own.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.data import resize
from lsap_jax.networks import halving
from lsap_jax.networks.batch_norm import BatchNorm

COARSE, MIDDLE = 3, 4  # rows made from c3 and from the map after it; the rest come from the finest
POOLED = 7  # side of the maps that the W+ head flattens
Taps = tuple[jax.Array, jax.Array, jax.Array]


def _uniform(fan_in: int) -> Any:
    """PyTorch's default for weights and biases alike: uniform within 1 / sqrt(fan_in)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1, 1) / fan_in**0.5

    return init


class EqualLinear(nn.Module):
    """x @ kernel / sqrt(inputs) + bias, its kernel at first standard normal: StyleGAN2's equalised learning rate.

    Attributes:
      features: outputs.
      use_bias: add a bias.
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., I) -> (..., features), in float32."""
        kernel = self.param("kernel", nn.initializers.normal(1.0), (x.shape[-1], self.features))
        y = x.astype(jnp.float32) @ (kernel / x.shape[-1] ** 0.5)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y


class MapToStyle(nn.Module):
    """One row from one feature map: 3x3 convolutions that stride until one pixel is left, then a linear layer.

    The reference calls it GradualStyleBlock. How many convolutions there are follows from the map's side, which
    halves rounding up, so that maps of any side end at one pixel.

    Attributes:
      width: channels of the convolutions.
      w_dim: length of the row.
      dtype: of the convolutions' arithmetic.
    """

    width: int
    w_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, S, S, C) -> (B, w_dim)."""
        for i in range(max(1, (max(x.shape[1:3]) - 1).bit_length())):
            x = nn.leaky_relu(_conv(self.width, 3, 2, x, self.dtype, f"conv{i}"), 0.01)
        return EqualLinear(self.w_dim, name="linear")(x[:, 0, 0])


class RowsHead(nn.Module):
    """pSp's and e4e's head: a `MapToStyle` per row, on a feature pyramid or on the last map alone.

    Attributes:
      num_ws: rows.
      w_dim: length of a row.
      width: channels inside of row 0's network.
      delta_width: of the others.
      deltas: e4e: the rows past the first are added to row 0.
      pyramid: rows 0-2 from c3, 3-6 from that upsampled and added to c2, the rest once more upsampled and added
        to c1; otherwise (ReStyle) all from c3.
      dtype: of the convolutions' arithmetic.
    """

    num_ws: int
    w_dim: int
    width: int
    delta_width: int
    deltas: bool
    pyramid: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, taps: Taps, train: bool = False, stage: jax.Array | None = None) -> jax.Array:
        """Taps -> (B, num_ws, w_dim).

        Args:
          taps: of the trunk.
          train: has no effect here.
          stage: (e4e) the last row that has a delta, traced; the rows past it equal row 0, and no gradient reaches
            their networks. None: all have theirs.
        """
        c1, c2, c3 = taps
        maps = [c3]
        if self.pyramid and self.num_ws > COARSE:
            maps.append(_up_and_add(c3, c2, self.dtype, "lateral1"))
        if self.pyramid and self.num_ws > COARSE + MIDDLE:
            maps.append(_up_and_add(maps[1], c1, self.dtype, "lateral2"))
        rows = []
        for row in range(self.num_ws):
            level = (row >= COARSE) + (row >= COARSE + MIDDLE) if self.pyramid else 0
            width = self.delta_width if self.deltas and row else self.width
            rows.append(MapToStyle(width, self.w_dim, self.dtype, name=f"style{row}")(maps[level]))
        ws = jnp.stack(rows, 1)
        if not self.deltas:
            return ws
        offsets = ws.at[:, 0].set(0)
        if stage is not None:
            # `where`, so that locked networks get a gradient of exactly zero.
            is_open = jnp.arange(self.num_ws) <= stage
            offsets = jnp.where(is_open[None, :, None], offsets, 0)
        return ws[:, :1] + offsets


class WHead(nn.Module):
    """One vector for all rows: the last map's mean over positions, then a linear layer.

    Attributes:
      num_ws: rows.
      w_dim: length of a row.
    """

    num_ws: int
    w_dim: int

    @nn.compact
    def __call__(self, taps: Taps, train: bool = False, stage: jax.Array | None = None) -> jax.Array:
        """Taps -> (B, num_ws, w_dim)."""
        w = EqualLinear(self.w_dim, name="linear")(taps[-1].mean((1, 2)))
        return jnp.broadcast_to(w[:, None], (w.shape[0], self.num_ws, self.w_dim))


class WPlusHead(nn.Module):
    """All rows from the last map: BN, pooled to 7 x 7, flattened, two linear layers.

    Attributes:
      num_ws: rows.
      w_dim: length of a row.
      width: of the layer between.
      dtype: of the norm's result.
    """

    num_ws: int
    w_dim: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, taps: Taps, train: bool = False, stage: jax.Array | None = None) -> jax.Array:
        """Taps -> (B, num_ws, w_dim)."""
        x = BatchNorm(not train, self.dtype, name="norm")(taps[-1]).astype(jnp.float32)
        x = resize.adaptive_average_pool(x, POOLED)
        x = x.reshape(x.shape[0], -1)  # in the order H, W, C; converters permute PyTorch's C, H, W
        uniform = _uniform(x.shape[-1])
        x = nn.Dense(self.width, kernel_init=uniform, bias_init=uniform, name="dense")(x)
        return EqualLinear(self.num_ws * self.w_dim, name="linear")(x).reshape(-1, self.num_ws, self.w_dim)


class PooledHead(nn.Module):
    """latent-composition's: a 1x1 convolution of the last map to all rows at once, averaged over positions.

    Both are linear, so the mean comes first.

    Attributes:
      num_ws: rows.
      w_dim: length of a row.
    """

    num_ws: int
    w_dim: int

    @nn.compact
    def __call__(self, taps: Taps, train: bool = False, stage: jax.Array | None = None) -> jax.Array:
        """Taps -> (B, num_ws, w_dim)."""
        x = taps[-1].mean((1, 2), dtype=jnp.float32)
        kwargs = {"kernel_init": nn.initializers.he_normal(), "bias_init": nn.initializers.constant(0.01)}
        return nn.Dense(self.num_ws * self.w_dim, name="linear", **kwargs)(x).reshape(-1, self.num_ws, self.w_dim)


class DenseHead(nn.Module):
    """IDInvert's: the last map flattened, a linear layer without bias, BN over the batch.

    Attributes:
      num_ws: rows.
      w_dim: length of a row.
    """

    num_ws: int
    w_dim: int

    @nn.compact
    def __call__(self, taps: Taps, train: bool = False, stage: jax.Array | None = None) -> jax.Array:
        """Taps -> (B, num_ws, w_dim)."""
        x = taps[-1].reshape(taps[-1].shape[0], -1)  # in the order H, W, C; converters permute PyTorch's C, H, W
        x = EqualLinear(self.num_ws * self.w_dim, use_bias=False, name="linear")(x)
        return BatchNorm(not train, name="norm")(x).reshape(-1, self.num_ws, self.w_dim)


def _conv(width: int, kernel: int, stride: int, x: jax.Array, dtype: Any, name: str) -> jax.Array:
    """A convolution with bias, called from a compact method, padded as PyTorch's are."""
    pad, uniform = kernel // 2, _uniform(kernel * kernel * x.shape[-1])
    conv = functools.partial(nn.Conv, width, (kernel, kernel), (stride, stride), ((pad, pad), (pad, pad)))
    conv = functools.partial(conv, conv_general_dilated=halving.for_linen)
    return conv(dtype=dtype, kernel_init=uniform, bias_init=uniform, name=name)(x)


def _up_and_add(coarse: jax.Array, fine: jax.Array, dtype: Any, name: str) -> jax.Array:
    """One step of the pyramid: the coarse map at the fine one's size, plus a 1x1 convolution of the fine one."""
    lateral = _conv(coarse.shape[-1], 1, 1, fine, dtype, name)
    return _align_corners(coarse, fine.shape[1:3]).astype(dtype) + lateral


def _align_corners(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Bilinear resize that keeps the centres of corner pixels: (B, h, w, C) -> (B, *size, C)."""
    rows, columns = (_corner_weights(n, m) for n, m in zip(x.shape[1:3], size, strict=True))
    return resize.resample(x, rows, columns)


def _corner_weights(n: int, m: int) -> np.ndarray:
    """(m, n): how much of each of n pixels goes into each of m."""
    at = np.linspace(0, n - 1, m)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n))).astype(np.float32)
