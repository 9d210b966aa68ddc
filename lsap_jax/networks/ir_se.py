"""The IR-SE network: ArcFace's residual units (arXiv 1801.07698) with squeeze-and-excitation (arXiv 1709.01507).

With `IR_SE50` it is the trunk of the pSp family of encoders, and with the `ArcFace` head the face recogniser of their
identity loss (TreB1eN's InsightFace_Pytorch). Both are Linen modules: trunks are trained.

    variables = Backbone(IR_SE50).init(key, images)
    c1, c2, c3 = Backbone(IR_SE50).apply(variables, images)
    taps, updates = Backbone(IR_SE50).apply(variables, images, train=True, mutable=["batch_stats"])

With a sharded batch inside one `jit` the batch statistics are those of the whole batch.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsap_jax.networks.batch_norm import BatchNorm


class Stage(NamedTuple):
    """Units in sequence at one resolution; the first halves the image's side.

    Attributes:
      width: channels.
      units: how many residual units.
    """

    width: int
    units: int


IR_SE50 = (Stage(64, 3), Stage(128, 4), Stage(256, 14), Stage(512, 3))
REDUCTION = 16  # of channels inside squeeze-and-excitation


class PReLU(nn.Module):
    """max(0, x) + slope min(0, x) with one trained slope per channel, at first 0.25."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., C) -> (..., C)."""
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, x * slope.reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype))


class Unit(nn.Module):
    """One residual unit: BN, 3x3, PReLU, 3x3 (which strides), BN, squeeze-and-excitation; plus the shortcut.

    Attributes:
      width: channels of the output.
      stride: 1 or 2.
      dtype: of the convolutions' arithmetic; weights and statistics stay float32.
    """

    width: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(B, H, W, I) -> (B, ceil(H / stride), ceil(W / stride), width)."""
        norm = functools.partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        if x.shape[-1] == self.width:
            shortcut = x[:, :: self.stride, :: self.stride]
        else:
            shortcut = _conv(self.width, 1, self.stride, self.dtype, "shortcut_conv")(x)
            shortcut = norm(name="shortcut_norm")(shortcut)
        x = norm(name="norm1")(x)
        x = _conv(self.width, 3, 1, self.dtype, "conv1")(x)
        x = PReLU(name="prelu")(x)
        x = _conv(self.width, 3, self.stride, self.dtype, "conv2")(x)
        x = norm(name="norm2")(x)
        gate = x.mean((1, 2))
        gate = nn.relu(nn.Dense(self.width // REDUCTION, use_bias=False, dtype=self.dtype, name="squeeze")(gate))
        gate = nn.sigmoid(nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="excite")(gate))
        return x * gate[:, None, None, :] + shortcut


class Backbone(nn.Module):
    """The trunk: one convolution at full size, then stages.

    Attributes:
      stages: widths and depths; three at least.
      dtype: of the convolutions' arithmetic.
    """

    stages: tuple[Stage, ...] = IR_SE50
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Compute the three taps that encoders read.

        Args:
          x: (B, H, W, C) images in [-1, 1], any number of channels (6 for ReStyle: image and last render).
          train: normalise by the batch, and update the running statistics.

        Returns:
          c1, c2, c3: outputs of the last three stages, for IR-SE50 (B, H/4, W/4, 128), (B, H/8, W/8, 256) and
          (B, H/16, W/16, 512).
        """
        x = _conv(self.stages[0].width, 3, 1, self.dtype, "input_conv")(x)
        x = BatchNorm(use_running_average=not train, dtype=self.dtype, name="input_norm")(x)
        x = PReLU(name="input_prelu")(x)
        taps, index = [], 0
        for stage in self.stages:
            for i in range(stage.units):
                x = Unit(stage.width, 2 if i == 0 else 1, self.dtype, name=f"unit{index}")(x, train)
                index += 1
            taps.append(x)
        return tuple(taps[-3:])


class ArcFace(nn.Module):
    """The face recogniser: trunk, then BN, dropout, a linear layer over all positions, BN.

    Attributes:
      stages: of the trunk.
      embedding: numbers in a face's description.
      dropout: share of activations dropped in training.
    """

    stages: tuple[Stage, ...] = IR_SE50
    embedding: int = 512
    dropout: float = 0.6

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(B, 112, 112, 3) aligned faces in [-1, 1] -> (B, embedding), not of unit length."""
        x = Backbone(self.stages, name="backbone")(x, train)[-1]
        x = BatchNorm(use_running_average=not train, name="norm1")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        # Flattened in the order H, W, C; the converter permutes PyTorch's C, H, W.
        x = nn.Dense(self.embedding, name="dense")(x.reshape(x.shape[0], -1))
        return BatchNorm(use_running_average=not train, name="norm2")(x)


def _conv(width: int, kernel: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    pad = kernel // 2  # PyTorch's: "SAME" would shift a strided convolution by one pixel
    return nn.Conv(
        width, (kernel, kernel), (stride, stride), ((pad, pad), (pad, pad)), use_bias=False, dtype=dtype, name=name
    )
