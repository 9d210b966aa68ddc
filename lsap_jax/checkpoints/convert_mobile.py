"""MobileStyleGAN (arXiv 2104.04767) as exported to OpenVINO IR -> our parameter tree.

What changes on the way, none of it the function that is computed:

* layouts become ours: kernels HWIO, linear weights (in, out), the constant input HWC;
* the gain sqrt(2) of a mapping layer moves into its weight and bias (leaky ReLU is homogeneous);
* the constant by which a convolution's style is multiplied moves into its kernel, so that a style is the plain output
  of its affine layer, as in StyleGAN2;
* the export stores every noise map times its learned strength; here a map has unit mean square and the strength
  stands beside it, so that fresh noise can take the map's place;
* channels that feed an inverse wavelet step are put in band order [LL, LH, HL, HH] (the export has LL, then the other
  three interleaved).

The mean of w is not in the export; it is computed here.
"""

from typing import Any

import numpy as np

from lsap_jax.checkpoints import openvino_ir, store
from lsap_jax.checkpoints.openvino_ir import Graph, Layer
from lsap_jax.errors import CheckpointError
from lsap_jax.generators import mobile
from lsap_jax.generators.base import architecture_record

W_AVG_SAMPLES = 100_000


def convert(members: dict[str, bytes]) -> tuple[store.Tree, dict[str, Any]]:
    """Convert an exported generator.

    Args:
      members: the contents of MappingNetwork.xml, MappingNetwork.bin, SynthesisNetwork.xml, SynthesisNetwork.bin, under
        paths that end so.

    Returns:
      ({"params", "w_avg", "noise"}, description), as lsap_jax/generators/files.py reads it.

    Raises:
      CheckpointError: if a file is missing, damaged, or not such a network.
    """
    mapping_graph, synthesis_graph = (_graph(members, name) for name in ("MappingNetwork", "SynthesisNetwork"))
    try:
        mapping = _mapping(mapping_graph)
        synthesis, noise, channels = _synthesis(synthesis_graph)
    except (IndexError, ValueError) as error:
        raise CheckpointError(f"{synthesis_graph.name}: not MobileStyleGAN's layout ({error})") from error
    arch = mobile.MobileStyleGAN(
        channels=channels,
        z_dim=mapping["fc0"]["weight"].shape[0],
        w_dim=synthesis["image"]["affine"]["weight"].shape[0],
        mapping_layers=len(mapping),
    )
    params = {"mapping": mapping, "synthesis": synthesis}
    wanted = {key: tuple(shape.tolist()) for key, shape in store.flatten(mobile.param_shapes(arch)).items()}
    for key, value in store.flatten(params).items():
        if value.shape != wanted.get(key):
            raise CheckpointError(f"{synthesis_graph.name}: {key} has shape {value.shape}, not {wanted.get(key)}")
    tree = {
        "params": params,
        "w_avg": _mean_w(mapping),
        "noise": {str(i): n for i, n in enumerate(noise)},
    }
    about = f"mean of w over {W_AVG_SAMPLES} z from numpy.random.RandomState(0)"
    return tree, {"kind": "generator", "architecture": architecture_record(arch), "w_avg": about}


def _graph(members: dict[str, bytes], name: str) -> Graph:
    contents = []
    for file in (f"{name}.xml", f"{name}.bin"):
        found = [data for path, data in members.items() if path.endswith(file)]
        if len(found) != 1:
            raise CheckpointError(f"{len(found)} files {file} among {sorted(members)}; one is needed")
        contents.append(found[0])
    return openvino_ir.read(*contents)


def _mapping(graph: Graph) -> store.Tree:
    """{"fc0": {"weight", "bias"}, ...}: w = a chain of leaky ReLU(x @ weight + bias) on the normalised z."""
    layers = {}
    for index, matmul in enumerate(graph.of_type("MatMul")):
        add = graph.consumer(matmul, "Add")
        gain = graph.operand(graph.consumer(_activation(graph, add), "Multiply")).item()
        weight, bias = graph.operand(matmul).T, graph.operand(add).reshape(-1)
        layers[f"fc{index}"] = {"weight": _times(weight, gain), "bias": _times(bias, gain)}
    if not layers:
        raise CheckpointError(f"{graph.name}: no MatMul; this is not a mapping network")
    return layers


def _synthesis(graph: Graph) -> tuple[store.Tree, list[np.ndarray], tuple[int, ...]]:
    """Parameters, unit noise maps in the order of use, and channels at 4, 8, ... pixels."""
    noise: list[np.ndarray] = []
    constant = graph.constant("m.input.input").value
    first = _convolution(graph, "m.conv1", noise)
    tree: store.Tree = {"b4": {"const": np.ascontiguousarray(constant[0].transpose(1, 2, 0)), "conv": first}}
    channels = [first["bias"].size]
    names = {layer.name for layer in graph.of_type("Const")}
    while (prefix := f"m.layers.{len(channels) - 1}") + ".up.modulation.weight" in names:
        block = {
            "up": _affine(graph, f"{prefix}.up")[0],
            "conv_a": _convolution(graph, f"{prefix}.conv1", noise),
            "conv_b": _convolution(graph, f"{prefix}.conv2", noise),
        }
        tree[f"b{4 << len(channels)}"] = block
        channels.append(block["conv_b"]["bias"].size)
    prefix = f"m.layers.{len(channels) - 2}.to_img"
    affine, scale = _affine(graph, f"{prefix}.conv")
    kernel = graph.constant(f"{prefix}.conv.weight").value
    tree["image"] = {
        "affine": affine,
        "weight": _times(kernel[:, :, 0, 0].T, scale),
        "bias": graph.constant(f"{prefix}.bias").value.reshape(-1),
    }
    _reorder_bands(tree)
    return tree, noise, tuple(channels)


