"""The optimisation engine: one loop over (variables, initial value, stages, terms, schedule).

A `Method` is data; `init` and `step` are pure functions of ONE image, mapped over a batch by `vmap`, so that every
image has its own optimiser state, its own best-so-far and its own end, and a batch equals the single runs. All images
see the same random draws (the key does not depend on the place in the batch), so a result depends on the photo, the
method and the seed alone.

    method = presets.preset("lsap", steps=100)
    result = optimize.run(method, G, images, seed=0)
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lsap_jax import distributed, objectives
from lsap_jax.embed import preconditioner as preconditioners
from lsap_jax.embed.preconditioner import Preconditioner
from lsap_jax.errors import ConfigError
from lsap_jax.generators.base import Generator
from lsap_jax.latent import spaces

Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of steps with one loss.

    Attributes:
      steps: how many.
      terms: (name, weight) pairs of `objectives.TERMS`.
      variables: what is optimised here: "code", "noise" or both.
      learning_rate: Adam's, at its peak.
      ramp_up: fraction of the steps over which the rate rises linearly from 0; step 0 then has rate 0.
      ramp_down: fraction of the steps over which it falls to 0 as a cosine.
      jitter: standard deviation of the noise added to the code before rendering, in units of the root mean squared
        distance of w to its mean; falls quadratically to 0.
      jitter_ramp: fraction of the steps after which the jitter is 0.
      patience: steps without improvement after which an image stops; 0 never stops.
      b1: decay of Adam's mean of gradients.
      b2: decay of Adam's mean of their squares.
      preconditioned: Adam works on the code in the generator's own coordinates (lsap_jax/embed/preconditioner.py).
    """

    steps: int
    terms: objectives.Terms
    variables: tuple[str, ...] = ("code",)
    learning_rate: float = 0.1
    ramp_up: float = 0.05
    ramp_down: float = 0.25
    jitter: float = 0.0
    jitter_ramp: float = 0.75
    patience: int = 0
    b1: float = 0.9
    b2: float = 0.999
    preconditioned: bool = False


@dataclasses.dataclass(frozen=True)
class Method:
    """How a photo is embedded by optimisation.

    Attributes:
      space: "w" or "w+", the space of the free code.
      stages: run one after another, each with a fresh optimiser; none leaves the start as it is.
      noise: "const" renders with the generator's stored maps; "random" starts from fresh N(0, 1) maps, which a stage
        may optimise and which are brought back to mean 0 and deviation 1 after each of its steps.
      resolution: side in pixels at which image terms compare (area-downsampled); never above the generator's.
    """

    space: str
    stages: tuple[Stage, ...]
    noise: str = "const"
    resolution: int = 256

    def __post_init__(self):
        if self.space not in ("w", "w+"):
            raise ConfigError(f"space={self.space!r}: use 'w' or 'w+'")
        if self.noise not in ("const", "random"):
            raise ConfigError(f"noise={self.noise!r}: use 'const' or 'random'")
        for stage in self.stages:
            if unknown := set(stage.variables) - {"code", "noise"}:
                raise ConfigError(f"stage variable {unknown.pop()!r}: use 'code' and 'noise'")
            if "noise" in stage.variables and self.noise == "const":
                raise ConfigError("a stage optimises 'noise' while the method keeps noise='const'; use noise='random'")
            if stage.preconditioned and (self.space != "w+" or "code" not in stage.variables):
                raise ConfigError("a preconditioned stage optimises the code, in space='w+'")
            for name, _ in stage.terms:
                if name not in objectives.TERMS:
                    raise ConfigError(f"no loss term is named {name!r}; there are {', '.join(objectives.TERMS)}")

    @property
    def preconditioned(self) -> bool:
        """Whether any stage is."""
        return any(stage.preconditioned for stage in self.stages)

    @property
    def terms(self) -> objectives.Terms:
        """The terms of all stages, once each; the weights are those of the first stage that has the term."""
        return tuple({name: (name, weight) for stage in reversed(self.stages) for name, weight in stage.terms}.values())


