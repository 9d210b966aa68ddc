"""ContraFeat's losses: directions are semantics if they change features alike everywhere, and each in its own way.

ContraFeat: Zhu et al., arXiv:2212.07277. A frozen network (the sensor) sees what a step along a direction changes; the
cosine of two changes, position by position, is compared where both changed most (the focus masks).

| variant | what a change is compared with                                                                         |
| ------- | ------------------------------------------------------------------------------------------------------ |
| `bi`    | that of the same direction on another code (to be parallel) and of another direction (perpendicular)   |
| `pt`    | learned pictures, one for each direction, whose features it should have: its own yes, the others not   |

Cosines are squared: a direction and its opposite are one semantic.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from lsap_jax import pretrained
from lsap_jax.data import resize
from lsap_jax.edit import navigator
from lsap_jax.edit.navigator import Navigator
from lsap_jax.errors import ConfigError
from lsap_jax.generators.base import Generator
from lsap_jax.networks import alexnet

# (B, H, W, 3) pictures in [-1, 1] -> tuple of (B, h_l, w_l, C_l); a pytree, such as
# `jax.tree_util.Partial(function, params)`, so that its weights are arguments of compiled programs.
Sensor = Any


@dataclasses.dataclass(frozen=True)
class Config:
    """A run; the defaults are those of the paper's tables, not of the reference's command.

    Attributes:
      variant: "bi" or "pt".
      count: directions.
      attention: of `navigator.Navigator`.
      direction: of `navigator.Navigator`.
      att_layers: likewise; at most the generator's are taken.
      smoothing: likewise, over the layers.
      temperature: likewise, of "fixedT".
      axes: likewise, principal axes of W; at most w_dim are taken.
      groups: likewise, of "fixedES".
      var_scale: the walk s is drawn from U[-1, 1] times this; 1 moves the rows by length sqrt(w_dim) in all.
      positive: weight of the likeness that is wanted.
      negative: weight of the likeness that is not.
      diversity: weight of the squared cosines between directions.
      prototype_diversity: pt: weight of the likeness between prototypes.
      mask: "product" or "union" (the sum) of the two focus masks, or "none" for plain means.
      mask_after_square: weigh squared cosines by the mask, instead of squaring weighted ones.
      absolute: |cosine| instead of its square.
      mask_over_depth: a mask's 0 and 1 are the least and largest change over all layers, instead of in each.
      mixing: codes are style-mixed from so many w, cut evenly.
      prototype_side: pt: of the pictures in pixels; 0 for that of the renders.
      mirror: pt: prototypes are seen as their negative half of the time.
      resolution: renders are this large for the sensor; larger ones are shrunk by area.
      batch: codes of a step; "bi" pairs them and renders 2.5 pictures of each, "pt" 2.
      steps: of the run. The paper's 200 to 600 thousand codes are 17 to 50 thousand steps of 12.
      learning_rate: of Adam, with beta 0 and 0.99.
      seed: of the start and of every draw.
    """

    variant: str = "bi"
    count: int = 30
    attention: str = "fixed"
    direction: str = "fixedE"
    att_layers: int = 16
    smoothing: int = 3
    temperature: float = 1.0
    axes: int = 100
    groups: tuple[tuple[int, int, int], ...] = ()
    var_scale: float = 1.0
    positive: float = 1.0
    negative: float = 1.0
    diversity: float = 0.1
    prototype_diversity: float = 0.0
    mask: str = "product"
    mask_after_square: bool = False
    absolute: bool = False
    mask_over_depth: bool = False
    mixing: int = 2
    prototype_side: int = 0
    mirror: bool = True
    resolution: int = 256
    batch: int = 12
    steps: int = 17_000
    learning_rate: float = 0.05
    seed: int = 0

    def __post_init__(self):
        """Refuse what cannot be.

        Raises:
          ConfigError: naming the field.
        """
        if self.variant not in ("bi", "pt"):
            raise ConfigError(f"variant {self.variant!r}: use 'bi' or 'pt'")
        if self.mask not in ("product", "union", "none"):
            raise ConfigError(f"mask {self.mask!r}: use 'product', 'union' or 'none'")
        if self.count < 2:
            raise ConfigError(f"count {self.count}: a contrast needs at least two directions")
        if self.batch < 1 or (self.variant == "bi" and self.batch % 2):
            raise ConfigError(f"batch {self.batch}: at least 1, and even for 'bi', which pairs the codes")
        if self.mixing < 1 or self.steps < 1 or self.resolution < 1:
            raise ConfigError(f"mixing {self.mixing}, steps {self.steps}, resolution {self.resolution}: at least 1")

    def navigator(self, G: Generator) -> Navigator:
        """The navigator for a generator.

        Raises:
          ConfigError: as `Navigator`.
        """
        layers = min(self.att_layers, G.num_ws)
        smoothing = self.smoothing if layers > self.smoothing // 2 else 0
        return Navigator(
            num_ws=G.num_ws,
            w_dim=G.w_dim,
            count=self.count,
            attention=self.attention,
            direction=self.direction,
            att_layers=layers,
            smoothing=smoothing,
            temperature=self.temperature,
            axes=min(self.axes, G.w_dim),
            groups=self.groups,
        )


class State(flax.struct.PyTreeNode):
    """A run between two steps.

    Attributes:
      step: updates done.
      key: raw key (uint32) that the draws of step n come from, folded with n.
      params: {"navigator": ...}, and for pt {"prototypes": (count, S, S, 3)} before the tanh.
      optimizer: state of Adam.
    """

    step: jax.Array
    key: jax.Array
    params: Any
    optimizer: Any


class Likeness(NamedTuple):
    """Terms of a loss: what should be alike, and what should not; each is subject to the config's weights."""

    positive: jax.Array
    negative: jax.Array


