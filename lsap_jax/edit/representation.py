"""A disentangled representation from directions: pairs that differ by one known step, and an encoder of them.

A pair is G(w - t d_k), G(w + t d_k) with label k. ContraFeat's authors make such a set of 240,000 pairs and say that a
simple training gives a disentangled representation; they do not publish that training. The one here is:

    change = e(edited) - e(original)                                       (n,) for n directions
    loss   = cross-entropy of k among the 2 n classes [change, -change]    (which unit moved, and which way)
           + weight * mean over j != k of change_j^2                       (and no other did)

The loss is the same for a pair in either order, its sign turned, so nothing has to be swapped. Unit k of e then moves
with factor k alone; its zero and its scale are free.
Remove duplicates first (`duplicates`): two labels for one factor cannot be told apart.
"""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lsap_jax.checkpoints import store
from lsap_jax.edit import contrast
from lsap_jax.edit.directions import Direction, apply_direction, check
from lsap_jax.errors import CheckpointError, ConfigError, TrainingError
from lsap_jax.generators.base import Generator

_KIND = "labelled pairs"


class Pairs(NamedTuple):
    """Pairs of pictures.

    Attributes:
      images_orig: (N, S, S, 3) uint8, one step down the direction.
      images_edit: (N, S, S, 3) uint8, one step up.
      labels: (N,) int32 which direction.
      names: of the directions.
    """

    images_orig: np.ndarray
    images_edit: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Config:
    """Training of the encoder.

    Attributes:
      widths: channels of its convolutions, each of which halves the side.
      steps: of Adam.
      batch: pairs of a step.
      learning_rate: at the start; falls to 0 by a cosine.
      others: weight of the units that should not have moved.
      seed: of the start and of the draws.
    """

    widths: tuple[int, ...] = (32, 64, 128, 128)
    steps: int = 5000
    batch: int = 64
    learning_rate: float = 1e-3
    others: float = 1.0
    seed: int = 0


class Encoder(nn.Module):
    """Pictures (B, S, S, 3) in [-1, 1] -> units (B, n), through 3x3 convolutions of stride 2 and one linear layer."""

    units: int
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The units' values; where things are counts, so positions are kept up to the linear layer."""
        for width in self.widths:
            x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
        return nn.Dense(self.units)(x.reshape(x.shape[0], -1))


