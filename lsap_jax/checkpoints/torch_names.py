"""Taking a network out of a PyTorch state dict, tensor by tensor, so that in the end none is missing or left over."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lsap_jax.checkpoints.store import Tree
from lsap_jax.errors import CheckpointError


class Names:
    """The tensors of a state dict that have not been taken yet.

    Layers come out as {collection: {name: array}} in our layouts: kernels HWIO and (in, out), float32.

    Args:
      state_dict: {key: array}; counters of batches are dropped.
      network: what it should be, for messages, such as "an IR-SE network".
    """

    def __init__(self, state_dict: Mapping[str, Any], network: str):
        self.left = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}
        self.network = network

    def take(self, key: str, rank: int) -> np.ndarray:
        """The tensor of this name.

        Raises:
          CheckpointError: if it is missing, no array, or has another number of axes.
        """
        if key not in self.left:
            raise CheckpointError(f"{key} is missing: not the weights of {self.network}, or not all of them")
        try:
            value = np.asarray(self.left.pop(key), np.float32)
        except (TypeError, ValueError):
            raise CheckpointError(f"{key} is no tensor of numbers") from None
        if value.ndim != rank:
            raise CheckpointError(f"{key} has shape {value.shape}; it should have {rank} axes")
        return value

    def count(self, prefix: str) -> int:
        """How many things are numbered under a prefix such as "body.": one more than the largest number."""
        numbers = (re.match(r"\d+", key.removeprefix(prefix)) for key in self.left if key.startswith(prefix))
        return max((int(number[0]) + 1 for number in numbers if number), default=0)

    def has(self, prefix: str) -> bool:
        """Whether any tensor's name begins so."""
        return any(key.startswith(prefix) for key in self.left)

    def conv(self, key: str, bias: bool = False) -> Tree:
        """A convolution."""
        return self._with_bias(key, self.take(f"{key}.weight", rank=4).transpose(2, 3, 1, 0), bias)

    def pointwise(self, key: str, bias: bool = False) -> Tree:
        """A 1x1 convolution as a linear layer."""
        weight = self.take(f"{key}.weight", rank=4)
        if weight.shape[2:] != (1, 1):
            raise CheckpointError(f"{key}.weight has shape {weight.shape}; it should be a 1x1 convolution")
        return self._with_bias(key, weight[:, :, 0, 0].T, bias)

    def linear(self, key: str, channels: int = 0, bias: bool = True) -> Tree:
        """A linear layer.

        Args:
          key: without `.weight`.
          channels: if given, inputs are a flattened square map of this many channels: from PyTorch's order C, H, W
            they are put into ours, H, W, C.
          bias: whether it has one.
        """
        weight = self.take(f"{key}.weight", rank=2)
        if channels:
            side = round((weight.shape[1] / channels) ** 0.5)
            if weight.shape[1] != channels * side * side:
                raise CheckpointError(f"{key}.weight has shape {weight.shape}: no square map of {channels} channels")
            weight = weight.reshape(-1, channels, side, side).transpose(0, 2, 3, 1).reshape(weight.shape)
        return self._with_bias(key, weight.T, bias)

    def prelu(self, key: str) -> Tree:
        """The slopes of a PReLU."""
        return {"params": {"slope": self.take(f"{key}.weight", rank=1)}}

    def norm(self, key: str) -> Tree:
        """A batch norm with its statistics."""
        names = {"scale": "weight", "bias": "bias"}, {"mean": "running_mean", "var": "running_var"}
        params, statistics = ({ours: self.take(f"{key}.{theirs}", rank=1) for ours, theirs in n.items()} for n in names)
        return {"params": params, "batch_stats": statistics}

    def finish(self) -> None:
        """Make sure that all have been taken.

        Raises:
          CheckpointError: if not; names one.
        """
        if self.left:
            raise CheckpointError(f"{min(self.left)} is not a weight of {self.network}")

    def _with_bias(self, key: str, kernel: np.ndarray, bias: bool) -> Tree:
        return {"params": {"kernel": kernel, **({"bias": self.take(f"{key}.bias", rank=1)} if bias else {})}}


def merged(**modules: Tree) -> Tree:
    """{module: {collection: ...}} -> {collection: {module: ...}}."""
    collections = {c: None for module in modules.values() for c in module}
    return {c: {name: module[c] for name, module in modules.items() if c in module} for c in collections}
