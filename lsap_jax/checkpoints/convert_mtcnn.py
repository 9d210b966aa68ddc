"""MTCNN's weights: facenet-pytorch's three state dicts -> the params of `networks.mtcnn`."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from lsap_jax.checkpoints import torch_file
from lsap_jax.checkpoints.store import Tree
from lsap_jax.errors import CheckpointError

# Every layer's kernel as PyTorch stores it: (O, I, H, W) for convolutions, (O, I) for linear layers, (C,) for PReLU
# slopes.
_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "pnet": {
        "conv1": (10, 3, 3, 3),
        "prelu1": (10,),
        "conv2": (16, 10, 3, 3),
        "prelu2": (16,),
        "conv3": (32, 16, 3, 3),
        "prelu3": (32,),
        "conv4_1": (2, 32, 1, 1),
        "conv4_2": (4, 32, 1, 1),
    },
    "rnet": {
        "conv1": (28, 3, 3, 3),
        "prelu1": (28,),
        "conv2": (48, 28, 3, 3),
        "prelu2": (48,),
        "conv3": (64, 48, 2, 2),
        "prelu3": (64,),
        "dense4": (128, 576),
        "prelu4": (128,),
        "dense5_1": (2, 128),
        "dense5_2": (4, 128),
    },
    "onet": {
        "conv1": (32, 3, 3, 3),
        "prelu1": (32,),
        "conv2": (64, 32, 3, 3),
        "prelu2": (64,),
        "conv3": (64, 64, 3, 3),
        "prelu3": (64,),
        "conv4": (128, 64, 2, 2),
        "prelu4": (128,),
        "dense5": (256, 1152),
        "prelu5": (256,),
        "dense6_1": (2, 256),
        "dense6_2": (4, 256),
        "dense6_3": (10, 256),
    },
}

# The first linear layer of R-Net and O-Net reads a 3x3 map of features.
_FLATTENED = {("rnet", "dense4"), ("onet", "dense5")}


def convert(members: Mapping[str, bytes]) -> tuple[Tree, dict[str, Any]]:
    """The files pnet.pt, rnet.pt and onet.pt of facenet-pytorch -> ({"pnet", "rnet", "onet"}: params, description).

    Args:
      members: file contents by name; folders before the file's own name do not matter.

    Raises:
      CheckpointError: if a file is missing or damaged, or a tensor is missing, left over or of another shape.
    """
    files = {pathlib.PurePosixPath(name).name: data for name, data in members.items()}
    absent = [f"{net}.pt" for net in _SHAPES if f"{net}.pt" not in files]
    if absent:
        raise CheckpointError(
            f"MTCNN: no {', '.join(absent)} among {sorted(files)}; use facenet-pytorch's package file"
        )
    return from_state_dicts({net: torch_file.load(files[f"{net}.pt"]) for net in _SHAPES}), {"kind": "mtcnn"}


def from_state_dicts(state_dicts: Mapping[str, Mapping[str, np.ndarray]]) -> Tree:
    """PyTorch's names and layouts of the three networks -> ours.

    Raises:
      CheckpointError: if a tensor is missing, left over or of another shape.
    """
    return {net: _network(net, dict(state_dicts[net])) for net in _SHAPES}


def _network(net: str, state: dict[str, np.ndarray]) -> Tree:
    def take(key: str, shape: tuple[int, ...]) -> np.ndarray:
        if key not in state:
            raise CheckpointError(f"MTCNN {net}.pt: tensor {key!r} is missing; use facenet-pytorch's own file")
        value = np.asarray(state.pop(key), np.float32)
        if value.shape != shape:
            raise CheckpointError(f"MTCNN {net}.pt: tensor {key!r} has shape {value.shape}, expected {shape}")
        return value

    params: Tree = {}
    for layer, shape in _SHAPES[net].items():
        weight = take(f"{layer}.weight", shape)
        if layer.startswith("prelu"):
            params[layer] = {"slope": weight}
            continue
        if layer.startswith("conv"):
            kernel = weight.transpose(2, 3, 1, 0)
        elif (net, layer) in _FLATTENED:
            # The reference flattens features as (W, H, C); NHWC flattens as (H, W, C).
            kernel = weight.reshape(shape[0], 3, 3, -1).transpose(2, 1, 3, 0).reshape(shape[1], shape[0])
        else:
            kernel = weight.T
        params[layer] = {"kernel": np.ascontiguousarray(kernel), "bias": take(f"{layer}.bias", shape[:1])}
    if state:
        raise CheckpointError(f"MTCNN {net}.pt: unknown tensors {sorted(state)}; use facenet-pytorch's own file")
    return params
