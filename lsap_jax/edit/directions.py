"""Editing directions: one record, one law, wherever a direction comes from.

    ws' = ws + strength * scale * (layer_weights x vector)

`scale` is what gives `strength` a unit. In unit "sigma" a strength of 1 is one standard deviation of the generator's
own W along the direction, which means the same for every direction and generator; in unit "w" it is one time the vector
as published, for InterFaceGAN's unit-length vectors the length of the step in W.

    d = load_direction("smile.pt", G)          # strengths in sigma; load_direction("smile.pt") keeps the published unit
    ws2 = apply_direction(ws, d, 2.0)          # 2 sigma towards the smile
    d = w_pca(G, 3, "0-7")                     # the fourth principal axis of W in layers 0 to 7

`lsap_jax.edit.named.resolve` takes a direction by the name that a command line gives it.
"""

import hashlib
import math
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.edit import direction_files
from lsap_jax.errors import CheckpointError, DirectionError
from lsap_jax.generators.base import Generator
from lsap_jax.latent import spaces

_BANK = "directions"


class Direction(flax.struct.PyTreeNode):
    """A direction of W or W+.

    Attributes:
      name: for labels.
      vector: (w_dim,), the same for every layer, or (rows, w_dim).
      layer_weights: (rows,) how much of it each layer gets, 0/1 or soft; layers beyond its end get nothing; None gives
        every layer all of it.
      scale: multiple of the vector that is a strength of 1.
      unit: of strength: "sigma" or "w".
      space: "w" for one vector, "w+" for one each layer.
      fingerprint: of the generator that it belongs to, or "" where nobody knows.
      origin: where it came from, in words.
      statistics: {"sigma": multiple of the vector that is one standard deviation of W, "mean": (w_dim,) of W}, as far
        as known.
    """

    name: str = flax.struct.field(pytree_node=False)
    vector: jax.Array
    layer_weights: jax.Array | None
    scale: jax.Array | float
    unit: str = flax.struct.field(pytree_node=False)
    space: str = flax.struct.field(pytree_node=False)
    fingerprint: str = flax.struct.field(pytree_node=False)
    origin: str = flax.struct.field(pytree_node=False)
    statistics: dict[str, jax.Array]


def apply_direction(ws: jax.Array, d: Direction, strength: jax.Array | float) -> jax.Array:
    """The edit law: ws + strength * scale * (layer_weights x vector).

    Numbers that are not to change, at strength 0 or in layers of weight 0, are returned bit for bit.

    Args:
      ws: (B, num_ws, w_dim).
      d: the direction.
      strength: one for all, or (B,), in the direction's unit.

    Raises:
      DirectionError: if the direction does not fit codes of this shape, or the strength is no scalar and no (B,).
    """
    ws, strength = jnp.asarray(ws), jnp.asarray(strength, jnp.float32)
    if ws.ndim != 3 or strength.shape not in ((), (1,), ws.shape[:1]):
        raise DirectionError(
            f"codes {ws.shape} and strength {strength.shape}: codes are (B, num_ws, w_dim), and a strength is one "
            "number or (B,); `sweep` takes several strengths"
        )
    change = strength.reshape(-1, 1, 1) * _step(d, *ws.shape[1:])[None]
    return jnp.where(change == 0, ws, ws + change)  # -0.0 + 0.0 would be +0.0: other bits


def sweep(ws: jax.Array, d: Direction, strengths: jax.Array | Sequence[float]) -> jax.Array:
    """`apply_direction` at each of T strengths: (B, num_ws, w_dim) -> (T, B, num_ws, w_dim)."""
    return jax.vmap(lambda strength: apply_direction(ws, d, strength))(jnp.asarray(strengths, jnp.float32))


def coordinate(ws: jax.Array, d: Direction) -> jax.Array:
    """Where codes stand along a direction: (B,) in its unit, 0 at the mean of W, measured on row 0 as GANSpace does.

    Raises:
      DirectionError: if the direction has a vector for each layer, or nobody knows the mean of W.
    """
    if d.vector.ndim != 1 or "mean" not in d.statistics:
        raise DirectionError(f"{d.name}: only a direction of W with a known mean has coordinates; load it with G")
    return (ws[:, 0] - d.statistics["mean"][None]) @ d.vector / (d.vector @ d.vector * d.scale)


def toward(ws: jax.Array, d: Direction, target: jax.Array | float) -> jax.Array:
    """Move every code to a coordinate, instead of by a step.

    This is how e4e and GANInverter read the strength of a GANSpace edit: smile (46, 4, 5, -20) is
    `toward(ws, load_direction("ffhq_pca.pt", G, 4, 46), -20)`.

    Raises:
      DirectionError: as `coordinate`.
    """
    return apply_direction(ws, d, target - coordinate(ws, d))


