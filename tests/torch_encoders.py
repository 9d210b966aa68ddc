"""Narrow encoders under the published names of their tensors, made from the golden cases' lists of names."""

import json

import numpy as np
from golden import FIXTURES, normal

BODY = {0: 0, 3: 1, 7: 2, 21: 3}  # the first unit of every stage is kept
LAYER = {"0": "0", "1": "1"}  # of ResNet-34
WIDTHS = {64: 16, 128: 20, 256: 24, 512: 28}
W_DIM = WIDTHS[512]


def _narrow(case: str, rename, sizes) -> dict[str, np.ndarray]:
    tensors = {}
    for key, shape, *_ in json.loads((FIXTURES / case / "keys.json").read_text()):
        name = rename(key)
        if name is not None:
            value = normal(name, sizes(key, shape), scale=0.2)
            tensors[name] = np.abs(value) + 0.5 if name.endswith("running_var") else value
    return tensors


def _sizes(key: str, shape) -> list[int]:
    if ".fc1." in key or ".fc2." in key:  # squeeze-and-excitation: a sixteenth of the channels
        return [WIDTHS.get(shape[0], 1), 1, 1, 1] if ".fc2." in key else [1, WIDTHS[shape[1]], 1, 1]
    return [WIDTHS.get(size, size) for size in shape]


def trunk(channels: int = 3) -> dict[str, np.ndarray]:
    """An IR-SE trunk of four units."""

    def rename(key):
        part, _, rest = key.partition(".")
        index, _, leaf = rest.partition(".")
        if part == "input_layer":
            return key
        return f"body.{BODY[int(index)]}.{leaf}" if part == "body" and int(index) in BODY else None

    tensors = _narrow("d_psp18", rename, _sizes)
    return tensors | {"input_layer.0.weight": normal("first", (16, channels, 3, 3), 0.2)}


def psp(rows: int = 8) -> dict[str, np.ndarray]:
    """An encoder that may be of pSp or of e4e; the two have the same names."""

    def rename(key):
        part, _, rest = key.partition(".")
        is_row = part == "styles" and int(rest.partition(".")[0]) < rows
        return key if is_row or part.startswith("latlayer") else None

    return trunk() | _narrow("d_psp18", rename, _sizes)


def restyle(rows: int = 5) -> dict[str, np.ndarray]:
    """ReStyle's: two images in, every row from the last map."""
    coarse = {k.split(".", 2)[2]: v for k, v in psp(1).items() if k.startswith("styles.0.")}
    return trunk(channels=6) | {f"styles.{i}.{k}": v + 0.01 * i for i in range(rows) for k, v in coarse.items()}


def w() -> dict[str, np.ndarray]:
    """A W encoder."""
    return trunk() | _narrow("d_wenc", lambda key: key, _sizes)


def w_plus(rows: int = 4) -> dict[str, np.ndarray]:
    """An encoder whose last layer makes all rows."""
    shapes = {f"output_layer_2.0.{k}": (W_DIM,) for k in ("weight", "bias", "running_mean", "running_var")}
    shapes |= {"output_layer_2.3.weight": (W_DIM, 49 * W_DIM), "output_layer_2.3.bias": (W_DIM,)}
    shapes |= {"linear.weight": (rows * W_DIM, W_DIM), "linear.bias": (rows * W_DIM,)}
    return trunk() | {k: np.abs(normal(k, shape, 0.2)) + 0.1 for k, shape in shapes.items()}


def latent_composition() -> dict[str, np.ndarray]:
    """latent-composition's, two units in each stage."""

    def rename(key):
        parts = key.split(".")
        return None if parts[0] in ("layer1", "layer2", "layer3", "layer4") and parts[1] not in LAYER else key

    return _narrow("h_latent_composition_enc", rename, _sizes)


def idinvert() -> dict[str, np.ndarray]:
    """IDInvert's for 64 pixels: two residual blocks fewer."""

    def rename(key):
        block, _, leaf = key.partition(".")
        kept = {"block0": 0, "block1": 1, "block2": 2, "block5": 3, "block6": 4, "block7": 5}
        return f"block{kept[block]}.{leaf}" if block in kept else None

    def sizes(key, shape):
        narrow = {64: 4, 128: 6, 256: 8, 1024: 8, 7168: 3 * 512, 16384: 16 * 8}
        return [narrow.get(size, size) for size in shape]

    return _narrow("h_idinvert_enc256", rename, sizes)