class State(flax.struct.PyTreeNode):
    """The optimisation of one image.

    Attributes:
      variables: {"code": (w_dim,) or (num_ws, w_dim), "noise": maps (h, w)}.
      moments: Adam's state of the variables that the current stage optimises.
      step: of the current stage.
      best: the variables with the lowest loss of the current stage, before jitter.
      best_loss: that loss.
      best_step: when it was.
      done: the image has stopped: patience ran out, or its loss was not finite.
    """

    variables: Variables
    moments: Any
    step: jax.Array
    best: Variables
    best_loss: jax.Array
    best_step: jax.Array
    done: jax.Array


class Result(NamedTuple):
    """What `run` found.

    Attributes:
      ws: (B, num_ws, w_dim).
      noise: maps (B, h, w), or None where the stored ones were kept.
      history: {"loss" and each term: (steps, B) numpy}; NaN from where an image had stopped.
    """

    ws: jax.Array
    noise: tuple[jax.Array, ...] | None
    history: dict[str, np.ndarray]


_NO_STAGE = Stage(0, (), ())


def init(
    method: Method, G: Generator, key: jax.Array, code: jax.Array | None = None, P: Preconditioner | None = None
) -> State:
    """Before the first step of one image.

    Args:
      method: what to do.
      G: the generator.
      key: for the start of random noise maps.
      code: (w_dim,) or (num_ws, w_dim) to start from; the mean of W by default.
      P: the generator's preconditioner, if the first stage wants one.
    """
    code = G.w_avg if code is None else code
    if method.space == "w+" and code.ndim == 1:
        code = jnp.broadcast_to(code, (G.num_ws, G.w_dim))
    if method.space == "w" and code.ndim == 2:
        code = code.mean(0)
    noise: tuple[jax.Array, ...] = G.noise
    if method.noise == "random":
        keys = jax.random.split(key, len(G.arch.noise_shapes))
        noise = tuple(jax.random.normal(k, s) for k, s in zip(keys, G.arch.noise_shapes, strict=True))
    return enter(method.stages[0] if method.stages else _NO_STAGE, {"code": code, "noise": noise}, P)


def enter(stage: Stage, variables: Variables, P: Preconditioner | None = None) -> State:
    """The state at the start of a stage."""
    return State(
        variables=variables,
        moments=_adam(stage).init(_coordinates(stage, P, _subset(stage, variables))),
        step=jnp.int32(0),
        best=jax.tree.map(jnp.copy, variables),  # its own buffers, since a step donates the whole state
        best_loss=jnp.float32(jnp.inf),
        best_step=jnp.int32(0),
        done=jnp.bool_(False),
    )


def learning_rate(stage: Stage, step: jax.Array) -> jax.Array:
    """StyleGAN2's projector schedule: linear rise, plateau, cosine fall."""
    t = step / stage.steps
    rate = jnp.float32(stage.learning_rate)
    if stage.ramp_down:
        rate *= 0.5 - 0.5 * jnp.cos(jnp.minimum(1.0, (1 - t) / stage.ramp_down) * jnp.pi)
    if stage.ramp_up:
        rate *= jnp.minimum(1.0, t / stage.ramp_up)
    return rate


def jitter_strength(stage: Stage, step: jax.Array, spread: jax.Array) -> jax.Array:
    """Deviation of the noise on the code: spread * jitter * max(0, 1 - t / jitter_ramp)^2."""
    t = step / stage.steps
    return spread * stage.jitter * jnp.square(jnp.maximum(0.0, 1 - t / stage.jitter_ramp))