def load_direction(
    path: str | os.PathLike,
    G: Generator | None = None,
    layers: str | Sequence[int] | None = None,
    component: int | str | None = None,
    unit: str | None = None,
    force: bool = False,
) -> Direction:
    """Read a direction from any published format (`lsap_jax.edit.direction_files`) or a bank of ours.

    Published files do not say which generator they belong to: a warning reminds of that.

    Args:
      path: the file.
      G: the generator to use it with; checks shapes and fingerprint and fits the rows: of more rows than `num_ws` the
        first are taken.
      layers: which layers to edit, "0-5" (ends included), "0,2,4-6" or a sequence; by default what the file says, else
        all.
      component: index or name, where a file holds several.
      unit: of strength, "sigma" or "w". By default "sigma" where it is known, as it is with G, else "w"; banks keep
        their own.
      force: take a direction of another generator, and do not warn.

    Raises:
      DirectionError: if there is no such file or component, it holds no direction, or it does not fit G.
      CheckpointError: if the file is damaged or hostile.
    """
    path = pathlib.Path(path)
    data = direction_files.open_file(path)
    if isinstance(data, dict) and store.META_KEY in data:
        d = _pick(load_bank(path, G, force), component, path)
        d = d if unit is None else in_unit(d, unit, G)
        return d if layers is None else restrict(d, layers, G)
    found = direction_files.parse(data, path)
    if component is not None and not isinstance(component, int):
        raise DirectionError(f"{path}: its directions have no names; components are 0 to {len(found) - 1}")
    published = _pick(found, component, path)
    name = path.stem if component is None else f"{path.stem}{component}"
    which = path.name if component is None else f"{path.name}#{component}"
    rows, origin, cut = published.rows, f"{which}, published as {published.rows.shape}", ""
    if (rows == rows[:1]).all():
        rows = rows[0]
    elif G is not None and len(rows) > G.num_ws:
        cut = f"; of its {len(rows)} rows the first {G.num_ws} are used"
        rows, origin = rows[: G.num_ws], origin + cut
    sigma = {} if published.sigma is None else {"sigma": jnp.float32(published.sigma)}
    mean = {} if published.mean is None else {"mean": jnp.asarray(published.mean)}
    space = "w" if rows.ndim == 1 else "w+"
    d = Direction(name, jnp.asarray(rows), None, 1.0, "w", space, "", origin, sigma | mean)
    chosen = direction_files.parse_layers(layers) or published.layers
    d = d if chosen is None else restrict(d, chosen)
    d = d if G is None else fitted(d, G)
    if not force:
        whom = "the generator you use" if G is None else f"{G.name or 'this generator'}"
        warnings.warn(
            f"{path} does not say which generator it was found in. A direction works only in the generator family it "
            f"was found in; make sure that {whom} is of that family{cut}",
            stacklevel=2,
        )
    return in_unit(d, unit or ("sigma" if G is not None or sigma else "w"), G)


def w_pca(G: Generator, component: int, layers: str | Sequence[int] | None = None) -> Direction:
    """Principal axis `component` of W, strengths in sigma: GANSpace's directions, for any generator, from no file.

    Raises:
      DirectionError: if W has fewer axes, or layers are not the generator's.
    """
    return w_axes(G, [component], layers)[0]


def w_axes(G: Generator, components: Sequence[int], layers: str | Sequence[int] | None = None) -> list[Direction]:
    """Several of `w_pca`, for one look at W.

    Raises:
      DirectionError: as `w_pca`.
    """
    for component in components:
        if not 0 <= component < G.w_dim:
            raise DirectionError(f"pca{component}: the axes of this generator's W are pca0 to pca{G.w_dim - 1}")
    statistics, fingerprint, found = spaces.w_statistics(G), G.fingerprint, []
    for component in components:
        known = {"sigma": statistics.stddev[component], "mean": statistics.mean}
        origin = f"principal axis {component} of W of {G.name or 'the generator'}"
        d = Direction(
            f"pca{component}", statistics.components[component], None, 1.0, "w", "w", fingerprint, origin, known
        )
        found.append(in_unit(fitted(d if layers is None else restrict(d, layers), G), "sigma"))
    return found


