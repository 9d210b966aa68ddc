"""Training ContraFeat on a generator: no photos, no labels, one file that a killed run goes on from.

trained = train(load_generator("ffhq-mobile"), Config(steps=2000), "runs/contrafeat")
bank = trained.directions(G)
"""

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.edit import contrast, navigator
from lsap_jax.edit.contrast import Config, Sensor, State
from lsap_jax.edit.directions import Direction
from lsap_jax.errors import CheckpointError, ConfigError, DirectionError, TrainingError
from lsap_jax.generators.base import Generator

FILE = "contrafeat.npz"
_KIND = "contrafeat run"
Progress = Callable[[int, dict[str, float], float], None]


class Trained(NamedTuple):
    """A run as far as it has come.

    Attributes:
      config: of the run.
      state: with the parameters and the step.
      basis: of `navigator.frozen_basis`.
      history: means of the losses over each period, with their "step".
    """

    config: Config
    state: State
    basis: jax.Array
    history: list[dict[str, float]]

    def directions(self, G: Generator, name: str = "contrafeat") -> list[Direction]:
        """Records for the bank, as `navigator.to_directions`.

        Raises:
          ConfigError: if they depend on the code.
        """
        config = self.config
        origin = (
            f"ContraFeat {config.variant}, attention {config.attention}, direction {config.direction}, "
            f"{int(self.state.step)} steps of {config.batch}, seed {config.seed}"
        )
        nav = config.navigator(G)
        return navigator.to_directions(nav, self.state.params["navigator"], self.basis, G, name, origin)


def train(
    G: Generator,
    config: Config,
    out: str | os.PathLike,
    *,
    sensor: Sensor | None = None,
    vectors: jax.Array | None = None,
    every: int = 100,
    progress: Progress | None = None,
) -> Trained:
    """Train, or go on with, the run in a folder; going on gives what one straight run gives, bit for bit.

    Args:
      G: frozen; with preview heads for a render of `config.resolution` where it has them.
      config: of the run. Only `steps` may differ from the run that is in the folder already.
      out: folder of the run.
      sensor: AlexNet by default.
      vectors: for `config.direction` "sefa": (at least count, w_dim).
      every: steps between two checkpoints and reports.
      progress: called after each such period with the step, the means of the losses, and seconds per step.

    Raises:
      ConfigError: if the folder holds a run of another config, generator or sensor, or the config does not fit G.
      CheckpointError: if its file is damaged.
      TrainingError: if a loss is not finite.
      FetchError: if AlexNet cannot be fetched.
    """
    path = pathlib.Path(out) / FILE
    sensor = contrast.alexnet_sensor() if sensor is None else sensor
    watched = store.fingerprint({str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(sensor))})
    if path.exists():
        run, meta = _read(path, G)
        if dataclasses.replace(run.config, steps=config.steps) != config or meta["sensor"] != watched:
            raise ConfigError(f"{path}: a run of another config or sensor; give another folder, or remove this one")
        run = run._replace(config=config)
    else:
        basis = navigator.frozen_basis(config.navigator(G), G, vectors)
        run = Trained(config, contrast.init(config, G), basis, [])
    # What does not change the mathematics is no reason to compile again.
    update = jax.jit(functools.partial(contrast.step, dataclasses.replace(config, steps=1)))
    state, history = run.state, list(run.history)
    while int(state.step) < config.steps:
        count = min(every - int(state.step) % every, config.steps - int(state.step))
        started, seen = time.perf_counter(), []
        for _ in range(count):
            state, terms = update(G, sensor, run.basis, state)
            seen.append(terms)
        seen = jax.device_get(seen)
        means = {name: float(np.mean([terms[name] for terms in seen])) for name in seen[0]}
        if not np.isfinite(list(means.values())).all():
            raise TrainingError(
                f"step {int(state.step)}: the losses are {means}; lower the learning rate. "
                f"{path} holds the last good state"
            )
        history.append({"step": int(state.step), **means})
        run = Trained(config, state, run.basis, history)
        _write(path, run, G, watched)
        if progress is not None:
            progress(int(state.step), means, (time.perf_counter() - started) / count)
    return run


def load(out: str | os.PathLike, G: Generator) -> Trained:
    """The run in a folder.

    Raises:
      CheckpointError: if there is none, or its file is damaged.
      DirectionError: if it is of another generator.
    """
    return _read(pathlib.Path(out) / FILE, G)[0]


def _write(path: pathlib.Path, run: Trained, G: Generator, watched: str) -> None:
    leaves = {str(i): leaf for i, leaf in enumerate(jax.device_get(jax.tree.leaves(run.state)))}
    meta = {
        "kind": _KIND,
        "config": dataclasses.asdict(run.config),
        "fingerprint": G.fingerprint,
        "sensor": watched,
        "history": run.history,
    }
    store.save(path, {"state": leaves, "basis": jax.device_get(run.basis)}, meta)


def _read(path: pathlib.Path, G: Generator) -> tuple[Trained, dict[str, Any]]:
    tree, meta = store.load(path)
    if meta.get("kind") != _KIND:
        raise CheckpointError(f"{path}: holds a {meta.get('kind', 'tree of unknown kind')!r}, not a run of ContraFeat")
    if meta["fingerprint"] != G.fingerprint:
        raise DirectionError(f"{path}: trained on generator {meta['fingerprint']}, not on {G.name or G.fingerprint}")
    fields: dict[str, Any] = meta["config"]
    fields["groups"] = tuple(tuple(group) for group in fields["groups"])
    config = Config(**fields)
    template = jax.eval_shape(lambda: contrast.init(config, G))
    shapes, structure = jax.tree.flatten(template)
    leaves = [jnp.asarray(tree["state"][str(i)]) for i in range(len(shapes))]
    return Trained(config, jax.tree.unflatten(structure, leaves), jnp.asarray(tree["basis"]), meta["history"]), meta
