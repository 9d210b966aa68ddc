"""Published encoders -> `networks.encoders.Encoder`, told apart by their tensors.

| file                       | tensors under                                 | start                                |
| -------------------------- | --------------------------------------------- | ------------------------------------ |
| pSp, e4e, ReStyle .pt      | `state_dict` as `encoder.*` (and `decoder.*`) | `latent_avg` beside, (w) or (rows, w) |
| GANInverter .pt (LSAP too) | `encoder` as `encoder.*`                      | `latent_avg` among these             |
| latent-composition .pth    | `state_dict`, or bare                         | zeros                                |
| IDInvert .pth              | bare                                          | zeros                                |

Names that distributed training prefixed with `module.`, anywhere, are read too. Rows, channels, widths and the
input's resolution follow from the tensors' names and shapes. Two things may not: whether a file is of pSp or e4e
(see `_rows_head`), and how many rows a W encoder's vector goes to.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.checkpoints.convert_ir_se import stages_of, take_backbone
from lsap_jax.checkpoints.store import Tree
from lsap_jax.checkpoints.torch_names import Names, merged
from lsap_jax.errors import CheckpointError, ConfigError
from lsap_jax.networks import encoder_files
from lsap_jax.networks.encoder_heads import COARSE, MIDDLE
from lsap_jax.networks.encoders import Encoder, EncoderArch
from lsap_jax.networks.ir_se import Stage

W_DIM = 512  # of the encoders whose tensors only have the product of rows and this
HEADS = {"gradualstyleencoder": "psp", "encoder4editing": "e4e", "progressivebackboneencoder": "e4e"}
HEADS |= {"backboneencoder": "psp"}  # `encoder_type` in a file's options -> head


def encoder_from_checkpoint(
    obj: Any,
    name: str = "checkpoint",
    head: str | None = None,
    start: np.ndarray | None = None,
    num_ws: int | None = None,
) -> Encoder:
    """The encoder in what a checkpoint reader returned.

    Args:
      obj: the nested dicts of a PyTorch file.
      name: of the file, for messages and the encoder's record.
      head: "psp" or "e4e", for files that do not say.
      start: (w_dim,) or (num_ws, w_dim) mean code that outputs are added to, for files of the pSp family that have
        no `latent_avg`.
      num_ws: rows, for W encoders that do not say.

    Raises:
      CheckpointError: if there is no encoder in it that is known; if a tensor is missing, left over, of a wrong
        shape or not finite; if one of the three above is needed.
    """
    found = _find(obj, name)
    parts = {key.partition(".")[0] for key in found.state}
    try:
        if "body" in parts:
            tree, arch = _psp_family(found, name, head, num_ws)
        elif {"layer1", "layer5"} <= parts:
            tree, arch = _latent_composition(found.state)
        elif "block0" in parts:
            tree, arch = _idinvert(found.state)
        else:
            raise CheckpointError(
                f"no encoder found; its entries are {', '.join(sorted(found.state)[:4])} ... Known are pSp, e4e, "
                "LSAP, ReStyle and W encoders with an IR-SE trunk, latent-composition's for StyleGAN2, and IDInvert's"
            )
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{name}: {error}") from None
    encoder_files.check_shapes(tree, encoder_files.shapes(arch), name)
    encoder_files.check_finite(tree, name)
    rows = _start(arch, start if found.latent_avg is None else found.latent_avg, name)
    return Encoder(jax.tree.map(jnp.asarray, tree), rows, arch, name)


def holds_encoder_alone(obj: Any) -> bool:
    """Whether what a checkpoint reader returned has an encoder's tensors and no generator's beside them."""
    if not isinstance(obj, Mapping) or isinstance(obj.get("decoder"), Mapping):
        return False
    inner = obj["state_dict"] if isinstance(obj.get("state_dict"), Mapping) else obj
    parts = {part for key in inner for part in str(key).removeprefix("module.").split(".")[:1]}
    encoder = isinstance(obj.get("encoder"), Mapping) or parts & {"encoder", "body", "layer5", "block0"}
    return bool(encoder) and "decoder" not in parts


class _Found(NamedTuple):
    """The encoder's state dict, the options it was trained with, and the mean code, or None."""

    state: dict[str, Any]
    options: Mapping[str, Any]
    latent_avg: Any


def _find(obj: Any, name: str) -> _Found:
    if not isinstance(obj, Mapping):
        raise CheckpointError(f"{name}: holds {type(obj).__name__}, not the tensors of an encoder")
    options = obj.get("opts")
    state = next((obj[key] for key in ("encoder", "state_dict") if isinstance(obj.get(key), Mapping)), obj)
    state = {".".join(part for part in str(k).split(".") if part != "module"): v for k, v in state.items()}
    latent_avg = state.pop("latent_avg", None)
    latent_avg = obj.get("latent_avg") if latent_avg is None else latent_avg
    state.pop("opts", None)
    if any(k.startswith("encoder.") for k in state):
        state = {k.removeprefix("encoder."): v for k, v in state.items() if not k.startswith("decoder.")}
    return _Found(state, options if isinstance(options, Mapping) else {}, latent_avg)


