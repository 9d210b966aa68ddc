"""AlexNet's convolutions (Krizhevsky, arXiv 1404.5997) as torchvision runs them; frozen."""

from collections.abc import Mapping
from typing import Any

import jax

from lsap_jax.networks.layers import conv, max_pool

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")


def features(params: Mapping[str, Any], x: jax.Array) -> tuple[jax.Array, ...]:
    """Activations after the ReLU of all five convolutions.

    Args:
      params: {"conv1": {"kernel": (11, 11, 3, 64), "bias": (64,)}, ..., "conv5": ...}.
      x: (B, H, W, 3), normalised as the weights want it, sides of at least 31.

    Returns:
      Five arrays with 64, 192, 384, 256, 256 channels; the first at a quarter of the input's size.
    """
    x = relu1 = jax.nn.relu(conv(params["conv1"], x, stride=4, padding=2))
    x = relu2 = jax.nn.relu(conv(params["conv2"], max_pool(x, 3, 2), padding=2))
    x = relu3 = jax.nn.relu(conv(params["conv3"], max_pool(x, 3, 2), padding=1))
    x = relu4 = jax.nn.relu(conv(params["conv4"], x, padding=1))
    return relu1, relu2, relu3, relu4, jax.nn.relu(conv(params["conv5"], x, padding=1))