def update(
    method: Method,
    stage: Stage,
    G: Generator,
    judges: objectives.Judges,
    state: State,
    target: dict[str, Any],
    jitter: jax.Array,
    P: Preconditioner | None = None,
) -> tuple[State, dict[str, jax.Array]]:
    """One step of one image, as a pure function of the noise `jitter` added to its code (the code's shape)."""
    variables = state.variables

    def loss(optimised):
        full = {**variables, **optimised}
        ws = _rows(method, G, full["code"] + jitter)
        image = G.synthesize(ws[None], full["noise"])[0]
        resolution = min(method.resolution, G.resolution)
        return objectives.loss(stage.terms, judges, G, image, ws, full["noise"], target, resolution)

    optimised = _subset(stage, variables)
    (value, terms), gradient = jax.value_and_grad(loss, has_aux=True)(optimised)
    direction, moments = _adam(stage).update(_coordinates(stage, P, gradient), state.moments)
    direction = _variables(stage, P, direction)
    rate = learning_rate(stage, state.step)
    moved = {**variables, **jax.tree.map(lambda v, d: v - rate * d, optimised, direction)}
    if "noise" in stage.variables:
        moved["noise"] = tuple((n - n.mean()) / n.std(ddof=1) for n in moved["noise"])

    done = state.done | ~jnp.isfinite(value)
    better = ~done & (value < state.best_loss)
    best_step = jnp.where(better, state.step, state.best_step)
    if stage.patience:
        done |= state.step - best_step >= stage.patience
    following = State(
        variables=_where(done, variables, moved),
        moments=_where(done, state.moments, moments),
        step=state.step + 1,
        best=_where(better, variables, state.best),
        best_loss=jnp.where(better, value, state.best_loss),
        best_step=best_step,
        done=done,
    )
    metrics = {name: jnp.where(state.done, jnp.nan, term) for name, term in {"loss": value, **terms}.items()}
    return following, metrics


def step(
    method: Method,
    stage: Stage,
    G: Generator,
    judges: objectives.Judges,
    spread: jax.Array,
    key: jax.Array,
    state: State,
    target: dict[str, Any],
    P: Preconditioner | None = None,
) -> tuple[State, dict[str, jax.Array]]:
    """One step of one image: draws the jitter of this step and calls `update`."""
    code = state.variables["code"]
    jitter = jnp.zeros_like(code)
    if stage.jitter:
        strength = jitter_strength(stage, state.step, spread)
        jitter = strength * jax.random.normal(jax.random.fold_in(key, state.step), code.shape)
    return update(method, stage, G, judges, state, target, jitter, P)


