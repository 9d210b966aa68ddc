"""Names of StyleGAN2's tensors: rosinality's as NVIDIA's.

rosinality                                   NVIDIA
style.1.weight                               mapping.fc0.weight
convs.2.conv.modulation.weight               synthesis.b16.conv0.affine.weight
convs.3.activate.bias                        synthesis.b16.conv1.bias
to_rgbs.1.conv.weight (1, 3, C, 1, 1)        synthesis.b16.torgb.weight (3, C, 1, 1)
noises.noise_3 (1, 1, 16, 16)                synthesis.b16.conv0.noise_const (16, 16)
convs.1.conv2.1.weight (discriminator)       b1024.conv1.weight
"""

import re

import numpy as np

from lsap_jax.errors import CheckpointError

# Public module names of rosinality's generator; {n} is a number.
GENERATOR_NAMES = (
    (r"style\.(\d+)\.(weight|bias)", lambda n, leaf: f"mapping.fc{int(n) - 1}.{leaf}"),
    (r"input\.input", lambda: "synthesis.b4.const"),
    (r"conv1\.(.*)", lambda rest: f"synthesis.b4.conv1.{_layer_leaf(rest)}"),
    (r"convs\.(\d+)\.(.*)", lambda n, rest: f"synthesis.b{8 << int(n) // 2}.conv{int(n) % 2}.{_layer_leaf(rest)}"),
    (r"to_rgb1\.(.*)", lambda rest: f"synthesis.b4.torgb.{_layer_leaf(rest)}"),
    (r"to_rgbs\.(\d+)\.(.*)", lambda n, rest: f"synthesis.b{8 << int(n)}.torgb.{_layer_leaf(rest)}"),
    (r"noises\.noise_(\d+)", lambda n: f"synthesis.b{4 << (int(n) + 1) // 2}.conv{(int(n) + 1) % 2}.noise_const"),
)
_LAYER_LEAVES = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "conv.blur.kernel": "resample_filter",
    "upsample.kernel": "resample_filter",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}


def _layer_leaf(rest: str) -> str:
    return _LAYER_LEAVES.get(rest, rest)


def discriminator_names(state: dict[str, np.ndarray]) -> tuple:
    """Rules for a discriminator, whose names count down from a resolution that the number of blocks gives."""
    blocks = sum(1 for k in state if re.fullmatch(r"convs\.\d+\.conv1\.0\.weight", k))

    def block(n, rest):
        r = 4 << blocks + 1 - int(n)
        return f"b{r}.{_BLOCK_LEAVES.get(rest, rest)}"

    return (
        (r"convs\.0\.0\.weight", lambda: f"b{4 << blocks}.fromrgb.weight"),
        (r"convs\.0\.1\.bias", lambda: f"b{4 << blocks}.fromrgb.bias"),
        (r"convs\.(\d+)\.(.*)", block),
        (r"final_conv\.0\.weight", lambda: "b4.conv.weight"),
        (r"final_conv\.1\.bias", lambda: "b4.conv.bias"),
        (r"final_linear\.0\.(weight|bias)", lambda leaf: f"b4.fc.{leaf}"),
        (r"final_linear\.1\.(weight|bias)", lambda leaf: f"b4.out.{leaf}"),
    )


_BLOCK_LEAVES = {
    "conv1.0.weight": "conv0.weight",
    "conv1.1.bias": "conv0.bias",
    "conv2.0.kernel": "conv1.resample_filter",
    "conv2.1.weight": "conv1.weight",
    "conv2.2.bias": "conv1.bias",
    "skip.0.kernel": "skip.resample_filter",
    "skip.1.weight": "skip.weight",
}


def nvidia_names(state: dict[str, np.ndarray], name: str, rules: tuple) -> dict[str, np.ndarray]:
    """A state dict with every tensor under NVIDIA's name and in its shape; NVIDIA's own stays.

    Args:
      state: a generator's or discriminator's state dict.
      name: of the file, for messages.
      rules: `GENERATOR_NAMES`, or what `discriminator_names` returns.

    Raises:
      CheckpointError: if a name is in neither family.
    """
    if "synthesis.b4.const" in state or "b4.conv.weight" in state:
        return state
    renamed = {}
    for key, value in state.items():
        for pattern, rename in rules:
            if match := re.fullmatch(pattern, key):
                renamed[rename(*match.groups())] = _without_ones(value, rename(*match.groups()))
                break
        else:
            raise CheckpointError(f"{name}: unknown tensor {key!r} {value.shape}; is this a StyleGAN2 of another kind?")
    return renamed


def _without_ones(value: np.ndarray, key: str) -> np.ndarray:
    """Rosinality stores leading, and for some trailing, axes of length one; what has others is left as it is."""
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "noise_strength" and value.size == 1:
        return value.reshape(())
    if leaf == "bias" and value.size == max(value.shape, default=0):
        return value.reshape(-1)
    if leaf == "noise_const" and value.shape[:2] == (1, 1):
        return value[0, 0]
    if leaf in ("weight", "const") and value.shape[:1] == (1,) and value.ndim == (5 if leaf == "weight" else 4):
        return value[0]
    return value