def in_unit(d: Direction, unit: str, G: Generator | None = None) -> Direction:
    """The same direction with strengths in another unit; see `Direction`.

    Over a vector for each layer, sigma is the root mean square over the layers that it edits.

    Raises:
      DirectionError: if the unit is unknown, or "sigma" is not known and G is not given.
    """
    if unit not in ("sigma", "w"):
        raise DirectionError(f"unit {unit!r}: use 'sigma' or 'w'")
    if unit == "w":
        return d.replace(scale=1.0, unit=unit)
    if "sigma" not in d.statistics:
        if G is None:
            raise DirectionError(f"{d.name}: its standard deviation in W is not known: give the generator, or unit 'w'")
        statistics = spaces.w_statistics(G)
        rows = d.vector[None] if d.vector.ndim == 1 else d.vector
        if d.vector.ndim == 2 and d.layer_weights is not None:
            rows = rows[np.flatnonzero(d.layer_weights)]
        variance = jnp.mean(jnp.sum((rows @ statistics.covariance) * rows, axis=-1))
        sigma = jnp.sqrt(jnp.maximum(variance, 0)) / jnp.mean(jnp.sum(jnp.square(rows), axis=-1))
        d = d.replace(statistics={**d.statistics, "sigma": sigma, "mean": statistics.mean})
    sigma = float(d.statistics["sigma"])
    if not (math.isfinite(sigma) and sigma > 0):
        raise DirectionError(f"{d.name}: W does not vary along it (sigma {sigma:g}), so give unit 'w'")
    return d.replace(scale=sigma, unit=unit)


def restrict(d: Direction, layers: str | Sequence[int] | None, G: Generator | None = None) -> Direction:
    """Only these layers, each with weight 1; `None` or "all" for all of them.

    A vector of W stays as it is, and so does its sigma; of a vector for each layer other rows are edited now, so its
    sigma is measured anew (`remeasured`).

    Args:
      d: the direction.
      layers: "0-5" (ends included), "0,2,4-6" or a sequence.
      G: its generator, where sigma has to be measured anew.

    Raises:
      DirectionError: if it has no such layer, or sigma cannot be measured.
    """
    chosen, weights = direction_files.parse_layers(layers), None
    if chosen is not None:
        length = chosen[-1] + 1 if d.vector.ndim == 1 else len(d.vector)
        if chosen[-1] >= length:
            raise DirectionError(
                f"{d.name}: layer {chosen[-1]} is asked for; this direction has layers 0 to {length - 1}"
            )
        weights = np.zeros(length, np.float32)
        weights[list(chosen)] = 1
        weights = jnp.asarray(weights)
    changed = d.replace(layer_weights=weights)
    return changed if d.vector.ndim == 1 else remeasured(changed, G)


def remeasured(d: Direction, G: Generator | None) -> Direction:
    """The direction after a change of its vector or layers, in the unit that it had.

    Its sigma follows from the covariance of W again; what else was measured on the unchanged direction is dropped, but
    for the mean of W and "kept", the share of its length that filters left.

    Raises:
      DirectionError: if strengths are in sigma and G, whose W it takes to measure it, is not given.
    """
    if d.unit == "sigma" and G is None:
        raise DirectionError(f"{d.name}: changed, its sigma must be measured anew: give the generator, or unit 'w'")
    d = d.replace(statistics={key: value for key, value in d.statistics.items() if key in ("mean", "kept")})
    return in_unit(d, "sigma", G) if d.unit == "sigma" else d


def fitted(d: Direction, G: Generator) -> Direction:
    """The direction with exactly G's rows; `layer_weights` is there afterwards.

    Raises:
      DirectionError: if its vectors have another length than W, or it edits layers that G has not.
    """
    rows, weights = d.vector, d.layer_weights
    if rows.shape[-1] != G.w_dim:
        raise DirectionError(
            f"{d.name}: vectors of length {rows.shape[-1]}, and W of {G.name or 'this generator'} has {G.w_dim}: "
            "it belongs to another generator"
        )
    given = G.num_ws if rows.ndim == 1 else len(rows)
    if given < G.num_ws and weights is None:
        raise DirectionError(
            f"{d.name}: {given} rows, and {G.name or 'this generator'} has {G.num_ws}: say which of them to edit "
            f"with layers, such as 0-{given - 1}"
        )
    weights = jnp.ones(G.num_ws) if weights is None else weights
    if weights[G.num_ws :].any():
        raise DirectionError(
            f"{d.name}: layer {int(np.flatnonzero(weights)[-1])} is asked for, and the layers of "
            f"{G.name or 'this generator'} are 0 to {G.num_ws - 1}"
        )
    weights = jnp.pad(weights[: G.num_ws], (0, max(0, G.num_ws - len(weights))))
    if rows.ndim == 2:
        rows = jnp.pad(rows[: G.num_ws], ((0, max(0, G.num_ws - given)), (0, 0)))
    return d.replace(vector=rows, layer_weights=weights)


