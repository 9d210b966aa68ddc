"""dlib's serialisation of trained networks, read without dlib.

A dlib network is a C++ type, so a file does not describe how its layers are connected; it holds, from the
start: the loss layer; one version number for every layer from the output inwards (2 for a layer that computes,
1 for a tag or a skip, 3 for the first convolution); the input layer; then what each computing layer stores,
from the input outwards. The version numbers and the order of the layers are enough to check a network's
structure against what its reader expects.

The encodings of numbers and tensors are in `dlib_stream`.
"""

import math
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from lsap_jax.checkpoints.dlib_stream import FormatError, Stream
from lsap_jax.errors import CheckpointError


class Layer(NamedTuple):
    """One computing layer: its kind with the version dlib gave it ("con_4", "affine_", ...), and what it stores."""

    kind: str
    fields: dict[str, Any]


class Network(NamedTuple):
    """A file's contents.

    Attributes:
      input: what the input layer stores: kind, mean colour, size in pixels.
      versions: the version numbers from the output inwards, the first convolution's excluded.
      layers: the computing layers from the input outwards.
    """

    input: dict[str, Any]
    versions: tuple[int, ...]
    layers: tuple[Layer, ...]


def load(source: str | os.PathLike | bytes) -> Network:
    """Read a network that was trained with dlib's metric loss on RGB images.

    Args:
      source: path or contents of the file (`dlib_face_recognition_resnet_model_v1.dat`).

    Raises:
      CheckpointError: if the file is missing, truncated, or holds another kind of network or layer.
    """
    name = "the dlib network" if isinstance(source, bytes) else os.fspath(source)
    try:
        stream = Stream(source if isinstance(source, bytes) else pathlib.Path(source).read_bytes())
        return _network(stream)
    except OSError as error:
        raise CheckpointError(f"{name}: cannot be read ({error.strerror})") from error
    except (FormatError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{name}: not a network of dlib's, or damaged ({error}); fetch it again") from error


def _network(stream: Stream) -> Network:
    if stream.integer() != 1:
        raise FormatError("it does not begin with a loss layer")
    loss = stream.string()
    if loss not in ("loss_metric_", "loss_metric_2"):
        raise FormatError(f"its loss is {loss!r}, not dlib's metric loss")
    if loss == "loss_metric_2":
        stream.float(), stream.float()  # margin and distance threshold of the training

    versions = []
    while (version := stream.integer()) in (1, 2):
        versions.append(version)
    if version != 3:
        raise FormatError(f"a layer of version {version} at {stream.at}")

    kind = stream.string()
    if kind != "input_rgb_image_sized":
        raise FormatError(f"its input is {kind!r}, not RGB images of one size")
    mean = tuple(stream.float() for _ in range(3))
    inputs = {"kind": kind, "mean": mean, "height": stream.integer(), "width": stream.integer()}

    layers = []
    for _ in range(1 + versions.count(2)):
        kind = stream.string()
        reader = _LAYERS.get(kind)
        if reader is None:
            raise FormatError(f"a layer of unknown kind {kind!r} at {stream.at}")
        layers.append(Layer(kind, reader(stream)))
        for _ in range(3):  # flags and gradients of the training, empty in a finished network
            stream.bool()
        for _ in range(3):
            stream.tensor()
        if len(layers) == 1:
            stream.integer()  # sample expansion factor, stored with the first layer only
    if stream.at != len(stream.data):
        raise FormatError(f"{len(stream.data) - stream.at} bytes too many")
    return Network(inputs, tuple(versions), tuple(layers))


def _convolution(stream: Stream) -> dict[str, Any]:
    values, filters = stream.tensor(), stream.integer()
    window = tuple(stream.integer() for _ in range(2))
    stride = tuple(stream.integer() for _ in range(2))
    padding = tuple(stream.integer() for _ in range(2))
    kernel, bias = stream.shape(version=1), stream.shape(version=1)
    _rates(stream)
    kernel, bias = _split(values, kernel, bias)
    if kernel.shape[0] != filters or kernel.shape[2:] != window:
        raise FormatError(f"a convolution of shape {kernel.shape} that claims {filters} filters of {window}")
    return {"kernel": kernel, "bias": bias.reshape(-1), "stride": stride, "padding": padding}


def _affine(stream: Stream) -> dict[str, Any]:
    values = stream.tensor()
    gamma, beta = _split(values, stream.shape(version=1), stream.shape(version=1))
    stream.integer()  # whether it stands behind a convolution or a linear layer
    return {"gamma": gamma.reshape(-1), "beta": beta.reshape(-1)}


def _linear(stream: Stream) -> dict[str, Any]:
    outputs, inputs = stream.integer(), stream.integer()
    values = stream.tensor()
    weight, _ = stream.shape(version=1), stream.shape(version=1)
    mode = stream.integer()
    _rates(stream)
    if mode != 1:
        raise FormatError("a linear layer with bias, where there should be none")
    if weight != (inputs, outputs, 1, 1) or values.size != inputs * outputs:
        raise FormatError(f"a linear layer of shape {weight} that claims {inputs} to {outputs}")
    return {"kernel": values.reshape(inputs, outputs)}


def _pooling(stream: Stream) -> dict[str, Any]:
    window, stride, padding = (tuple(stream.integer() for _ in range(2)) for _ in range(3))
    return {"window": window, "stride": stride, "padding": padding}


def _rates(stream: Stream) -> None:
    for _ in range(4):  # multipliers of learning rates and weight decays
        stream.float()


def _split(values: np.ndarray, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    sizes = [math.prod(shape) for shape in shapes]
    if min(sizes) < 0 or sum(sizes) != values.size:
        raise FormatError(f"{values.size} weights for tensors of shapes {shapes}")
    parts = np.split(values.reshape(-1), np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


_LAYERS = {
    "con_4": _convolution,
    "affine_": _affine,
    "relu_": lambda stream: {},
    "add_prev_": lambda stream: {},
    "max_pool_2": _pooling,
    "avg_pool_2": _pooling,
    "fc_2": _linear,
}
