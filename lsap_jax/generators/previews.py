"""Preview heads: small renders of a MobileStyleGAN, which has no picture before its last block.

A head is a small network on the features of an inner block that stands for all blocks after it: of side 256 on the 128
pixels of block 5. It was fitted to the area-downsampled full render (tools/fit_previews.py) and ships beside this
module with the fingerprint of those weights, the command, and how close it comes. Heads stand outside the
generator's `params`, so its fingerprint is its own.

Those shipped for `ffhq-mobile` are approximate, so no generator has them unless asked: `G = previews.attach(G)`. Over
200 fresh samples, against the full render shrunk to the same side (peak 2; mean, and 5th percentile of PSNR):

    side 256    29.0 dB (24.5)    LPIPS-VGG 0.168    LPIPS-Alex 0.076
"""

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.errors import CheckpointError, ConfigError
from lsap_jax.generators import ops
from lsap_jax.generators.base import Generator
from lsap_jax.generators.wavelet import inverse_haar

KIND = "preview heads"
SHIPPED = pathlib.Path(__file__).with_name("previews_ffhq_mobile.npz")
SLOPE = 0.2  # of the leaky ReLU


def shapes(width: int, rows: int, w_dim: int, hidden: int, rank: int) -> dict[str, Any]:
    """The params tree of a head with shapes for leaves.

    Args:
      width: channels of the features.
      rows: of W+ that the head reads.
      w_dim: length of a row.
      hidden: channels of the layer inside.
      rank: numbers to which the rows are reduced before they make styles.
    """

    def linear(i, o):
        return {"weight": (i, o), "bias": (o,)}

    return {
        "code": linear(rows * w_dim, rank),
        "style": linear(rank, width),
        "hidden": {"weight": (width, hidden), "shift": linear(rank, hidden), "gain": linear(rank, hidden)},
        "bands": {"weight": (3, 3, hidden, 12), "direct": (width, 12), "shift": linear(rank, 12)},
    }


def render(head: Any, x: jax.Array, rows: jax.Array) -> jax.Array:
    """Features (B, h, w, C) and the rows of W+ not yet used (B, R, w_dim) -> image (B, 2h, 2w, 3).

    Times style, 1x1 convolution, leaky ReLU, times a second style, 3x3 convolution to 12 bands (and a 1x1 one past the
    hidden layer), inverse wavelet step. Styles and shifts are linear in a few numbers, and these in the rows.
    """
    code = _linear(head["code"], rows.reshape(len(rows), -1))
    hidden, bands = head["hidden"], head["bands"]
    x = x.astype(jnp.float32) * ops.per_channel(_linear(head["style"], code))
    y = x @ hidden["weight"] + ops.per_channel(_linear(hidden["shift"], code))
    y = jnp.where(y >= 0, y, SLOPE * y) * ops.per_channel(_linear(hidden["gain"], code))
    y = ops.conv(y, bands["weight"]) + x @ bands["direct"] + ops.per_channel(_linear(bands["shift"], code))
    return inverse_haar(y)


def attach(G: Generator, path: str | os.PathLike = SHIPPED) -> Generator:
    """G with the heads in a file: by default those shipped for `ffhq-mobile`.

    Raises:
      CheckpointError: if the file is missing, damaged, or holds something else.
      ConfigError: if the heads were fitted to other weights.
    """
    tree, meta = store.load(path)
    if meta.get("kind") != KIND:
        raise CheckpointError(f"{path}: holds a {meta.get('kind', 'tree of unknown kind')!r}, not preview heads")
    # The family first: it is free, and a fingerprint reads every weight.
    if meta["family"] != G.arch.kind or meta["fingerprint"] != G.fingerprint:
        raise ConfigError(
            f"{os.fspath(path)}: heads fitted to the weights of {meta['generator']} ({meta['fingerprint']}), "
            f"not to those of {G.name or 'this generator'}, which renders at {G.resolutions} and no smaller"
        )
    return G.replace(previews=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree))


def save(path: str | os.PathLike, G: Generator, previews: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write heads of G, {"256": tree of `shapes`}, as float16.

    Raises:
      OSError: if the file cannot be written.
    """
    tree = jax.tree.map(lambda x: np.asarray(x, np.float16), previews)
    record = {"kind": KIND, "generator": G.name, "family": G.arch.kind, "fingerprint": G.fingerprint}
    store.save(path, tree, {**meta, **record})


def _linear(layer: Any, x: jax.Array) -> jax.Array:
    return x @ layer["weight"] + layer["bias"][None]
