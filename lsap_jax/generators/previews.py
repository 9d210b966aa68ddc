"""Preview heads: small renders of a MobileStyleGAN, which has no picture before its last block.

A head reads the features of an inner block as the generator's own last block reads the last ones: times a style
affine in one row of W+, 1x1 convolution to 12 wavelet bands, inverse wavelet step. It was fitted to the area-
downsampled full render and ships beside this module with the fingerprint of the weights it was fitted to,
the command, and how close it comes. Heads stand outside the generator's `params`, so its fingerprint is its own.
"""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.errors import CheckpointError
from lsap_jax.generators.base import Generator

KIND = "preview heads"
SHIPPED = pathlib.Path(__file__).with_name("previews_ffhq_mobile.npz")


def attach(G: Generator, path: str | os.PathLike = SHIPPED) -> Generator:
    """G with the heads in a file, if they were fitted to its very weights; else G as it is.

    Raises:
      CheckpointError: if the file is missing, damaged, or holds something else.
    """
    tree, meta = _read(path)
    # The kind first: it is free, and a fingerprint reads every weight.
    if meta["generator_kind"] != G.arch.kind or meta["fingerprint"] != G.fingerprint:
        return G
    return G.replace(previews=jax.tree.map(lambda x: jax.numpy.asarray(x, np.float32), tree))


def save(path: str | os.PathLike, G: Generator, previews: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write heads, {"128": {"affine": {"weight", "bias"}, "weight", "bias"}, ...}, of G as float16.

    Raises:
      OSError: if the file cannot be written.
    """
    tree = jax.tree.map(lambda x: np.asarray(x, np.float16), previews)
    record = {"kind": KIND, "generator": G.name, "generator_kind": G.arch.kind, "fingerprint": G.fingerprint}
    store.save(path, tree, {**meta, **record})


def _read(path: str | os.PathLike) -> tuple[store.Tree, dict[str, Any]]:
    tree, meta = store.load(path)
    if meta.get("kind") != KIND:
        raise CheckpointError(f"{path}: holds a {meta.get('kind', 'tree of unknown kind')!r}, not preview heads")
    return tree, meta
