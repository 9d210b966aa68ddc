"""ResNet (arXiv 1512.03385) with batch normalisation and basic blocks, as torchvision builds its 18 and 34 layers."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsap_jax.networks.batch_norm import BatchNorm
from lsap_jax.networks.ir_se import Stage
from lsap_jax.networks.layers import max_pool

RESNET18 = (Stage(64, 2), Stage(128, 2), Stage(256, 2), Stage(512, 2))
RESNET34 = (Stage(64, 3), Stage(128, 4), Stage(256, 6), Stage(512, 3))


class BasicBlock(nn.Module):
    """3x3 (which strides), BN, ReLU, 3x3, BN; plus the shortcut; ReLU.

    Attributes:
      width: channels of the output.
      stride: 1 or 2.
      dtype: of the convolutions' arithmetic.
    """

    width: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(B, H, W, I) -> (B, ceil(H / stride), ceil(W / stride), width)."""
        norm = functools.partial(BatchNorm, not train, self.dtype)
        y = _conv(self.width, 3, self.stride, self.dtype, "conv1")(x)
        y = nn.relu(norm(name="norm1")(y))
        y = norm(name="norm2")(_conv(self.width, 3, 1, self.dtype, "conv2")(y))
        if x.shape != y.shape:
            x = _conv(self.width, 1, self.stride, self.dtype, "shortcut_conv")(x)
            x = norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """The trunk: a strided 7x7 convolution, max pooling, then stages; all but the first halve the side.

    Attributes:
      stages: widths and depths; three at least.
      dtype: of the convolutions' arithmetic.
    """

    stages: tuple[Stage, ...] = RESNET34
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Compute the three taps that encoders read.

        Args:
          x: (B, H, W, C) images in [-1, 1], any number of channels.
          train: normalise by the batch, and update the running statistics.

        Returns:
          outputs of the last three stages: of 256 pixels (B, 32, 32, 128), (B, 16, 16, 256) and (B, 8, 8, 512).
        """
        x = _conv(self.stages[0].width, 7, 2, self.dtype, "stem_conv")(x)
        x = nn.relu(BatchNorm(not train, self.dtype, name="stem_norm")(x))
        # What is pooled is not negative, so zeros around it are as good as PyTorch's minus infinity.
        x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)
        taps, index = [], 0
        for n, stage in enumerate(self.stages):
            for i in range(stage.units):
                x = BasicBlock(stage.width, 2 if n and not i else 1, self.dtype, name=f"block{index}")(x, train)
                index += 1
            taps.append(x)
        return tuple(taps[-3:])


def _conv(width: int, kernel: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    pad = kernel // 2
    conv = functools.partial(nn.Conv, width, (kernel, kernel), (stride, stride), ((pad, pad), (pad, pad)))
    return conv(use_bias=False, dtype=dtype, kernel_init=nn.initializers.he_normal(), name=name)
