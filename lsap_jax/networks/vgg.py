"""VGG16's convolutions (Simonyan and Zisserman, arXiv 1409.1556) as torchvision runs them; frozen."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from lsap_jax.networks.layers import conv, max_pool

LAYERS = tuple(f"conv{block}_{i}" for block, depth in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, depth + 1))
TAPS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")


def features(params: Mapping[str, Any], x: jax.Array, names: Sequence[str] = TAPS) -> tuple[jax.Array, ...]:
    """Activations after the ReLU of the named convolutions; nothing beyond the last of them is computed.

    Args:
      params: {"conv1_1": {"kernel": (3, 3, 3, 64), "bias": (64,)}, ..., "conv5_3": ...}.
      x: (B, H, W, 3), normalised as the weights want it, sides of at least 16.
      names: which; by default the five that LPIPS compares.

    Returns:
      For each name (B, H / 2^(b - 1), W / 2^(b - 1), C) of its block b, sides rounded down.
    """
    seen = {}
    for name in LAYERS[: max(map(LAYERS.index, names)) + 1]:
        if name.endswith("_1") and name != "conv1_1":
            x = max_pool(x, 2, 2)
        x = seen[name] = jax.nn.relu(conv(params[name], x, padding=1))
    return tuple(seen[name] for name in names)
