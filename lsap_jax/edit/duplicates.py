"""Directions that do the same thing, told by what they do to features and not by their angle.

Each direction's mean change of a sensor's features over many codes is its portrait; two portraits are compared as
ContraFeat compares changes, position by position where both have something, and the later of two alike ones goes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.edit import contrast
from lsap_jax.edit.contrast import Config, Sensor
from lsap_jax.edit.directions import Direction, apply_direction
from lsap_jax.errors import DirectionError
from lsap_jax.generators.base import Generator

# Squared cosines weighted by the product of the masks: 1 for equal portraits, 0 for perpendicular ones.
_LIKENESS = Config(mask="product", mask_after_square=True)


def portraits(
    G: Generator,
    found: Sequence[Direction],
    sensor: Sensor,
    *,
    strength: float = 1.0,
    samples: int = 512,
    batch: int = 8,
    resolution: int = 256,
    seed: int = 0,
) -> list[np.ndarray]:
    """Mean feature change from -strength to +strength: one (n, h_l, w_l, C_l) for each layer of the sensor.

    Args:
      G: the generator.
      found: n directions of it.
      sensor: as in `contrast`.
      strength: in the directions' unit.
      samples: codes of W, the same for all directions; rounded up to whole batches.
      batch: codes of one call.
      resolution: of the renders.
      seed: of the codes.

    Raises:
      DirectionError: if there are no directions, or one does not fit.
    """
    if not found:
        raise DirectionError("no directions to compare")

    @jax.jit
    def change(G, sensor, d, key):
        ws = contrast.sample_codes(G, key, batch, mixing=1)
        both = jnp.concatenate([apply_direction(ws, d, strength), apply_direction(ws, d, -strength)])
        features = sensor(contrast.render(G, both, resolution))
        return [(f[:batch] - f[batch:]).mean(0) for f in features]

    keys = jax.random.split(jax.random.key(seed), -(-samples // batch))
    rows = []
    for d in found:
        # The same program for all: names are static parts of a record, and shapes are made equal.
        plain = d.replace(name="", origin="", layer_weights=_weights(d, G), statistics={}, scale=jnp.float32(d.scale))
        sums = None
        for key in keys:
            new = change(G, sensor, plain, key)
            sums = new if sums is None else [a + b for a, b in zip(sums, new, strict=True)]
        rows.append([np.asarray(s / len(keys)) for s in sums])
    return [np.stack(layer) for layer in zip(*rows, strict=True)]


def likeness(changes: Sequence[np.ndarray]) -> np.ndarray:
    """How alike portraits are: (n, n) from 0 to 1: the mean over layers of the masked squared cosine."""
    total = 0.0
    for layer in map(jnp.asarray, changes):
        (mask,) = contrast.focus(_LIKENESS, [layer])
        one = jax.jit(lambda a, m, b, n: contrast.masked_likeness(_LIKENESS, contrast.cosine(a[None], b), m[None], n))
        total = total + np.stack([np.asarray(one(layer[i], mask[i], layer, mask)) for i in range(len(layer))])
    return total / len(changes)


def distinct(alike: np.ndarray, threshold: float = 0.5) -> list[int]:
    """Indices of the directions to keep: those that no kept earlier one is like, by more than `threshold`."""
    kept: list[int] = []
    for index in range(len(alike)):
        if not kept or alike[index, kept].max() <= threshold:
            kept.append(index)
    return kept


def _weights(d: Direction, G: Generator) -> jax.Array:
    weights = jnp.ones(G.num_ws) if d.layer_weights is None else d.layer_weights
    return jnp.pad(weights, (0, max(0, G.num_ws - len(weights))))