def run(
    method: Method,
    G: Generator,
    images: jax.Array,
    seed: int = 0,
    start: jax.Array | None = None,
    judges: objectives.Judges | None = None,
    steps_per_call: int | None = None,
    progress: Callable[[int, int, np.ndarray, float], None] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    P: Preconditioner | None = None,
) -> Result:
    """Embed a batch of photos.

    Args:
      method: what to do; see `presets`.
      G: the generator.
      images: (B, H, W, 3) in [-1, 1], aligned, at the generator's resolution.
      seed: of every random draw. Equal inputs give equal bits.
      start: (B, w_dim) or (B, num_ws, w_dim) codes to start from; the mean of W by default.
      judges: what the terms consult; loaded when not given.
      steps_per_call: steps in one compiled call. Default 1 on CPU, where a convolution inside a loop of the compiled
        program runs three times slower, and 50 elsewhere.
      progress: called with (steps done, steps in all, loss (B,), seconds since the first step was there).
      mesh: devices that the batch is split over, `distributed.mesh(local=True)`; B must divide evenly. One by default.
      P: the generator's preconditioner; `preconditioner.fit(G)` when the method wants one and none is given.

    Returns:
      The best code of each image under the last stage's loss.

    Raises:
      ConfigError: if the images have another size than the generator renders.
    """
    if images.ndim != 4 or images.shape[1:] != (G.resolution, G.resolution, 3):
        raise ConfigError(
            f"images have shape {images.shape}; this generator inverts (B, {G.resolution}, {G.resolution}, 3): "
            "align or resize the photos first (tools/align_faces.py)"
        )
    steps_per_call = steps_per_call or (1 if jax.default_backend() == "cpu" else 50)
    judges = objectives.judges_for(G, method.terms) if judges is None else judges
    if P is None and method.preconditioned:
        P = preconditioners.fit(G)
    jittered = any(stage.jitter for stage in method.stages)
    spread = spaces.w_statistics(G).spread if jittered else jnp.float32(0)
    key_start, key_steps = jax.random.split(jax.random.key(seed))
    if mesh is not None:
        everywhere = jax.NamedSharding(mesh, jax.P())
        G, judges, P, spread, key_steps = jax.device_put((G, judges, P, spread, key_steps), everywhere)
        images, start = jax.device_put((images, start), distributed.batch_sharding(mesh))
    target = _targets(method, G.resolution, judges, images)
    if start is None:
        states = jax.vmap(lambda _: init(method, G, key_start, None, P))(images[:, 0, 0, 0])
    else:
        states = jax.vmap(lambda code: init(method, G, key_start, code, P))(start)
    if mesh is not None:
        states = jax.device_put(states, distributed.batch_sharding(mesh))

    total = sum(stage.steps for stage in method.stages)
    finished, began, pending, history = 0, None, None, []
    for index, stage in enumerate(method.stages):
        if index:
            states = jax.vmap(lambda best, s=stage: enter(s, best, P))(states.best)
        key = jax.random.fold_in(key_steps, index)
        for at in range(0, stage.steps, steps_per_call):
            count = min(steps_per_call, stage.steps - at)
            states, metrics = _steps(method, stage, count, G, judges, P, spread, key, states, target)
            # Look at the previous call's figures while this one runs.
            if pending is not None:
                history.append(jax.device_get(pending))
                began = began or time.monotonic()
                if progress:
                    progress(finished, total, history[-1]["loss"][-1], time.monotonic() - began)
            pending, finished = metrics, finished + count
            if stage.patience and bool(states.done.all()):
                break
    if pending is not None:
        history.append(jax.device_get(pending))
    if progress and history:
        progress(finished, total, history[-1]["loss"][-1], time.monotonic() - (began or time.monotonic()))
    ws = jax.vmap(lambda code: _rows(method, G, code))(states.best["code"])
    names = {name for part in history for name in part}
    merged = {
        n: np.concatenate([part.get(n, np.full_like(part["loss"], np.nan)) for part in history]) for n in sorted(names)
    }
    return Result(ws, states.best["noise"] if method.noise == "random" else None, merged)


@jax.jit(static_argnums=(0, 1))
def _targets(method: Method, resolution: int, judges: objectives.Judges, images: jax.Array) -> dict[str, Any]:
    small = min(method.resolution, resolution)
    return jax.vmap(lambda image: objectives.targets(method.terms, judges, image, small))(images)


@jax.jit(static_argnums=(0, 1, 2), donate_argnums=(8,))
def _steps(method, stage, count, G, judges, P, spread, key, states, target):
    one = jax.vmap(lambda state, t: step(method, stage, G, judges, spread, key, state, t, P))
    if count == 1:
        states, metrics = one(states, target)
        return states, jax.tree.map(lambda m: m[None], metrics)
    return jax.lax.scan(lambda s, _: one(s, target), states, length=count)


def _rows(method: Method, G: Generator, code: jax.Array) -> jax.Array:
    return code if method.space == "w+" else jnp.broadcast_to(code, (G.num_ws, G.w_dim))


def _subset(stage: Stage, variables: Variables) -> Variables:
    return {name: variables[name] for name in stage.variables}


def _adam(stage: Stage) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=stage.b1, b2=stage.b2, eps=1e-8)


def _coordinates(stage: Stage, P: Preconditioner | None, gradient: Variables) -> Variables:
    """The gradient in the coordinates in which the optimiser works."""
    if not stage.preconditioned:
        return gradient
    return {**gradient, "code": _needed(P).coordinates(gradient["code"])}


def _variables(stage: Stage, P: Preconditioner | None, direction: Any) -> Variables:
    """The optimiser's direction as one for the variables."""
    if not stage.preconditioned:
        return direction
    return {**direction, "code": _needed(P).code(direction["code"])}


def _needed(P: Preconditioner | None) -> Preconditioner:
    if P is None:
        raise ConfigError("this stage is preconditioned: give P, from lsap_jax.embed.preconditioner.fit(G)")
    return P


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
