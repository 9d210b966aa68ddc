"""Generators as self-describing `.npz` files."""

import os
from typing import Any

import jax
import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.errors import CheckpointError
from lsap_jax.generators import mobile, stylegan2
from lsap_jax.generators.base import Generator, architecture_record

KIND = "generator"
_FAMILIES = {"stylegan2": stylegan2.from_record, "mobile-stylegan": mobile.from_record}


def save(path: str | os.PathLike, G: Generator, meta: dict[str, Any] | None = None) -> None:
    """Write a generator with its architecture; `meta` adds source, licence and the like.

    Raises:
      OSError: if the file cannot be written.
    """
    tree = {
        "params": jax.device_get(G.params),
        "w_avg": np.asarray(G.w_avg),
        "noise": {str(i): np.asarray(n) for i, n in enumerate(G.noise)},
    }
    record = {"kind": KIND, "name": G.name, "architecture": architecture_record(G.arch), "fingerprint": G.fingerprint}
    store.save(path, tree, {**(meta or {}), **record})


def from_tree(tree: store.Tree, meta: dict[str, Any], path: str | os.PathLike) -> Generator:
    """What `store.load` returned -> Generator; `path` is for messages.

    Raises:
      CheckpointError: if it is no generator, of an unknown family, has NaN weights, or was changed.
    """
    if meta.get("kind") != KIND:
        raise CheckpointError(f"{path}: holds a {meta.get('kind', 'tree of unknown kind')!r}, not a generator")
    record = dict(meta["architecture"])
    family = record.pop("kind")
    if family not in _FAMILIES:
        raise CheckpointError(f"{path}: unknown generator family {family!r}; this version reads {sorted(_FAMILIES)}")
    for key, value in store.flatten({"params": tree["params"], "w_avg": tree["w_avg"]}).items():
        if not np.isfinite(value).all():
            raise CheckpointError(f"{path}: {key} has NaN or infinite values; take an earlier copy of the file")
    noise = tree.get("noise", {})
    return Generator(
        params=jax.tree.map(jax.numpy.asarray, tree["params"]),
        w_avg=jax.numpy.asarray(tree["w_avg"]),
        noise=tuple(jax.numpy.asarray(noise[str(i)]) for i in range(len(noise))),
        arch=_FAMILIES[family](record),
        name=meta.get("name") or os.fspath(path),
    )


def load(path: str | os.PathLike) -> Generator:
    """Read a generator written by `save`.

    Raises:
      CheckpointError: if the file is missing, damaged, or holds no generator.
    """
    tree, meta = store.load(path)
    return from_tree(tree, meta, path)
