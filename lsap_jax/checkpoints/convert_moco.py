"""MoCo checkpoints -> params of `networks.moco`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lsap_jax.checkpoints.store import Tree
from lsap_jax.errors import CheckpointError

PREFIX = "module.encoder_q."
EPS = 1e-5  # of torchvision's batch normalisation


def convert(checkpoint: Any) -> Tree:
    """The query encoder of a MoCo-v1 or v2 checkpoint, without its projection, batch normalisation folded in.

    Args:
      checkpoint: {"state_dict": {"module.encoder_q.conv1.weight": ..., ...}, ...} or the state dict itself; the key
        encoder, the queue and the projection `fc` are not looked at.

    Returns:
      see `networks.moco.features`.

    Raises:
      CheckpointError: if a tensor is missing, left over, or of a shape that does not fit the rest.
    """
    state_dict = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else {}
    left = {
        key.removeprefix(PREFIX): value
        for key, value in state_dict.items()
        if key.startswith(PREFIX) and not key.startswith(f"{PREFIX}fc.") and not key.endswith("num_batches_tracked")
    }
    if not left:
        raise CheckpointError(f"no {PREFIX}conv1.weight: not a MoCo checkpoint")
    tree: Tree = {"stem": _folded(left, "conv1", "bn1", inputs=3, size=7)}
    channels = tree["stem"]["bias"].size
    for layer in range(1, 5):
        blocks: Tree = {}
        while not blocks or f"layer{layer}.{len(blocks)}.conv1.weight" in left:
            name = f"layer{layer}.{len(blocks)}"
            block = {"conv1": _folded(left, f"{name}.conv1", f"{name}.bn1", channels, 1)}
            width = block["conv1"]["bias"].size
            block["conv2"] = _folded(left, f"{name}.conv2", f"{name}.bn2", width, 3)
            block["conv3"] = _folded(left, f"{name}.conv3", f"{name}.bn3", block["conv2"]["bias"].size, 1)
            if not blocks:
                block["shortcut"] = _folded(left, f"{name}.downsample.0", f"{name}.downsample.1", channels, 1)
            channels = block["conv3"]["bias"].size
            blocks[f"block{len(blocks)}"] = block
        tree[f"layer{layer}"] = blocks
    if left:
        raise CheckpointError(f"{PREFIX}{min(left)} is not a weight of a ResNet of bottleneck units")
    return tree


def _folded(left: dict[str, Any], conv: str, norm: str, inputs: int, size: int) -> dict[str, np.ndarray]:
    """A convolution without bias and the batch normalisation after it, as one convolution with bias."""
    kernel = _take(left, f"{conv}.weight")
    if kernel.ndim != 4 or kernel.shape[1:] != (inputs, size, size):
        raise CheckpointError(
            f"{PREFIX}{conv}.weight has shape {kernel.shape}; (?, {inputs}, {size}, {size}) would fit"
        )
    names = ("weight", "bias", "running_mean", "running_var")
    scale, bias, mean, var = (_take(left, f"{norm}.{name}") for name in names)
    for name, value in zip(names, (scale, bias, mean, var), strict=True):
        if value.shape != kernel.shape[:1]:
            raise CheckpointError(
                f"{PREFIX}{norm}.{name} has shape {value.shape}; {kernel.shape[:1]} would fit the rest"
            )
    gain = scale / np.sqrt(var + EPS)
    folded = {"kernel": (kernel * gain[:, None, None, None]).transpose(2, 3, 1, 0), "bias": bias - mean * gain}
    return {name: value.astype(np.float32) for name, value in folded.items()}


def _take(left: dict[str, Any], key: str) -> np.ndarray:
    if key not in left:
        raise CheckpointError(f"{PREFIX}{key} is missing: not a MoCo ResNet-50, or not all of it")
    return np.asarray(left.pop(key), np.float64)