def alexnet_sensor() -> Sensor:
    """The five ReLU layers of AlexNet, on pictures in [-1, 1] without ImageNet's normalisation, as in the reference.

    Raises:
      FetchError: if the weights cannot be fetched.
    """
    tree, _ = pretrained.load("lpips-alex")
    return jax.tree_util.Partial(alexnet.features, jax.tree.map(jnp.asarray, tree["net"]))


def init(config: Config, G: Generator) -> State:
    """The state before the first step, from the config's seed."""
    start, key = jax.random.split(jax.random.key(config.seed))
    key_navigator, key_prototypes = jax.random.split(start)
    params: dict[str, Any] = {"navigator": navigator.init(config.navigator(G), key_navigator)}
    if config.variant == "pt":
        side = config.prototype_side or min(config.resolution, G.resolution)
        params["prototypes"] = 0.01 * jax.random.normal(key_prototypes, (config.count, side, side, 3))
    return State(jnp.int32(0), jax.random.key_data(key), params, _optimizer(config).init(params))


def step(
    config: Config, G: Generator, sensor: Sensor, basis: jax.Array, state: State
) -> tuple[State, dict[str, jax.Array]]:
    """One update; to be jitted by the caller with `config` static.

    Args:
      config: the run.
      G: frozen.
      sensor: frozen.
      basis: of `navigator.frozen_basis`.
      state: of the run.

    Returns:
      The next state; and the means of "loss", "positive", "negative" (likenesses, summed over the sensor's layers) and
      "diversity" (squared cosines between directions, summed).
    """
    key_codes, key_walks = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step))
    ws = sample_codes(G, key_codes, config.batch, config.mixing)
    # Rendered outside of what is differentiated: the codes as they are do not depend on the navigator.
    before = sensor(render(G, ws, config.resolution)) if config.variant == "bi" else ()

    def objective(params):
        steps = navigator.apply(config.navigator(G), params["navigator"], basis, ws)
        if config.variant == "bi":
            likeness = binary(config, G, sensor, ws, steps, before, key_walks)
        else:
            likeness = prototypical(config, G, sensor, ws, steps, params["prototypes"], key_walks)
        terms = {
            "positive": likeness.positive.mean(),
            "negative": likeness.negative.mean(),
            "diversity": between_directions(steps).mean(),
        }
        loss = config.negative * terms["negative"] - config.positive * terms["positive"]
        loss = loss + config.diversity * terms["diversity"]
        if config.variant == "pt" and config.prototype_diversity:
            loss = loss + config.prototype_diversity * between_prototypes(config, sensor, params["prototypes"])
        return loss, terms

    (loss, terms), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
    updates, optimizer = _optimizer(config).update(gradient, state.optimizer)
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, state.key, params, optimizer), {"loss": loss, **terms}


