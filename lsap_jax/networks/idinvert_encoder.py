"""The trunk of IDInvert's domain-guided encoder (arXiv 2004.00049), as its PyTorch release has it."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsap_jax.networks.batch_norm import BatchNorm
from lsap_jax.networks.ir_se import Stage

# For 256 pixels: a first convolution, then one residual block after every halving down to 4 pixels.
STAGES = tuple(Stage(width, 1) for width in (64, 128, 256, 512, 1024, 1024, 1024))


class IdinvertTrunk(nn.Module):
    """A convolution at full size, then stages that begin with 2x2 average pooling.

    Attributes:
      stages: the first is the convolution alone; the others' widths and how many residual blocks; three at least.
      dtype: of the convolutions' arithmetic.
    """

    stages: tuple[Stage, ...] = STAGES
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Compute the three taps that heads read.

        Args:
          x: (B, H, W, C) images in [-1, 1].
          train: normalise by the batch, and update the running statistics.

        Returns:
          outputs of the last three stages: of 256 pixels (B, 16, 16, 1024), (B, 8, 8, 1024) and (B, 4, 4, 1024).
        """
        x = _conv(self.stages[0].width, 3, False, self.dtype, "input_conv")(x)
        x = _act(BatchNorm(not train, self.dtype, name="input_norm")(x))
        taps, index = [x], 0
        for stage in self.stages[1:]:
            x = nn.avg_pool(x, (2, 2), (2, 2))
            for _ in range(stage.units):
                x = _Block(stage.width, self.dtype, name=f"block{index}")(x, train)
                index += 1
            taps.append(x)
        fine, middle, coarse = taps[-3:]
        return fine, middle, coarse


class _Block(nn.Module):
    """Shortcut (1x1, BN, leaky ReLU where channels change) plus two times 3x3, BN, leaky ReLU; nothing after."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        norm = functools.partial(BatchNorm, not train, self.dtype)
        y = _conv(min(x.shape[-1], self.width), 3, True, self.dtype, "conv1")(x)
        y = _act(norm(name="norm1")(y))
        y = _act(norm(name="norm2")(_conv(self.width, 3, True, self.dtype, "conv2")(y)))
        if x.shape[-1] != self.width:
            x = _conv(self.width, 1, False, self.dtype, "shortcut_conv")(x)
            x = _act(norm(name="shortcut_norm")(x))
        return x + y


def _act(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, 0.2)


def _conv(width: int, kernel: int, use_bias: bool, dtype: Any, name: str) -> nn.Conv:
    pad = kernel // 2
    conv = functools.partial(nn.Conv, width, (kernel, kernel), (1, 1), ((pad, pad), (pad, pad)), use_bias=use_bias)
    return conv(dtype=dtype, kernel_init=nn.initializers.he_normal(), name=name)