def _psp_family(found: _Found, name: str, head: str | None, num_ws: int | None) -> tuple[Tree, EncoderArch]:
    stages = stages_of(found.state)
    names = Names(found.state, "an encoder of the pSp family")
    trunk = take_backbone(names)
    channels = trunk["params"]["input_conv"]["kernel"].shape[2]
    if channels not in (3, 6):
        raise CheckpointError(f"input_layer.0.weight takes {channels} channels; known are 3, and 6 of ReStyle")
    common: dict[str, Any] = {"stages": stages, "input": "rgb" if channels == 3 else "rgb+render"}
    common["start"] = "w_avg" if found.options.get("start_from_latent_avg", True) else "zero"
    fields: dict[str, Any]
    if names.has("styles."):
        tree, fields = _rows_head(names, head or _head_of(found.options, name))
        fields["resolution"] *= 2 ** len(stages)
    elif names.has("output_layer_2."):
        norm = names.norm("output_layer_2.0")
        dense = names.linear("output_layer_2.3", channels=norm["params"]["scale"].size)
        tree = merged(norm=norm, dense=dense, linear=names.linear("linear"))
        kernel = tree["params"]["linear"]["kernel"]
        fields = {"head": "w+", "width": kernel.shape[0], "w_dim": kernel.shape[0]}
        fields["num_ws"] = kernel.shape[1] // kernel.shape[0]
    else:
        tree = merged(linear=names.linear("linear"))
        rows = num_ws or _rows_of(found)
        fields = {"head": "w", "num_ws": rows, "w_dim": tree["params"]["linear"]["kernel"].shape[1]}
    names.finish()
    return merged(trunk=trunk, head=tree), EncoderArch(**common, **fields)


def _rows_head(names: Names, head: str) -> tuple[Tree, dict[str, Any]]:
    """The map2style networks; `resolution` among the fields is the side of the map that the coarse ones read."""
    rows: dict[str, Tree] = {}
    for i in range(names.count("styles.")):
        convs = {}
        for j in range(0, names.count(f"styles.{i}.convs."), 2):  # between them are activations
            convs[f"conv{j // 2}"] = names.conv(f"styles.{i}.convs.{j}", bias=True)
        rows[f"style{i}"] = merged(**convs, linear=names.linear(f"styles.{i}.linear"))
    count, laterals = len(rows), {}
    pyramid = names.has("latlayer")
    for index, least in ((1, COARSE), (2, COARSE + MIDDLE)):
        if pyramid:
            lateral = names.conv(f"latlayer{index}", bias=True)
            laterals |= {f"lateral{index}": lateral} if count > least else {}  # otherwise nothing reads it
    first, last = (rows[f"style{i}"]["params"] for i in (0, count - 1))
    kernel = first["linear"]["kernel"]
    fields: dict[str, Any] = {
        "head": head,
        "levels": "pyramid" if pyramid else "last",
        "num_ws": count,
        "w_dim": kernel.shape[1],
    }
    width, delta_width = kernel.shape[0], last["linear"]["kernel"].shape[0]
    fields |= {"width": width, "delta_width": 0 if delta_width == width else delta_width}
    fields["resolution"] = 2 ** (len(first) - 1)
    return merged(**rows, **laterals), fields


def _head_of(options: Mapping[str, Any], name: str) -> str:
    """Whether rows are deltas (e4e) or not (pSp): by the file's options, else by the name that it is published under.

    The tensors have the same names and shapes.
    """
    told = str(options.get("encoder_type", "")).replace("_", "").lower()
    if told in HEADS:
        return HEADS[told]
    words = re.split(r"[^a-z0-9]+", os.path.basename(name).lower())
    heads = {"psp" if word == "psp" else "e4e" for word in words if word in ("psp", "e4e", "lsap")}
    if len(heads) == 1:
        return heads.pop()
    raise CheckpointError(
        "pSp and e4e encoders (LSAP's too) have the same tensors; say which it is: head='psp' or 'e4e'"
    )


def _rows_of(found: _Found) -> int:
    """Rows of the code of a W encoder: from the generator's resolution, or the mean code's rows."""
    for field in ("output_size", "stylegan_size", "resolution"):
        resolution = found.options.get(field)
        if isinstance(resolution, int) and resolution >= 8:
            return 2 * resolution.bit_length() - 4
    if np.ndim(found.latent_avg) == 2 and len(found.latent_avg) > 1:
        return len(found.latent_avg)
    raise CheckpointError("a W encoder that does not say how many rows its generator takes; say it: num_ws=18 for 1024")


