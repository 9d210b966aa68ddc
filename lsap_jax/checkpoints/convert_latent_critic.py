"""Latent critics under PyTorch's names -> variables of `networks.latent_critic`."""

from collections.abc import Mapping

import numpy as np

from lsap_jax.checkpoints.store import Tree
from lsap_jax.errors import CheckpointError


def convert(state_dict: Mapping[str, np.ndarray]) -> tuple[Tree, int]:
    """Read e4e's `LatentCodesDiscriminator`, which its training checkpoints keep as `discriminator_state_dict`.

    Args:
      state_dict: `mlp.0.weight`, `mlp.0.bias`, `mlp.2.weight`, ...: linear layers with an activation between two; a
        prefix `module.`, which training on several GPUs leaves, is dropped.

    Returns:
      {"params": ...} of `LatentCritic(layers)`, and the number of layers.

    Raises:
      CheckpointError: if a tensor is missing, left over, or of another shape than the rest asks for.
    """
    left = {key.removeprefix("module."): np.asarray(value, np.float32) for key, value in state_dict.items()}
    layers = sum(key.endswith(".weight") for key in left)
    width = left["mlp.0.weight"].shape[-1] if "mlp.0.weight" in left else 0
    params = {}
    for layer in range(max(layers, 1)):
        outputs = 1 if layer == layers - 1 else width
        taken = {}
        for name, shape in (("weight", (outputs, width)), ("bias", (outputs,))):
            key = f"mlp.{2 * layer}.{name}"
            if key not in left:
                raise CheckpointError(f"{key} is missing: not the weights of a latent critic, or not all of them")
            taken[name] = left.pop(key)
            if taken[name].shape != shape:
                raise CheckpointError(f"{key} has shape {taken[name].shape} where {shape} would fit the rest")
        params[f"dense{layer}"] = {"kernel": taken["weight"].T, "bias": taken["bias"]}
    if left:
        raise CheckpointError(f"{min(left)} is not a weight of a latent critic")
    return {"params": params}, layers