def sample_codes(G: Generator, key: jax.Array, batch: int, mixing: int = 2) -> jax.Array:
    """Codes of the generator's own, each of `mixing` w in even stretches of rows: (batch, num_ws, w_dim)."""
    keys = jax.random.split(key, 2)
    z = jax.random.normal(keys[0], (batch * mixing, G.z_dim))
    labels = None
    if G.arch.label_dim:
        labels = jax.nn.one_hot(jax.random.randint(keys[1], (batch * mixing,), 0, G.arch.label_dim), G.arch.label_dim)
    w = G.map(z, labels=labels).reshape(batch, mixing, G.w_dim)
    return w[:, jnp.arange(G.num_ws) * mixing // G.num_ws]


def render(G: Generator, ws: jax.Array, resolution: int) -> jax.Array:
    """Pictures of at most this side: a render that the generator can make, or the full one shrunk by area."""
    if resolution >= G.resolution or resolution in G.resolutions:
        return G.synthesize(ws, resolution=min(resolution, G.resolution))
    return resize.area(G.synthesize(ws), resolution)


def binary(
    config: Config, G: Generator, sensor: Sensor, ws: jax.Array, steps: jax.Array, before: tuple, key: jax.Array
) -> Likeness:
    """The binary variant: of pairs of codes (w1, w2), two directions p != n each.

    Args:
      config: the run.
      G: the generator.
      sensor: the sensor.
      ws: (B, num_ws, w_dim), the w1 and then the w2.
      steps: (B, count, num_ws, w_dim) of the navigator.
      before: the sensor's layers on the renders of `ws`.
      key: of the draws.

    Returns:
      (B / 2,) likeness of p on w1 with p on w2, and of p on w1 with n on w2, summed over layers.
    """
    half = ws.shape[0] // 2
    key_which, key_walk = jax.random.split(key)
    first = jax.random.randint(key_which, (half,), 0, config.count)
    other = jax.random.randint(jax.random.fold_in(key_which, 1), (half,), 1, config.count)
    second = (first + other) % config.count
    same, different = config.var_scale * jax.random.uniform(key_walk, (2, half, 1, 1), minval=-1.0)
    at = jnp.arange(half)
    moved = [
        ws[:half] + same * steps[at, first],
        ws[half:] + same * steps[half + at, first],
        ws[half:] + different * steps[half + at, second],
    ]
    after = sensor(render(G, jnp.concatenate(moved), config.resolution))
    changes = [f - jnp.concatenate([b, b[half:]]) for f, b in zip(after, before, strict=True)]
    masks = focus(config, changes)
    positive, negative = jnp.zeros(half), jnp.zeros(half)
    for change, mask in zip(changes, masks, strict=True):
        query, alike, unlike = jnp.split(change, 3)
        mask_query, mask_alike, mask_unlike = jnp.split(mask, 3)
        positive += masked_likeness(config, cosine(query, alike), mask_query, mask_alike)
        negative += masked_likeness(config, cosine(query, unlike), mask_query, mask_unlike)
    return Likeness(positive, negative)


def prototypical(
    config: Config, G: Generator, sensor: Sensor, ws: jax.Array, steps: jax.Array, prototypes: jax.Array, key: jax.Array
) -> Likeness:
    """The prototype variant: one direction of each code, walked half of s to both sides.

    Args:
      config: the run.
      G: the generator.
      sensor: the sensor.
      ws: (B, num_ws, w_dim).
      steps: (B, count, num_ws, w_dim) of the navigator.
      prototypes: (count, S, S, 3) before the tanh.
      key: of the draws.

    Returns:
      (B,) likeness of the change with the direction's own prototype, and the mean of those with all others.
    """
    batch = ws.shape[0]
    key_which, key_walk, key_mirror = jax.random.split(key, 3)
    which = jax.random.randint(key_which, (batch,), 0, config.count)
    s = config.var_scale * jax.random.uniform(key_walk, (batch, 1, 1), minval=-1.0)
    walk = 0.5 * s * steps[jnp.arange(batch), which]
    features = sensor(render(G, jnp.concatenate([ws + walk, ws - walk]), config.resolution))
    changes = [f[:batch] - f[batch:] for f in features]
    sign = jnp.ones(config.count)
    if config.mirror:
        sign = 2.0 * jax.random.bernoulli(key_mirror, shape=(config.count,)) - 1
    patterns = sensor(jnp.tanh(prototypes) * sign[:, None, None, None])
    patterns = [resize.bilinear(p, c.shape[1:3], antialias=False) for p, c in zip(patterns, changes, strict=True)]
    own = jax.nn.one_hot(which, config.count)
    positive, negative = jnp.zeros(batch), jnp.zeros(batch)
    for change, pattern, mask, mask_pattern in zip(
        changes, patterns, focus(config, changes), focus(config, patterns), strict=True
    ):
        # Unit vectors first, so that no array has codes, prototypes, positions and channels at once.
        cosines = jnp.einsum("bhwc,nhwc->bnhw", _unit(change), _unit(pattern))
        likeness = masked_likeness(config, cosines, mask[:, None], mask_pattern[None])
        positive += (own * likeness).sum(1)
        negative += ((1 - own) * likeness).sum(1) / (config.count - 1)
    return Likeness(positive, negative)


def between_directions(steps: jax.Array) -> jax.Array:
    """Squared cosines between the directions of a code, over layers and w together: (B, n, L, w_dim) -> (B,)."""
    flat = _unit(steps.reshape(*steps.shape[:2], -1))
    return _off_diagonal(jnp.square(jnp.einsum("bnd,bmd->bnm", flat, flat))).sum((1, 2))


def between_prototypes(config: Config, sensor: Sensor, prototypes: jax.Array) -> jax.Array:
    """Mean likeness of each prototype with all others, summed over layers: one number."""
    patterns = sensor(jnp.tanh(prototypes))
    total = jnp.zeros(())
    for pattern, mask in zip(patterns, focus(config, patterns), strict=True):
        unit = _unit(pattern)
        likeness = masked_likeness(config, jnp.einsum("nhwc,mhwc->nmhw", unit, unit), mask[:, None], mask[None])
        total += _off_diagonal(likeness).sum() / (config.count * (config.count - 1))
    return total


def focus(config: Config, changes: list[jax.Array]) -> list[jax.Array]:
    """Where features changed: lengths over channels, scaled to 0..1 per sample: (B, h, w, C) each -> (B, h, w) each.

    Gradients pass through the masks, as in the reference.
    """
    lengths = [_length(change)[..., 0] for change in changes]
    least = [x.min((1, 2)) for x in lengths]
    most = [x.max((1, 2)) for x in lengths]
    if config.mask_over_depth:
        least = [jnp.stack(least).min(0)] * len(lengths)
        most = [jnp.stack(most).max(0)] * len(lengths)
    scaled = []
    for x, low, high in zip(lengths, least, most, strict=True):
        low, high = low[:, None, None], high[:, None, None]
        scaled.append((x - low) / (high - low + 1e-6))
    return scaled


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of the angle between channel vectors, position by position: (B, h, w, C) twice -> (B, h, w)."""
    return (_unit(a) * _unit(b)).sum(-1)


def masked_likeness(config: Config, cosines: jax.Array, mask_a: jax.Array, mask_b: jax.Array) -> jax.Array:
    """One number of a map of cosines, 0 for perpendicular: (..., h, w) -> (...); see the config's switches."""
    power = jnp.abs if config.absolute else jnp.square
    if config.mask == "none":
        return power(cosines).mean((-2, -1))
    mask = mask_a * mask_b if config.mask == "product" else mask_a + mask_b
    weighted = power(cosines) * mask if config.mask_after_square else power(cosines * mask)
    return weighted.sum((-2, -1)) / (mask.sum((-2, -1)) + 1e-6)


def pictures(params: dict[str, Any]) -> jax.Array:
    """The prototypes as pictures: (count, S, S, 3) in [-1, 1].

    Raises:
      ConfigError: if there are none, as in the binary variant.
    """
    if "prototypes" not in params:
        raise ConfigError("the binary variant has no prototypes: train with variant 'pt'")
    return jnp.tanh(params["prototypes"])


def _optimizer(config: Config) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate, b1=0.0, b2=0.99, eps=1e-8)


def _length(x: jax.Array) -> jax.Array:
    """Length over the last axis, kept; with gradient 0 at 0, where the plain form's is NaN."""
    square = jnp.square(x).sum(-1, keepdims=True)
    some = square > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(_length(x), 1e-8)


def _off_diagonal(square: jax.Array) -> jax.Array:
    """The last two axes without their diagonal."""
    keep = 1 - jnp.eye(square.shape[-1])
    return square * keep.reshape((1,) * (square.ndim - 2) + keep.shape)
