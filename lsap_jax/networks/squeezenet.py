"""SqueezeNet 1.1's convolutions (Iandola et al., arXiv 1602.07360) as torchvision runs them; frozen."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lsap_jax.networks.layers import conv, max_pool

LAYERS = ("conv1", "fire2", "fire3", "fire4", "fire5", "fire6", "fire7", "fire8", "fire9")
TAPS = ("conv1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")


def features(params: Mapping[str, Any], x: jax.Array) -> tuple[jax.Array, ...]:
    """The seven activations that LPIPS compares.

    Args:
      params: {"conv1": {"kernel": (3, 3, 3, 64), "bias": (64,)}, "fire2": {"squeeze": {...}, "expand1x1": {...},
        "expand3x3": {...}}, ..., "fire9": ...}.
      x: (B, H, W, 3), normalised as the weights want it, sides of at least 17.

    Returns:
      Seven arrays with 64, 128, 256, 384, 384, 512, 512 channels; the first at half the input's size.
    """
    x = jax.nn.relu(conv(params["conv1"], x, stride=2))
    seen = {"conv1": x}
    for name in LAYERS[1:]:
        if name in ("fire2", "fire4", "fire6"):
            x = max_pool(x, 3, 2, ceil=True)
        x = seen[name] = _fire(params[name], x)
    return tuple(seen[name] for name in TAPS)


def _fire(params: Mapping[str, Any], x: jax.Array) -> jax.Array:
    x = jax.nn.relu(conv(params["squeeze"], x))
    expanded = conv(params["expand1x1"], x), conv(params["expand3x3"], x, padding=1)
    return jax.nn.relu(jnp.concatenate(expanded, axis=-1))
