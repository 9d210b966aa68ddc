"""Alignment: how far a code has left the generator's own distribution (LSAP, arXiv:2209.12746).

Layer by layer, SNCD_l(code) = 1 - <s^N_l(code), mu_l>, where s^N_l is the unit style vector of layer l and the anchor
mu_l is the mean of the unit style vectors of generator samples. The anchor is *not* brought back to unit length: then,
by linearity, SNCD_l is exactly the mean cosine distance to that set of samples (a test shows it).

Two things to know before trusting one number:

* Its smallest value is 1 - |mu_l|, below the 1 - |mu_l|^2 of a typical generator sample: as a loss it pulls a code to
  be more average than the generator's own, as truncation does. `calibrated` says where a code stands *among generator
  samples* instead, in standard deviations, and can be asked to be typical.
* It looks at each row alone. Rows of unrelated true codes have the SNCD of a true code, so consistency across rows
  needs its own term (e4e's delta regulariser).

The mean over layers hides a misaligned fine layer behind the large spread of the coarse ones: report every layer.
"""

import flax.struct
import jax
import jax.numpy as jnp

from lsap_jax import cache
from lsap_jax.generators.base import Generator
from lsap_jax.latent import spaces

_CALIBRATION_SAMPLES = 10_000


class Alignment(flax.struct.PyTreeNode):
    """Anchors and calibration of one generator.

    Attributes:
      anchors: L vectors (C_l,), means of unit style vectors, of length below one.
      mean: (L,) mean of SNCD over generator samples that did not make the anchors.
      std: (L,) standard deviation of the same.
      fingerprint: of the generator that they belong to.
    """

    anchors: tuple[jax.Array, ...]
    mean: jax.Array
    std: jax.Array
    fingerprint: str = flax.struct.field(pytree_node=False, default="")


def fit(G: Generator, num_samples: int = 100_000, seed: int = 0) -> Alignment:
    """Anchors from `num_samples` generator samples, calibration from 10,000 fresh ones; cached by fingerprint.

    Args:
      G: the generator.
      num_samples: for the anchors; the reference draws 100,000. Drawn in chunks, so memory stays small.
      seed: of the draw.
    """
    fingerprint = G.fingerprint

    def compute():
        sums, total = None, 0.0
        for w, weight in spaces.sample_w(G, num_samples, seed):
            part = _weighted_sums(G, w, weight)
            sums = part if sums is None else jax.tree.map(jnp.add, sums, part)
            total += float(weight.sum())
        anchors = jax.tree.map(lambda s: s / total, sums)
        fresh = min(num_samples, _CALIBRATION_SAMPLES)
        draft = Alignment(anchors, jnp.zeros(len(anchors)), jnp.ones(len(anchors)))
        values = jnp.concatenate(
            [
                sncd(G, draft, G.broadcast(w))[: int(weight.sum())]
                for w, weight in spaces.sample_w(G, fresh, seed + 1_000_003)
            ]
        )
        layers = {str(layer): anchor for layer, anchor in enumerate(anchors)}
        return {"anchors": layers, "mean": values.mean(0), "std": values.std(0)}

    meta = {"kind": "alignment", "fingerprint": fingerprint, "num_samples": num_samples, "seed": seed}
    tree = cache.remember(f"{fingerprint}-alignment-{num_samples}-{seed}", compute, meta)
    anchors = tuple(jnp.asarray(tree["anchors"][str(layer)]) for layer in range(len(tree["anchors"])))
    return Alignment(anchors, jnp.asarray(tree["mean"]), jnp.asarray(tree["std"]), fingerprint)


@jax.jit
def _weighted_sums(G: Generator, w: jax.Array, weight: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(weight @ s for s in spaces.normalized_styles(G.styles(G.broadcast(w))))


@jax.jit
def sncd(G: Generator, A: Alignment, ws: jax.Array) -> jax.Array:
    """Cosine distance to the generator's own styles, per layer.

    Args:
      G: the generator.
      A: its alignment, from `fit`.
      ws: (B, num_ws, w_dim).

    Returns:
      (B, L), each in [1 - |mu_l|, 1 + |mu_l|].
    """
    unit = spaces.normalized_styles(G.styles(ws))
    return jnp.stack([1 - s @ anchor for s, anchor in zip(unit, A.anchors, strict=True)], axis=-1)


@jax.jit
def calibrated(G: Generator, A: Alignment, ws: jax.Array) -> jax.Array:
    """SNCD as a z-score against generator samples, per layer: 0 is typical, 3 is further out than nearly all.

    Returns:
      (B, L) in standard deviations; negative means more average than a typical sample.
    """
    return (sncd(G, A, ws) - A.mean[None]) / A.std[None]
