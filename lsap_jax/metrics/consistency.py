"""Latent editing consistency: whether an encoder knows its own edits again (e4e, arXiv:2102.02766, section 5).

    LEC(x) = |w - (E(G(w + d)) - d)|,  w = E(x)

An encoder whose codes the generator treats as its own encodes the edited picture to the edited code, and undoing the
edit leads back to where it began.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.embed.encode import encode
from lsap_jax.generators.base import Generator
from lsap_jax.networks.encoders import Encoder


def latent_editing_consistency(
    E: Encoder, G: Generator, images: jax.Array, edit: jax.Array, resolution: int | None = None
) -> jax.Array:
    """How far a code drifts when it is edited, rendered, encoded, and the edit is undone.

    Args:
      E: the encoder.
      G: its generator.
      images: (B, S, S, 3) in [-1, 1], sized as `E` takes them.
      edit: (num_ws, w_dim) added to the codes; at strength 0 what is left is how well E inverts its own renders.
      resolution: at which the edited codes are rendered; None for all of it. One that `E` takes.

    Returns:
      (B,) Euclidean length over all rows, in units of W.
    """
    ws = encode(E, G, images)
    again = encode(E, G, jnp.clip(G.synthesize(ws + edit[None], resolution=resolution), -1, 1))
    return jnp.sqrt(jnp.square(again - edit[None] - ws).sum((1, 2)))


def trimmed_mean(values: np.ndarray) -> float:
    """Mean of what lies between the 1st and the 99th percentile, as e4e's evaluation takes it."""
    low, high = np.percentile(values, [1, 99])
    return float(values[(values >= low) & (values <= high)].mean())
