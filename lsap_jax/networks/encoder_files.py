"""Encoders as self-describing `.npz` files."""

import dataclasses
import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.errors import CheckpointError, ConfigError
from lsap_jax.networks.encoders import Encoder, EncoderArch, module

KIND = "encoder"


def save(path: str | os.PathLike, E: Encoder, meta: dict[str, Any] | None = None, dtype: Any = np.float16) -> None:
    """Write an encoder with its description; `meta` adds source, licence, training command and the like.

    Args:
      path: where to write.
      E: the encoder.
      meta: JSON-serialisable.
      dtype: that the weights are stored in, float16 or float32; statistics and the start stay float32.

    Raises:
      CheckpointError: if a weight is NaN or infinite, or too large for `dtype`.
      OSError: if the file cannot be written.
    """
    variables = jax.device_get(E.variables)
    with np.errstate(over="ignore"):
        stored = {**variables, "params": jax.tree.map(lambda x: np.asarray(x, dtype), variables["params"])}
    tree = {"variables": stored, "start": np.asarray(E.start, np.float32)}
    check_finite(tree, path)
    record = {
        "kind": KIND,
        "name": E.name,
        "architecture": architecture_record(E.arch),
        "generator": E.generator,
        "precision": np.dtype(dtype).name,
    }
    store.save(path, tree, {**(meta or {}), **record})


def load(path: str | os.PathLike) -> Encoder:
    """Read an encoder written by `save`; its weights are float32, however they were stored.

    Raises:
      CheckpointError: if the file is missing, damaged, or holds no encoder.
    """
    tree, meta = store.load(path)
    return from_tree(tree, meta, path)


def from_tree(tree: store.Tree, meta: dict[str, Any], path: str | os.PathLike) -> Encoder:
    """What `store.load` returned -> Encoder; `path` is for messages.

    Raises:
      CheckpointError: if it is no encoder, of an unknown make, or a weight is missing, left over, misshapen or NaN.
    """
    if meta.get("kind") != KIND:
        raise CheckpointError(f"{path}: holds a {meta.get('kind', 'tree of unknown kind')!r}, not an encoder")
    try:
        arch = EncoderArch(**meta["architecture"])
    except (TypeError, KeyError, ConfigError) as error:
        raise CheckpointError(f"{path}: an encoder that this version does not know ({error})") from None
    wanted = {"variables": shapes(arch), "start": (arch.num_ws, arch.w_dim)}
    check_shapes(tree, wanted, path)
    check_finite(tree, path)
    tree = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
    name = meta.get("name") or os.fspath(path)
    return Encoder(tree["variables"], tree["start"], arch, name, meta.get("generator", ""))


def architecture_record(arch: EncoderArch) -> dict[str, Any]:
    """The JSON form of a description, as stored in files; `EncoderArch(**record)` is its inverse."""
    return json.loads(json.dumps(dataclasses.asdict(arch)))


def shapes(arch: EncoderArch) -> dict[str, Any]:
    """The tree of `module(arch)`'s variables with shapes for leaves; computes nothing."""
    image = jax.ShapeDtypeStruct((1, arch.resolution, arch.resolution, arch.channels), jnp.float32)
    variables = jax.eval_shape(module(arch).init, jax.random.key(0), image)
    return jax.tree.map(lambda leaf: leaf.shape, variables)


def check_shapes(tree: store.Tree, wanted: dict[str, Any], path: str | os.PathLike) -> None:
    """Compare a tree of arrays with one of shapes.

    Raises:
      CheckpointError: if one has a leaf that the other lacks, or shapes differ; names the leaf.
    """
    got = {key: value.shape for key, value in store.flatten(tree).items()}
    want = _flatten_shapes(wanted)
    for key in sorted(want.keys() | got.keys()):
        if key not in got:
            raise CheckpointError(f"{path}: {key} is missing; take another copy of the file")
        if key not in want:
            raise CheckpointError(f"{path}: {key} is not a weight of this encoder")
        if got[key] != want[key]:
            raise CheckpointError(f"{path}: {key} has shape {got[key]} where {want[key]} fits the rest")


def _flatten_shapes(tree: dict[str, Any], prefix: str = "") -> dict[str, tuple[int, ...]]:
    flat: dict[str, tuple[int, ...]] = {}
    for key, value in tree.items():
        flat |= _flatten_shapes(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def check_finite(tree: store.Tree, path: str | os.PathLike) -> None:
    """Look for numbers that are none.

    Raises:
      CheckpointError: if there is a NaN or an infinity; names the leaf.
    """
    for key, value in store.flatten(tree).items():
        if not np.isfinite(value).all():
            raise CheckpointError(f"{path}: {key} has NaN or infinite values, or too large ones for its precision")
