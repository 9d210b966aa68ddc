"""IR-SE weights under PyTorch's names -> variables of `networks.ir_se`."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lsap_jax.checkpoints.store import Tree
from lsap_jax.errors import CheckpointError
from lsap_jax.networks.ir_se import ArcFace, Backbone, Stage


def convert_backbone(state_dict: Mapping[str, np.ndarray], prefix: str = "") -> Tree:
    """The trunk: {"params": ..., "batch_stats": ...} for `ir_se.Backbone(stages_of(state_dict, prefix))`.

    Args:
      state_dict: with `input_layer.*` and `body.*` under the prefix; what lies elsewhere is not looked at.
      prefix: such as "encoder.".

    Raises:
      CheckpointError: if a tensor is missing, or one under these two names is left over.
    """
    parts = tuple(f"{prefix}{part}." for part in ("input_layer", "body"))
    names = _Names({k: v for k, v in state_dict.items() if k.startswith(parts)})
    tree = _backbone(names, prefix)
    names.finish()
    channels = tree["params"]["input_conv"]["kernel"].shape[2]
    return _fitting(tree, Backbone(stages_of(state_dict, prefix)), (1, 32, 32, channels))


def convert_arcface(state_dict: Mapping[str, np.ndarray]) -> Tree:
    """The face recogniser, `model_ir_se50.pth`: variables for `ir_se.ArcFace(stages_of(state_dict))`.

    Raises:
      CheckpointError: if a tensor is missing or left over.
    """
    names = _Names(state_dict)
    backbone = _backbone(names, "")
    norm1 = names.norm("output_layer.0")
    channels = norm1["params"]["scale"].size
    dense = names.take("output_layer.3.weight", rank=2)
    side = round((dense.shape[1] / channels) ** 0.5)
    if dense.shape[1] != channels * side * side:
        raise CheckpointError(f"output_layer.3.weight has shape {dense.shape}: no square of {channels} channels")
    kernel = dense.reshape(-1, channels, side, side).transpose(2, 3, 1, 0).reshape(dense.shape[::-1])
    tree = _merged(
        backbone=backbone,
        norm1=norm1,
        dense={"params": {"kernel": kernel, "bias": names.take("output_layer.3.bias", rank=1)}},
        norm2=names.norm("output_layer.4"),
    )
    names.finish()
    stages = stages_of(state_dict)
    image = side * 2 ** len(stages)
    return _fitting(tree, ArcFace(stages, embedding=len(dense)), (1, image, image, 3))


def stages_of(state_dict: Mapping[str, np.ndarray], prefix: str = "") -> tuple[Stage, ...]:
    """The widths and depths of a trunk's stages: a stage begins where the first unit or a convolved shortcut is.

    Raises:
      CheckpointError: if there is no trunk under this prefix.
    """
    stages: list[Stage] = []
    index = 0
    while (key := f"{prefix}body.{index}.res_layer.1.weight") in state_dict:
        if not stages or f"{prefix}body.{index}.shortcut_layer.0.weight" in state_dict:
            stages.append(Stage(state_dict[key].shape[0], 0))
        stages[-1] = Stage(stages[-1].width, stages[-1].units + 1)
        index += 1
    if not stages:
        raise CheckpointError(f"no {prefix}body.0.res_layer.1.weight: not the weights of an IR-SE network")
    return tuple(stages)


def _backbone(names: "_Names", prefix: str) -> Tree:
    units = {}
    for i in range(sum(stage.units for stage in stages_of(names.left, prefix))):
        body, res = f"{prefix}body.{i}", f"{prefix}body.{i}.res_layer"
        unit = {
            "norm1": names.norm(f"{res}.0"),
            "conv1": names.conv(f"{res}.1"),
            "prelu": names.prelu(f"{res}.2"),
            "conv2": names.conv(f"{res}.3"),
            "norm2": names.norm(f"{res}.4"),
            "squeeze": names.linear(f"{res}.5.fc1"),
            "excite": names.linear(f"{res}.5.fc2"),
        }
        if f"{body}.shortcut_layer.0.weight" in names.left:
            unit["shortcut_conv"] = names.conv(f"{body}.shortcut_layer.0")
            unit["shortcut_norm"] = names.norm(f"{body}.shortcut_layer.1")
        units[f"unit{i}"] = _merged(**unit)
    first = f"{prefix}input_layer"
    return _merged(
        input_conv=names.conv(f"{first}.0"),
        input_norm=names.norm(f"{first}.1"),
        input_prelu=names.prelu(f"{first}.2"),
        **units,
    )


def _merged(**modules: Tree) -> Tree:
    """{module: {collection: ...}} -> {collection: {module: ...}}."""
    collections = ("params", "batch_stats")
    return {c: {name: module[c] for name, module in modules.items() if c in module} for c in collections}


def _fitting(tree: Tree, module: nn.Module, shape: tuple[int, ...]) -> Tree:
    """The tree, if every tensor has the shape that the module gives it for an input of `shape`."""
    key, image = jax.random.key(0), jax.ShapeDtypeStruct(shape, np.float32)
    wanted = jax.tree_util.tree_leaves_with_path(jax.eval_shape(module.init, key, image))
    got = dict(jax.tree_util.tree_leaves_with_path(tree))
    for path, leaf in wanted:
        if got[path].shape != leaf.shape:
            name = "/".join(str(part.key) for part in path)
            raise CheckpointError(f"{name}: the file has shape {got[path].shape} where {leaf.shape} would fit the rest")
    return tree


class _Names:
    """Takes tensors out of a state dict, so that in the end nothing may be left."""

    def __init__(self, state_dict: Mapping[str, np.ndarray]):
        self.left = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}

    def take(self, key: str, rank: int) -> np.ndarray:
        if key not in self.left:
            raise CheckpointError(f"{key} is missing: not the weights of an IR-SE network, or not all of them")
        value = np.asarray(self.left.pop(key), np.float32)
        if value.ndim != rank:
            raise CheckpointError(f"{key} has shape {value.shape}; it should have {rank} axes")
        return value

    def conv(self, key: str) -> dict[str, Any]:
        return {"params": {"kernel": self.take(f"{key}.weight", rank=4).transpose(2, 3, 1, 0)}}

    def linear(self, key: str) -> dict[str, Any]:
        """A 1x1 convolution that acts on one position."""
        return {"params": {"kernel": self.take(f"{key}.weight", rank=4)[:, :, 0, 0].T}}

    def prelu(self, key: str) -> dict[str, Any]:
        return {"params": {"slope": self.take(f"{key}.weight", rank=1)}}

    def norm(self, key: str) -> dict[str, Any]:
        names = {"scale": "weight", "bias": "bias"}, {"mean": "running_mean", "var": "running_var"}
        params, statistics = ({ours: self.take(f"{key}.{theirs}", rank=1) for ours, theirs in n.items()} for n in names)
        return {"params": params, "batch_stats": statistics}

    def finish(self) -> None:
        if self.left:
            raise CheckpointError(f"{min(self.left)} is not a weight of an IR-SE network")