def check(d: Direction, G: Generator) -> None:
    """Refuse a direction of another generator; one that names none passes.

    Raises:
      DirectionError: if the direction has another fingerprint than G.
    """
    if d.fingerprint and d.fingerprint != G.fingerprint:
        raise DirectionError(
            f"{d.name} ({d.origin}) was found in generator {d.fingerprint}, and {G.name or 'this one'} is "
            f"{G.fingerprint}: in another generator it means nothing. Find it there, or insist with force (--force)"
        )


def save_bank(path: str | os.PathLike, directions: Sequence[Direction], meta: dict[str, Any] | None = None) -> None:
    """Write directions as one `.npz`; `meta` adds source, licence and the like.

    Raises:
      OSError: if the file cannot be written.
    """
    tree: store.Tree = {}
    for index, d in enumerate(directions):
        arrays = {"vector": d.vector, "layer_weights": d.layer_weights, "scale": d.scale, "statistics": d.statistics}
        tree[str(index)] = jax.device_get({key: value for key, value in arrays.items() if value is not None})
    words = ("name", "unit", "space", "fingerprint", "origin")
    records = [{word: getattr(d, word) for word in words} for d in directions]
    store.save(path, tree, {**(meta or {}), "kind": _BANK, "directions": records})


def load_bank(path: str | os.PathLike, G: Generator | None = None, force: bool = False) -> list[Direction]:
    """Read what `save_bank` wrote.

    Raises:
      DirectionError: if a direction belongs to another generator than G and `force` is not set, or does not fit it.
      CheckpointError: if the file is damaged or holds something else.
    """
    tree, meta = store.load(path)
    if meta.get("kind") != _BANK:
        raise CheckpointError(f"{path}: holds a {meta.get('kind', 'tree of unknown kind')!r}, not directions")
    bank = []
    for index, words in enumerate(meta["directions"]):
        arrays = jax.tree.map(jnp.asarray, {"layer_weights": None, "statistics": {}, **tree[str(index)]})
        d = Direction(**words, **arrays)
        if G is not None:
            if not force:
                check(d, G)
            d = fitted(d, G)
        bank.append(d)
    return bank


def record(d: Direction) -> dict[str, Any]:
    """What identifies a direction, as JSON: equal records edit equally."""
    digest = hashlib.blake2b(np.asarray(d.vector, np.float32).tobytes(), digest_size=8).hexdigest()
    return {
        "name": d.name,
        "vector": digest,
        "layer_weights": None if d.layer_weights is None else np.asarray(d.layer_weights).tolist(),
        "scale": float(d.scale),
        "unit": d.unit,
        "space": d.space,
        "fingerprint": d.fingerprint,
        "origin": d.origin,
    }


def _step(d: Direction, num_ws: int, w_dim: int) -> jax.Array:
    """What a strength of 1 adds to each row: (num_ws, w_dim)."""
    rows, weights = d.vector, d.layer_weights
    length = num_ws if weights is None else len(weights)
    wrong = rows.shape[-1] != w_dim or length > num_ws or (rows.ndim == 2 and len(rows) != length)
    if d.space not in ("w", "w+") or wrong:
        raise DirectionError(
            f"{d.name}: a direction {rows.shape} of space {d.space!r} for {length} layers does not fit codes of shape "
            f"(B, {num_ws}, {w_dim}); load it with the generator, load_direction(path, G), and name layers"
        )
    weights = jnp.ones(num_ws) if weights is None else weights
    # One expression for both forms: a vector for all layers is a row that every layer shares.
    step = d.scale * weights[:, None] * rows.reshape(-1, w_dim)
    return jnp.pad(step, ((0, num_ws - length), (0, 0)))


def _pick(found: list[Any], component: int | str | None, path: pathlib.Path) -> Any:
    """One of several; a name is looked up among named ones."""
    if component is None:
        if len(found) != 1:
            raise DirectionError(
                f"{path}: holds {len(found)} directions; name one by component=, or on the command line {path}#0"
            )
        return found[0]
    if isinstance(component, int):
        if not 0 <= component < len(found):
            raise DirectionError(f"{path}: no component {component}; there are 0 to {len(found) - 1}")
        return found[component]
    names = [d.name for d in found]
    if component not in names:
        raise DirectionError(f"{path}: no direction is named {component!r}; there are {', '.join(names[:20])}")
    return found[names.index(component)]
