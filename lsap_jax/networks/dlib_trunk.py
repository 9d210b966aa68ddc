"""The body of dlib's face descriptor as a trunk that can be trained on: no norms, weights that know faces.

`pretrained_params` gives it dlib's own weights; then its taps are the activations of `networks.dlib_face` on the
same pixels. Convolutions that stride have no padding, as there, so sides are odd: 128 pixels become 61, 30, 15, 7
and 3.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.errors import ConfigError
from lsap_jax.networks.dlib_face import STRIDES
from lsap_jax.networks.ir_se import Stage
from lsap_jax.networks.layers import max_pool

STAGES = (Stage(32, 3), Stage(64, 4), Stage(128, 3), Stage(256, 3))  # dlib's, without its last block
MEAN = (122.782, 117.001, 104.298)  # RGB in 0..255, which dlib subtracts


class DlibTrunk(nn.Module):
    """The stem, then stages of residual blocks; the first block of every stage but the first halves the side.

    Attributes:
      stages: widths, which must not fall, and depths; three at least.
      dtype: of the convolutions' arithmetic.
    """

    stages: tuple[Stage, ...] = STAGES
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Compute the three taps that encoders read.

        Args:
          x: (B, H, W, C): RGB in [-1, 1]; three more channels are a second image, a last odd one is a mask in 0..1.
          train: has no effect here.

        Returns:
          outputs of the last three stages: of 128 pixels (B, 15, 15, 64), (B, 7, 7, 128) and (B, 3, 3, 256).
        """
        conv = functools.partial(nn.Conv, dtype=self.dtype)
        x = _as_dlib(x)
        # Every block adds to the sum; scaled so at first that the sum stays of order one.
        small = nn.initializers.variance_scaling(2 / sum(s.units for s in self.stages), "fan_in", "truncated_normal")
        he = nn.initializers.he_normal()
        x = conv(self.stages[0].width, (7, 7), (2, 2), "VALID", kernel_init=he, name="stem")(x)
        x = max_pool(nn.relu(x), 3, 2)
        taps, index = [], 0
        for n, stage in enumerate(self.stages):
            for i in range(stage.units):
                stride = 2 if n and not i else 1
                x = _Block(stage.width, stride, self.dtype, he, small, name=f"block{index}")(x)
                index += 1
            taps.append(x)
        return tuple(taps[-3:])


class _Block(nn.Module):
    width: int
    stride: int
    dtype: Any
    init1: Any
    init2: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = functools.partial(nn.Conv, self.width, (3, 3), dtype=self.dtype)
        pads = ((1, 1), (1, 1)) if self.stride == 1 else ((0, 0), (0, 0))
        y = conv((self.stride, self.stride), pads, kernel_init=self.init1, name="conv1")(x)
        y = conv(padding=((1, 1), (1, 1)), kernel_init=self.init2, name="conv2")(nn.relu(y))
        if self.stride == 2:
            b, h, w, c = x.shape
            x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
        # dlib adds tensors of different sizes as if the smaller went on with zeros, in space and in channels.
        shape = np.maximum(x.shape, y.shape)
        return nn.relu(_grow(x, shape) + _grow(y, shape))


def pretrained_params(tree: Mapping[str, Any], stages: tuple[Stage, ...] = STAGES, channels: int = 3) -> dict[str, Any]:
    """Make params of `DlibTrunk(stages)` from dlib's weights, `pretrained.load("dlib-face")[0]`.

    Args:
      tree: params of `networks.dlib_face`.
      stages: leading stages of dlib's, the last perhaps with fewer blocks.
      channels: of the input; the stem has zeros for those past RGB, so that the taps do not change.

    Raises:
      ConfigError: if `stages` are not of that form.
    """
    strides = [2 if n and not i else 1 for n, stage in enumerate(stages) for i in range(stage.units)]
    widths = [stage.width for stage in stages for _ in range(stage.units)]
    own = [tree[f"block{i}"]["conv1"]["kernel"].shape[-1] for i in range(len(STRIDES))]
    if strides != list(STRIDES[: len(strides)]) or widths != own[: len(widths)]:
        raise ConfigError(f"stages {stages}: dlib's weights fit {STAGES}, or a beginning of that")
    kernel = np.asarray(tree["stem"]["kernel"])
    kernel = np.pad(kernel, ((0, 0), (0, 0), (0, channels - kernel.shape[2]), (0, 0)))
    blocks = {f"block{i}": tree[f"block{i}"] for i in range(len(widths))}
    return {"stem": {"kernel": kernel, "bias": tree["stem"]["bias"]}, **blocks}


def _as_dlib(x: jax.Array) -> jax.Array:
    """RGB (all groups of three channels) from [-1, 1] to what dlib's stem takes; a mask as it is."""
    images = x.shape[-1] // 3
    mean = jnp.tile(jnp.array(MEAN, jnp.float32), images).reshape(1, 1, 1, -1)
    rgb = ((x[..., : 3 * images] + 1) * 127.5 - mean) / 256
    return jnp.concatenate([rgb, x[..., 3 * images :]], -1)


def _grow(x: jax.Array, shape: np.ndarray) -> jax.Array:
    return jnp.pad(x, [(0, int(n) - m) for n, m in zip(shape, x.shape, strict=True)])