def _convolution(graph: Graph, prefix: str, noise: list[np.ndarray]) -> store.Tree:
    """A styled convolution: dense ("weight") or separable ("depthwise", "pointwise"); appends its noise map."""
    affine, scale = _affine(graph, f"{prefix}.conv")
    bias = graph.constant(f"{prefix}.bias")
    add_bias = graph.consumer(bias, "Add")
    _activation(graph, add_bias)
    add_noise = _input(graph, add_bias, "Add")
    last = _input(graph, add_noise, "Convolution")
    kernel = _times(graph.operand(last).transpose(2, 3, 1, 0), scale)
    before = [layer for layer in graph.inputs(last) if layer.type == "GroupConvolution"]
    if before:
        depthwise = graph.operand(before[0])[:, 0, 0].transpose(1, 2, 0)
        weights = {"depthwise": np.ascontiguousarray(depthwise), "pointwise": kernel[0, 0]}
    else:
        weights = {"weight": kernel}
    scaled = graph.operand(add_noise)[0, 0].astype(np.float64)
    strength = np.sqrt(np.mean(scaled**2))
    noise.append((scaled / (strength or 1)).astype(np.float32))
    return {"affine": affine, **weights, "bias": bias.value.reshape(-1), "noise_strength": np.float32(strength)}


def _affine(graph: Graph, prefix: str) -> tuple[store.Tree, float]:
    """The affine layer of a style, and the constant by which its output is multiplied (1 if there is none)."""
    weight, bias = (graph.constant(f"{prefix}.modulation.{part}") for part in ("weight", "bias"))
    reshaped = graph.consumer(graph.consumer(bias, "Add"), "Reshape")
    product = graph.consumer(reshaped, "Multiply")
    scale = [x.value.item() for x in graph.inputs(product) if x.type == "Const" and x.value.size == 1]
    return {"weight": np.ascontiguousarray(weight.value.T), "bias": bias.value.reshape(-1)}, (scale or [1.0])[0]


def _activation(graph: Graph, layer: Layer) -> Layer:
    prelu = graph.consumer(layer, "PReLU")
    slope = graph.operand(prelu)
    if slope.size != 1 or abs(slope.item() - mobile.SLOPE) > 1e-6:
        raise CheckpointError(
            f"{graph.name}: layer {prelu.name!r} has slope {slope.ravel()[:4]}; {mobile.SLOPE} is built in"
        )
    return prelu


def _input(graph: Graph, layer: Layer, kind: str) -> Layer:
    for source in graph.inputs(layer):
        if source.type == kind:
            return source
    raise CheckpointError(f"{graph.name}: layer {layer.name!r} reads no {kind}; this is not the network expected")


def _reorder_bands(tree: store.Tree) -> None:
    """Put the channels before each inverse wavelet step, and all that acts on them, in band order."""
    blocks = [name for name in tree if name != "image"]
    for before, after in zip(blocks, [*blocks[1:], "image"], strict=True):
        if after == "image":
            parts = [(tree["image"], ("weight", "bias"))]
        else:
            conv = tree[before]["conv" if before == "b4" else "conv_b"]
            last = "weight" if "weight" in conv else "pointwise"
            parts = [(conv, (last, "bias")), (tree[after]["up"], ("weight", "bias"))]
        for node, keys in parts:
            for key in keys:
                c = node[key].shape[-1] // 4
                order = np.concatenate([np.arange(c), (c + 3 * np.arange(c) + np.arange(3)[:, None]).ravel()])
                node[key] = np.ascontiguousarray(node[key][..., order])


def _times(array: np.ndarray, factor: float) -> np.ndarray:
    """The product, rounded to float32 once."""
    return np.ascontiguousarray((array.astype(np.float64) * factor).astype(np.float32))


def _mean_w(mapping: store.Tree, chunk: int = 10_000) -> np.ndarray:
    """Mean of w over `W_AVG_SAMPLES` z: (w_dim,) float32, the same on every machine up to rounding."""
    random = np.random.RandomState(0)
    total = np.zeros(mapping[f"fc{len(mapping) - 1}"]["bias"].shape)
    for _ in range(W_AVG_SAMPLES // chunk):
        x = random.randn(chunk, mapping["fc0"]["weight"].shape[0]).astype(np.float32)
        x /= np.sqrt(np.mean(x * x, axis=1, keepdims=True) + 1e-8)
        for layer in mapping.values():
            x = x @ layer["weight"] + layer["bias"]
            x = np.maximum(x, np.float32(mobile.SLOPE) * x)
        total += x.sum(0, dtype=np.float64)
    return (total / W_AVG_SAMPLES).astype(np.float32)
