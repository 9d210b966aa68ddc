"""ContraFeat's navigator: a code in, a set of directions of W+ out (Zhu et al., arXiv:2212.07277).

    M(ws) = attention over layers (x) direction of W        (B, L, w_dim) -> (B, n, L, w_dim)

A direction has second moment 1, that is length sqrt(w_dim), and the attention says how much of it each layer gets.
`Navigator` is the static description; parameters are a dict of arrays, and every function here is pure.

| attention  | weights (n, L) over the first `att_layers` layers, 0 beyond them                          |
| ---------- | ----------------------------------------------------------------------------------------- |
| `none`     | the same for all                                                                          |
| `fixed`    | softmax of free numbers                                                                   |
| `fixedT`   | the same with a temperature                                                               |
| `fixedCM`  | cumsum(softmax) (1 - cumsum(softmax)) of two sets: a soft interval; does not add up to 1  |
| `ada1w`    | softmax of a small network of the mean row of the code                                    |
| `adaALLw`  | the same of all rows                                                                      |

| direction  | vectors (n, w_dim)                                                                        |
| ---------- | ----------------------------------------------------------------------------------------- |
| `fixed`    | free                                                                                      |
| `fixedE`   | free coefficients on the leading principal axes of W                                      |
| `fixedES`  | the same, groups of directions on groups of axes                                          |
| `ada1w`, `adaALLw`, `ada1wE`, `adaALLwE` | of a small network; with E its outputs are coefficients on axes |
| `pca`      | the principal axes themselves: only the attention is trained                              |
| `sefa`     | given vectors, SeFa's or any other's: only the attention is trained                       |
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.edit import directions
from lsap_jax.edit.directions import Direction
from lsap_jax.errors import ConfigError
from lsap_jax.generators.base import Generator
from lsap_jax.latent import spaces

ATTENTIONS = ("none", "fixed", "fixedT", "fixedCM", "ada1w", "adaALLw")
DIRECTIONS = ("fixed", "fixedE", "fixedES", "ada1w", "adaALLw", "ada1wE", "adaALLwE", "pca", "sefa")
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Navigator:
    """What a navigator is made of; see the tables above.

    Attributes:
      num_ws: rows of a code.
      w_dim: length of a row.
      count: directions.
      attention: one of `ATTENTIONS`.
      direction: one of `DIRECTIONS`.
      att_layers: only the first so many layers are edited.
      smoothing: odd length of a Gaussian over the layers that is run over a softmax, reflected at both ends (which
        does not keep the sum to the last digit); 0 for none. The reference smooths `fixed` after the zeros have been
        appended, which lets layer `att_layers` have a little; here it stays 0.
      smoothing_std: of the Gaussian, in layers.
      temperature: of `fixedT`.
      axes: leading principal axes of W for the variants with an E.
      groups: of `fixedES`: (directions, first axis, end of the axes) of each group.
      hidden: width of the small networks.
    """

    num_ws: int
    w_dim: int
    count: int = 30
    attention: str = "fixed"
    direction: str = "fixedE"
    att_layers: int = 16
    smoothing: int = 3
    smoothing_std: float = 1.0
    temperature: float = 1.0
    axes: int = 100
    groups: tuple[tuple[int, int, int], ...] = ()
    hidden: int = 128

    def __post_init__(self):
        """Refuse what cannot be.

        Raises:
          ConfigError: naming the field.
        """
        if self.attention not in ATTENTIONS:
            raise ConfigError(f"attention {self.attention!r}: use one of {', '.join(ATTENTIONS)}")
        if self.direction not in DIRECTIONS:
            raise ConfigError(f"direction {self.direction!r}: use one of {', '.join(DIRECTIONS)}")
        if self.count < 1 or not 1 <= self.att_layers <= self.num_ws:
            raise ConfigError(
                f"count {self.count}, att_layers {self.att_layers}: at least one direction, and of layers 1 to "
                f"{self.num_ws}"
            )
        if self.smoothing and (self.smoothing % 2 == 0 or self.smoothing // 2 >= self.att_layers):
            raise ConfigError(f"smoothing {self.smoothing}: odd, and at most {2 * self.att_layers - 1}; 0 for none")
        if not 1 <= self.axes <= self.w_dim:
            raise ConfigError(f"axes {self.axes}: W has {self.w_dim}")
        if self.direction == "fixedES":
            fits = all(0 <= first < end <= self.axes and n > 0 for n, first, end in self.groups)
            if not fits or sum(n for n, _, _ in self.groups) != self.count:
                raise ConfigError(
                    f"groups {self.groups}: (directions, first axis, end) of each, {self.count} directions in all, "
                    f"axes 0 to {self.axes}"
                )

    @property
    def depends_on_code(self) -> bool:
        """Whether different codes get different directions."""
        return self.attention.startswith("ada") or self.direction.startswith("ada")


def init(nav: Navigator, key: jax.Array) -> Params:
    """Fresh parameters, standard normal (biases 0): {"attention": ..., "direction": ...} as far as there are any."""
    key_attention, key_direction = jax.random.split(key)
    params: Params = {}
    logits = (nav.count, nav.att_layers)
    if nav.attention in ("fixed", "fixedT"):
        params["attention"] = {"logits": jax.random.normal(key_attention, logits)}
    elif nav.attention == "fixedCM":
        rise, fall = jax.random.split(key_attention)
        params["attention"] = {"rise": jax.random.normal(rise, logits), "fall": jax.random.normal(fall, logits)}
    elif nav.attention.startswith("ada"):
        params["attention"] = _init_network(nav, nav.attention, nav.count * nav.att_layers, key_attention)
    width = nav.axes if nav.direction.endswith("E") else nav.w_dim
    if nav.direction in ("fixed", "fixedE"):
        params["direction"] = {"values": jax.random.normal(key_direction, (nav.count, width))}
    elif nav.direction == "fixedES":
        keys = jax.random.split(key_direction, len(nav.groups))
        sizes = [(n, end - first) for n, first, end in nav.groups]
        values = {str(i): jax.random.normal(k, s) for i, (k, s) in enumerate(zip(keys, sizes, strict=True))}
        params["direction"] = values
    elif nav.direction.startswith("ada"):
        params["direction"] = _init_network(nav, nav.direction, nav.count * width, key_direction)
    return params


def frozen_basis(nav: Navigator, G: Generator, vectors: jax.Array | None = None) -> jax.Array:
    """The rows that a navigator builds on: axes of W (axes, w_dim), frozen vectors (count, w_dim), or none (0, w_dim).

    Args:
      nav: the navigator.
      G: its generator.
      vectors: for "sefa": (at least count, w_dim); the first `count` are taken.

    Raises:
      ConfigError: if the vectors are missing, too few or of another width.
    """
    if nav.direction == "sefa":
        if vectors is None or jnp.ndim(vectors) != 2 or len(vectors) < nav.count or vectors.shape[1] != nav.w_dim:
            given = None if vectors is None else jnp.shape(vectors)
            raise ConfigError(f"direction 'sefa' needs ({nav.count} or more, {nav.w_dim}) vectors; given: {given}")
        return jnp.asarray(vectors[: nav.count], jnp.float32)
    if nav.direction == "pca":
        if nav.count > nav.w_dim:
            raise ConfigError(f"count {nav.count}: W has {nav.w_dim} principal axes")
        return spaces.w_statistics(G).components[: nav.count]
    if nav.direction.endswith(("E", "ES")):
        return spaces.w_statistics(G).components[: nav.axes]
    return jnp.zeros((0, nav.w_dim))


def attention(nav: Navigator, params: Params, ws: jax.Array) -> jax.Array:
    """How much of each direction each layer gets: ws (B, num_ws, w_dim) -> (B, count, num_ws)."""
    own = params.get("attention", {})
    shape = (ws.shape[0], nav.count, nav.att_layers)
    if nav.attention == "none":
        weights = jnp.full(shape, 1 / nav.att_layers)
    elif nav.attention == "fixedCM":
        rise, fall = (jnp.cumsum(jax.nn.softmax(own[name]), axis=-1) for name in ("rise", "fall"))
        weights = rise * (1 - fall)
    else:
        adaptive = nav.attention.startswith("ada")
        logits = _network(own, _rows(nav.attention, ws)).reshape(shape) if adaptive else own["logits"]
        weights = jax.nn.softmax(logits / nav.temperature if nav.attention == "fixedT" else logits)
        if nav.smoothing:
            weights = _smooth(weights, nav.smoothing, nav.smoothing_std)
    return jnp.pad(jnp.broadcast_to(weights, shape), ((0, 0), (0, 0), (0, nav.num_ws - nav.att_layers)))


def vectors(nav: Navigator, params: Params, basis: jax.Array, ws: jax.Array) -> jax.Array:
    """Directions of W with length sqrt(w_dim): ws (B, num_ws, w_dim) -> (B, count, w_dim)."""
    own = params.get("direction", {})
    if nav.direction in ("pca", "sefa"):
        found = basis
    elif nav.direction == "fixedES":
        parts = [own[str(i)] @ basis[first:end] for i, (_, first, end) in enumerate(nav.groups)]
        found = jnp.concatenate(parts)
    elif nav.direction.startswith("ada"):
        found = _network(own, _rows(nav.direction, ws)).reshape(ws.shape[0], nav.count, -1)
    else:
        found = own["values"]
    if nav.direction.endswith("E"):
        found = found @ basis
    found = found * jax.lax.rsqrt(jnp.mean(jnp.square(found), axis=-1, keepdims=True) + 1e-8)
    return jnp.broadcast_to(found, (ws.shape[0], nav.count, nav.w_dim))


def apply(nav: Navigator, params: Params, basis: jax.Array, ws: jax.Array) -> jax.Array:
    """Directions of W+: ws (B, num_ws, w_dim) -> (B, count, num_ws, w_dim).

    Args:
      nav: the description.
      params: as `init` makes them.
      basis: of `frozen_basis`.
      ws: codes.
    """
    return attention(nav, params, ws)[..., None] * vectors(nav, params, basis, ws)[:, :, None, :]


def walk(
    nav: Navigator, params: Params, basis: jax.Array, ws: jax.Array, index: int, strength: float, steps: int = 1
) -> jax.Array:
    """Move codes along direction `index`, asking the navigator again at every step, as its input changes.

    For a navigator that does not look at the code this is one straight step.

    Args:
      nav: the description.
      params: its parameters.
      basis: of `frozen_basis`.
      ws: (B, num_ws, w_dim).
      index: of the direction.
      strength: in the navigator's own unit, the s of the loss: 1 moves the rows by length sqrt(w_dim) in all.
      steps: how often the direction is evaluated.
    """
    for _ in range(steps):
        ws = ws + strength / steps * apply(nav, params, basis, ws)[:, index]
    return ws


def to_directions(
    nav: Navigator, params: Params, basis: jax.Array, G: Generator, name: str = "contrafeat", origin: str = ""
) -> list[Direction]:
    """The directions of a navigator that does not look at the code, as records of the bank.

    A vector has unit length and its entry of largest magnitude is positive, as the losses are blind to the sign; the
    largest of the layer weights is 1, so that a strength of 1 is one sigma of W in the layer that gets most.

    Args:
      nav: the description.
      params: its parameters.
      basis: of `frozen_basis`.
      G: the generator.
      name: the directions are called name0, name1, ...
      origin: in words; by default the variants.

    Returns:
      Directions in unit "sigma", with the statistic "walk": how many sigma a strength of 1 of the navigator is.

    Raises:
      ConfigError: if the navigator looks at the code: such a direction is no constant; use `walk`.
    """
    if nav.depends_on_code:
        raise ConfigError(
            f"attention {nav.attention!r}, direction {nav.direction!r}: these depend on the code, so there is no "
            "direction to store; move codes by navigator.walk"
        )
    ws = jnp.zeros((1, nav.num_ws, nav.w_dim))
    weights, rows = attention(nav, params, ws)[0], vectors(nav, params, basis, ws)[0]
    found = []
    for index in range(nav.count):
        vector = rows[index] / jnp.linalg.norm(rows[index])
        vector = vector * jnp.sign(vector[jnp.abs(vector).argmax()])
        most = weights[index].max()
        d = Direction(
            name=f"{name}{index}",
            vector=vector,
            layer_weights=weights[index] / most,
            scale=1.0,
            unit="w",
            space="w",
            fingerprint=G.fingerprint,
            origin=origin or f"ContraFeat, attention {nav.attention}, direction {nav.direction}",
            statistics={},
        )
        d = directions.in_unit(d, "sigma", G)
        own = most * math.sqrt(nav.w_dim) / d.scale
        found.append(d.replace(statistics=d.statistics | {"walk": own}))
    return found


def gaussian(length: int, std: float) -> np.ndarray:
    """Weights of a Gaussian that add up to 1: (length,)."""
    at = np.arange(length) - (length - 1) / 2
    weights = np.exp(-0.5 * np.square(at / std))
    return (weights / weights.sum()).astype(np.float32)


def _smooth(weights: jax.Array, length: int, std: float) -> jax.Array:
    """Run a Gaussian over the last axis, reflected at its ends without repeating the last element."""
    side, total = length // 2, weights.shape[-1]
    padded = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(side, side)], mode="reflect")
    return jnp.stack([w * padded[..., i : i + total] for i, w in enumerate(gaussian(length, std))]).sum(0)


def _rows(variant: str, ws: jax.Array) -> jax.Array:
    """What a network looks at: the mean row, or all of them."""
    return ws.mean(1) if variant.startswith("ada1w") else ws.reshape(ws.shape[0], -1)


def _init_network(nav: Navigator, variant: str, outputs: int, key: jax.Array) -> Params:
    inputs = nav.w_dim if variant.startswith("ada1w") else nav.num_ws * nav.w_dim
    sizes: Sequence[tuple[int, int]] = ((inputs, nav.hidden), (nav.hidden, outputs))
    keys = jax.random.split(key, len(sizes))
    return {
        f"dense{i}": {"kernel": jax.random.normal(k, size), "bias": jnp.zeros(size[1])}
        for i, (k, size) in enumerate(zip(keys, sizes, strict=True))
    }


def _network(params: Params, x: jax.Array) -> jax.Array:
    """Two layers with equalised learning rate, as in StyleGAN: kernels are divided by the root of their inputs."""

    def dense(layer, x):
        return x @ layer["kernel"] / math.sqrt(layer["kernel"].shape[0]) + layer["bias"][None]

    return dense(params["dense1"], math.sqrt(2) * jax.nn.relu(dense(params["dense0"], x)))