def write_pairs(
    G: Generator,
    found: Sequence[Direction],
    out: str | os.PathLike,
    *,
    count: int = 24_000,
    strength: float = 0.5,
    side: int = 128,
    shard_size: int = 1000,
    batch: int = 8,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[pathlib.Path]:
    """Write pairs as shards `pairs-00000.npz`, ...; shards that are there already are kept, so a killed run goes on.

    Args:
      G: the generator.
      found: its directions, without duplicates; labels are drawn uniformly.
      out: folder.
      count: pairs in all (the authors made 240,000, which at 128 pixels are 24 GB).
      strength: t, in the directions' unit.
      side: of the pictures, at most the generator's.
      shard_size: pairs of a file.
      batch: pairs rendered together.
      seed: of codes and labels; pair i depends on the seed, its shard and its place there.
      progress: called with the number of pairs that are there.

    Returns:
      The files.

    Raises:
      ConfigError: if the folder holds other pairs, or an argument is out of range.
      DirectionError: if a direction is of another generator.
    """
    if not found or count < 1 or shard_size < 1 or batch < 1 or not 1 <= side <= G.resolution:
        raise ConfigError(
            f"{len(found)} directions, count {count}, shard_size {shard_size}, batch {batch}, side {side}: at least "
            f"one of each, and a side of at most {G.resolution}"
        )
    for d in found:
        check(d, G)
    steps = jnp.stack([_step(d, strength, G) for d in found])
    settings = {
        "kind": _KIND,
        "names": [d.name for d in found],
        "fingerprint": G.fingerprint,
        "steps": store.fingerprint({"steps": np.asarray(steps)}),
        "strength": strength,
        "side": side,
        "count": count,
        "shard_size": shard_size,
        "batch": batch,
        "seed": seed,
    }
    files = []
    for shard, start in enumerate(range(0, count, shard_size)):
        path = pathlib.Path(out) / f"pairs-{shard:05d}.npz"
        size = min(shard_size, count - start)
        files.append(path)
        if path.exists():
            if store.load(path)[1] != settings:
                raise ConfigError(f"{path}: pairs of other directions or settings; give another folder")
        else:
            key = jax.random.fold_in(jax.random.key(seed), shard)
            made = [
                jax.device_get(_pairs(G, steps, jax.random.fold_in(key, part), batch, side))
                for part in range(-(-size // batch))
            ]
            names = ("images_orig", "images_edit", "labels")
            arrays = [np.concatenate(parts)[:size] for parts in zip(*made, strict=True)]
            store.save(path, dict(zip(names, arrays, strict=True)), settings)
        if progress is not None:
            progress(start + size)
    return files


def read_pairs(folder: str | os.PathLike) -> Pairs:
    """All pairs of a folder, in memory.

    Raises:
      CheckpointError: if there are none, a file is damaged, or files of different sets lie together.
    """
    parts, settings = [], None
    for path in sorted(pathlib.Path(folder).glob("pairs-*.npz")):
        tree, meta = store.load(path)
        if meta.get("kind") != _KIND or (settings is not None and meta != settings):
            raise CheckpointError(f"{path}: no pairs, or of another set than the files before it")
        settings = meta
        parts.append((tree["images_orig"], tree["images_edit"], tree["labels"]))
    if settings is None:
        raise CheckpointError(f"{folder}: no pairs-*.npz there; write_pairs makes them")
    original, edited, labels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Pairs(original, edited, labels, tuple(settings["names"]))


def train(
    pairs: Pairs, config: Config | None = None, progress: Callable[[int, dict[str, float]], None] | None = None
) -> tuple[Any, dict[str, float]]:
    """Train an encoder whose unit k moves with direction k.

    Args:
      pairs: the set; its last tenth is held out.
      config: of the training; None for the defaults.
      progress: called every 100 steps with the step and the losses.

    Returns:
      Variables for `encode`; and of the held-out pairs {"accuracy": of label and sign together, "share": of the whole
      change, sum of |change_j|, the mean part that is unit k's}.

    Raises:
      ConfigError: if there are fewer than ten pairs.
      TrainingError: if the loss is not finite.
    """
    config = config or Config()
    if len(pairs.labels) < 10:
        raise ConfigError(f"{len(pairs.labels)} pairs: at least 10, as a tenth is held out")
    units = len(pairs.names)
    held = -(-len(pairs.labels) // 10)
    kept = len(pairs.labels) - held
    model = Encoder(units, config.widths)
    variables = model.init(jax.random.key(config.seed), jnp.zeros((1, *pairs.images_orig.shape[1:])))
    adam = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    update = jax.jit(functools.partial(_update, model, adam, config.others))
    state = (variables, adam.init(variables))
    random = np.random.default_rng(config.seed)
    batch = min(config.batch, kept)
    for step in range(1, config.steps + 1):
        chosen = random.integers(0, kept, batch)
        part = [jnp.asarray(a[chosen]) for a in (pairs.images_orig, pairs.images_edit, pairs.labels)]
        state, terms = update(state, *part)
        if step % 100 == 0 or step == config.steps:
            found: dict[str, float] = {str(name): float(value) for name, value in dict(terms).items()}
            if not math.isfinite(found["loss"]):
                raise TrainingError(f"step {step}: the losses are {found}; lower the learning rate")
            if progress is not None:
                progress(step, found)
    changes = [
        encode(state[0], pairs.images_edit[at : at + 64], config.widths)
        - encode(state[0], pairs.images_orig[at : at + 64], config.widths)
        for at in range(kept, len(pairs.labels), 64)
    ]
    change, labels = np.concatenate(changes), pairs.labels[kept:]
    own = change[np.arange(held), labels]
    right = (np.abs(change).argmax(1) == labels) & (own > 0)
    share = np.abs(own) / np.maximum(np.abs(change).sum(1), 1e-12)
    return state[0], {"accuracy": float(right.mean()), "share": float(share.mean())}


def encode(variables: Any, images: np.ndarray | jax.Array, widths: tuple[int, ...] = Config.widths) -> jax.Array:
    """Units of pictures: (B, S, S, 3), uint8 or floats in [-1, 1], of the training's side -> (B, n)."""
    units = variables["params"]["Dense_0"]["bias"].shape[0]
    return _encode(Encoder(units, tuple(widths)), variables, jnp.asarray(images))


def _step(d: Direction, strength: float, G: Generator) -> jax.Array:
    zero = jnp.zeros((1, G.num_ws, G.w_dim))
    return apply_direction(zero, d, strength)[0]


@functools.partial(jax.jit, static_argnums=(3, 4))
def _pairs(
    G: Generator, steps: jax.Array, key: jax.Array, batch: int, side: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    key_codes, key_labels = jax.random.split(key)
    ws = contrast.sample_codes(G, key_codes, batch, mixing=1)
    labels = jax.random.randint(key_labels, (batch,), 0, steps.shape[0])
    images = contrast.render(G, jnp.concatenate([ws - steps[labels], ws + steps[labels]]), side)
    images = jnp.round(jnp.clip((images + 1) * 127.5, 0, 255)).astype(jnp.uint8)
    return images[:batch], images[batch:], labels


def _update(model, adam, others, state, original, edited, labels):
    """One step of Adam: new (variables, optimiser state), and the terms of the loss."""
    variables, optimizer = state

    def loss(variables):
        units = model.apply(variables, _floats(jnp.concatenate([original, edited])))
        change = units[len(labels) :] - units[: len(labels)]
        classes = jnp.concatenate([change, -change], axis=1)
        cross = optax.softmax_cross_entropy_with_integer_labels(classes, labels).mean()
        rest = 1 - jax.nn.one_hot(labels, model.units)
        stray = (rest * jnp.square(change)).sum(1).mean() / max(1, model.units - 1)
        return cross + others * stray, {"cross_entropy": cross, "others": stray}

    (value, terms), gradient = jax.value_and_grad(loss, has_aux=True)(variables)
    updates, optimizer = adam.update(gradient, optimizer)
    return (optax.apply_updates(variables, updates), optimizer), {"loss": value, **terms}


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: Encoder, variables: Any, images: jax.Array) -> jax.Array:
    return jnp.asarray(model.apply(variables, _floats(images)))


def _floats(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 127.5 - 1 if images.dtype == jnp.uint8 else images
