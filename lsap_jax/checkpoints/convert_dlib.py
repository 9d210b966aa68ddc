"""dlib's face descriptor: `dlib_face_recognition_resnet_model_v1.dat` -> the params of `networks.dlib_face`."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lsap_jax.checkpoints import dlib_file
from lsap_jax.checkpoints.store import Tree
from lsap_jax.errors import CheckpointError
from lsap_jax.networks.dlib_face import SIZE, STRIDES, descriptor


def convert(members: Mapping[str, bytes]) -> tuple[Tree, dict[str, Any]]:
    """The .dat file -> (params, description).

    Args:
      members: the file's contents under its name.

    Raises:
      CheckpointError: if it is damaged, or is another network than the face descriptor.
    """
    if len(members) != 1:
        raise CheckpointError(f"one dlib file is converted at a time, not {sorted(members)}")
    ((source, data),) = members.items()
    network = dlib_file.load(data)
    layers = iter(network.layers)
    if (network.input["height"], network.input["width"]) != (SIZE, SIZE):
        raise CheckpointError(f"{source}: a network for another size of image than {SIZE} x {SIZE}")

    tree: Tree = {"mean": np.array(network.input["mean"], np.float32)}
    tree["stem"] = _convolution(layers, source, stride=2)
    _expect(layers, source, "relu_", "max_pool_2")
    for i, stride in enumerate(STRIDES):
        first = _convolution(layers, source, stride)
        _expect(layers, source, "relu_")
        tree[f"block{i}"] = {"conv1": first, "conv2": _convolution(layers, source, stride=1)}
        if stride == 2:
            _expect(layers, source, "avg_pool_2")
        _expect(layers, source, "add_prev_", "relu_")
    _, head = _expect(layers, source, "avg_pool_2", "fc_2")
    tree["head"] = {"kernel": head["kernel"].copy()}
    if left := list(layers):
        raise CheckpointError(f"{source}: {len(left)} layers too many for dlib's face descriptor")
    try:
        jax.eval_shape(descriptor, tree, jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), np.float32))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: layers whose shapes do not fit together ({error})") from error
    return tree, {"kind": "dlib-face"}


def _convolution(layers: Iterator[dlib_file.Layer], source: str, stride: int) -> dict[str, np.ndarray]:
    """A convolution and the affine layer behind it, as one convolution."""
    conv, affine = _expect(layers, source, "con_4", "affine_")
    if conv["stride"] != (stride, stride):
        raise CheckpointError(
            f"{source}: a convolution of stride {conv['stride']} where dlib's face descriptor has {stride}"
        )
    kernel = conv["kernel"].astype(np.float64).transpose(2, 3, 1, 0) * affine["gamma"]
    bias = conv["bias"].astype(np.float64) * affine["gamma"] + affine["beta"]
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def _expect(layers: Iterator[dlib_file.Layer], source: str, *kinds: str) -> list[dict[str, Any]]:
    fields = []
    for kind in kinds:
        layer = next(layers, None)
        if layer is None or layer.kind != kind:
            found = "the end" if layer is None else layer.kind
            raise CheckpointError(f"{source}: {found} where dlib's face descriptor has {kind}; it is another network")
        fields.append(layer.fields)
    return fields
