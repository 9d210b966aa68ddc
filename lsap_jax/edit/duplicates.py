"""Directions that do the same thing, told by what they do to features and not by their angle.

Each direction's mean change of a sensor's features over many codes is its portrait, as in ContraFeat's reference. Two
portraits are alike as far as they are in one place and parallel there:

    likeness = sum(cos^2 m_a m_b) / sqrt(sum(m_a^2) sum(m_b^2))

with the focus masks m of the losses. The losses divide by sum(m_a m_b) instead, which calls two changes in different
places alike when their faint tails are parallel; that is of no use for telling whether two directions do one thing.
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
      DirectionError: if there are no directions or samples, or a direction does not fit.
    """
    if not found or samples < 1 or batch < 1:
        raise DirectionError(f"{len(found)} directions, {samples} samples, batch {batch}: at least one of each")

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
        sums = change(G, sensor, plain, keys[0])
        for key in keys[1:]:
            sums = jax.tree.map(jnp.add, sums, change(G, sensor, plain, key))
        rows.append([np.asarray(s / len(keys)) for s in sums])
    return [np.stack(layer) for layer in zip(*rows, strict=True)]


def likeness(changes: Sequence[np.ndarray]) -> np.ndarray:
    """How alike portraits are: (n, n) from 0 to 1, for equal ones; the mean over layers."""
    layers = []
    for layer in map(jnp.asarray, changes):
        (mask,) = contrast.focus(Config(), [layer])
        unit = layer / jnp.maximum(jnp.linalg.norm(layer, axis=-1, keepdims=True), 1e-8)
        parallel = jnp.square(jnp.einsum("nhwc,mhwc->nmhw", unit, unit))
        length = jnp.sqrt(jnp.square(mask).sum((1, 2)))
        both = jnp.einsum("nmhw,nhw,mhw->nm", parallel, mask, mask)
        layers.append(both / jnp.maximum(length[:, None] * length[None], 1e-12))
    return np.mean(jax.device_get(layers), axis=0)


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
