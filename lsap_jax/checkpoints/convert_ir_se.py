"""IR-SE weights under PyTorch's names -> variables of `networks.ir_se`."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np

from lsap_jax.checkpoints.store import Tree
from lsap_jax.checkpoints.torch_names import Names, merged
from lsap_jax.errors import CheckpointError
from lsap_jax.networks.ir_se import ArcFace, Backbone, Stage

NETWORK = "an IR-SE network"


def convert_backbone(state_dict: Mapping[str, np.ndarray], prefix: str = "") -> Tree:
    """The trunk: {"params": ..., "batch_stats": ...} for `ir_se.Backbone(stages_of(state_dict, prefix))`.

    Args:
      state_dict: with `input_layer.*` and `body.*` under the prefix; what lies elsewhere is not looked at.
      prefix: such as "encoder.".

    Raises:
      CheckpointError: if a tensor is missing, or one under these two names is left over.
    """
    parts = tuple(f"{prefix}{part}." for part in ("input_layer", "body"))
    names = Names({k: v for k, v in state_dict.items() if k.startswith(parts)}, NETWORK)
    tree = take_backbone(names, prefix)
    names.finish()
    channels = tree["params"]["input_conv"]["kernel"].shape[2]
    return _fitting(tree, Backbone(stages_of(state_dict, prefix)), (1, 32, 32, channels))


def convert_arcface(state_dict: Mapping[str, np.ndarray]) -> Tree:
    """The face recogniser, `model_ir_se50.pth`: variables for `ir_se.ArcFace(stages_of(state_dict))`.

    Raises:
      CheckpointError: if a tensor is missing or left over.
    """
    names = Names(state_dict, NETWORK)
    backbone = take_backbone(names)
    norm1 = names.norm("output_layer.0")
    dense = names.linear("output_layer.3", channels=norm1["params"]["scale"].size)
    tree = merged(
        backbone=backbone,
        norm1=norm1,
        dense=dense,
        norm2=names.norm("output_layer.4"),
    )
    names.finish()
    stages = stages_of(state_dict)
    positions, embedding = dense["params"]["kernel"].shape
    image = round((positions / stages[-1].width) ** 0.5) * 2 ** len(stages)
    return _fitting(tree, ArcFace(stages, embedding=embedding), (1, image, image, 3))


def stages_of(state_dict: Mapping[str, np.ndarray], prefix: str = "") -> tuple[Stage, ...]:
    """The widths and depths of a trunk's stages: a stage begins where the first unit or a convolved shortcut is.

    Raises:
      CheckpointError: if there is no trunk under this prefix, or a unit lacks its first convolution.
    """
    names, stages = Names(state_dict, NETWORK), []
    for i in range(max(1, names.count(f"{prefix}body."))):
        width = names.take(f"{prefix}body.{i}.res_layer.1.weight", rank=4).shape[0]
        if not stages or names.has(f"{prefix}body.{i}.shortcut_layer."):
            stages.append(Stage(width, 0))
        stages[-1] = Stage(stages[-1].width, stages[-1].units + 1)
    return tuple(stages)


def take_backbone(names: Names, prefix: str = "") -> Tree:
    """The trunk's tensors out of `names`: {"params": ..., "batch_stats": ...}; shapes are not compared.

    Raises:
      CheckpointError: if one is missing.
    """
    units = {}
    for i in range(sum(stage.units for stage in stages_of(names.left, prefix))):
        body, res = f"{prefix}body.{i}", f"{prefix}body.{i}.res_layer"
        unit = {
            "norm1": names.norm(f"{res}.0"),
            "conv1": names.conv(f"{res}.1"),
            "prelu": names.prelu(f"{res}.2"),
            "conv2": names.conv(f"{res}.3"),
            "norm2": names.norm(f"{res}.4"),
            "squeeze": names.pointwise(f"{res}.5.fc1"),
            "excite": names.pointwise(f"{res}.5.fc2"),
        }
        if names.has(f"{body}.shortcut_layer."):
            unit["shortcut_conv"] = names.conv(f"{body}.shortcut_layer.0")
            unit["shortcut_norm"] = names.norm(f"{body}.shortcut_layer.1")
        units[f"unit{i}"] = merged(**unit)
    first = f"{prefix}input_layer"
    return merged(
        input_conv=names.conv(f"{first}.0"),
        input_norm=names.norm(f"{first}.1"),
        input_prelu=names.prelu(f"{first}.2"),
        **units,
    )


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