def _latent_composition(state: dict[str, Any]) -> tuple[Tree, EncoderArch]:
    names = Names(state, "latent-composition's encoder")
    blocks, stages = {}, []
    for layer in range(1, 5):
        units = names.count(f"layer{layer}.")
        for key in (f"layer{layer}.{unit}" for unit in range(units)):
            block = {f"conv{i}": names.conv(f"{key}.conv{i}") for i in (1, 2)}
            block |= {f"norm{i}": names.norm(f"{key}.bn{i}") for i in (1, 2)}
            if names.has(f"{key}.downsample."):
                block |= {"shortcut_conv": names.conv(f"{key}.downsample.0")}
                block |= {"shortcut_norm": names.norm(f"{key}.downsample.1")}
            blocks[f"block{len(blocks)}"] = merged(**block)
        if not units:
            raise CheckpointError(f"layer{layer}.0.conv1.weight is missing: not latent-composition's encoder")
        width = blocks[f"block{len(blocks) - 1}"]["params"]["conv2"]["kernel"].shape[-1]
        stages.append(Stage(width, units))
    trunk = merged(stem_conv=names.conv("conv1"), stem_norm=names.norm("bn1"), **blocks)
    head = merged(linear=names.pointwise("layer5.conv5", bias=True))
    names.finish()
    channels, outputs = trunk["params"]["stem_conv"]["kernel"].shape[2], head["params"]["linear"]["kernel"].shape[1]
    if channels not in (3, 4):
        raise CheckpointError(f"conv1.weight takes {channels} channels; known are 3, and 4 with a mask")
    if outputs % W_DIM or outputs == W_DIM:
        raise CheckpointError(f"layer5.conv5.weight makes {outputs} numbers, not rows of {W_DIM} for StyleGAN2")
    arch = EncoderArch(
        trunk="resnet",
        stages=tuple(stages),
        head="pooled",
        input="rgb" if channels == 3 else "rgb+mask",
        num_ws=outputs // W_DIM,
        start="zero",
    )
    return merged(trunk=trunk, head=head), arch


def _idinvert(state: dict[str, Any]) -> tuple[Tree, EncoderArch]:
    names = Names(state, "IDInvert's encoder")
    trunk = {"input_conv": names.conv("block0.conv"), "input_norm": names.norm("block0.bn.bn")}
    stages = [Stage(trunk["input_conv"]["params"]["kernel"].shape[-1], 1)]
    last = f"block{names.count('block') - 1}"
    while (key := f"block{len(stages)}") != last and names.has("block"):
        block = {}
        if names.has(f"{key}.conv.") or names.has(f"{key}.bn."):
            block |= {"shortcut_conv": names.conv(f"{key}.conv"), "shortcut_norm": names.norm(f"{key}.bn.bn")}
        for i in (1, 2):
            conv = names.conv(f"{key}.conv{i}")["params"]
            conv["bias"] = names.take(f"{key}.wscale{i}.bias", rank=1)
            block |= {f"conv{i}": {"params": conv}, f"norm{i}": names.norm(f"{key}.bn{i}.bn")}
        trunk[f"block{len(stages) - 1}"] = merged(**block)
        stages.append(Stage(block["conv2"]["params"]["bias"].size, 1))
    head = merged(linear=names.linear(f"{last}.fc", stages[-1].width, bias=False), norm=names.norm(f"{last}.bn.bn"))
    names.finish()
    inputs, outputs = head["params"]["linear"]["kernel"].shape
    arch = EncoderArch(
        trunk="idinvert",
        stages=tuple(stages),
        head="dense",
        resolution=round((inputs / stages[-1].width) ** 0.5) * 2 ** (len(stages) - 1),
        num_ws=outputs // W_DIM,
        start="zero",
    )
    return merged(trunk=merged(**trunk), head=head), arch


def _start(arch: EncoderArch, mean: Any, name: str) -> jax.Array:
    if arch.start == "zero":
        return jnp.zeros((arch.num_ws, arch.w_dim))
    if mean is None:
        raise CheckpointError(
            f"{name}: latent_avg is missing, the mean code that this encoder's outputs are added to; "
            "give its generator's: start=G.w_avg"
        )
    rows = np.asarray(mean, np.float32)
    if rows.shape not in ((arch.w_dim,), (1, arch.w_dim), (arch.num_ws, arch.w_dim)) or not np.isfinite(rows).all():
        raise CheckpointError(
            f"{name}: latent_avg has shape {rows.shape} or is not finite; "
            f"({arch.w_dim},) or {(arch.num_ws, arch.w_dim)} would fit the encoder"
        )
    return jnp.asarray(np.broadcast_to(rows.reshape(-1, arch.w_dim), (arch.num_ws, arch.w_dim)))
