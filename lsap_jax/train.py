"""Train an encoder.

    python -m lsap_jax.train --config configs/ffhq_mobile.py --workdir DIR

One story from top to bottom: generator, data, judges, encoder and optimiser, checkpoints, the loop. The same command
runs on one CPU, on all devices of a host, and on several hosts (`lsap_jax.distributed` has the flags). Stopped at any
moment and started again, it goes on from the last checkpoint, and ends with the bits of a run that was not stopped;
SIGTERM saves first.

    WORKDIR/checkpoints/     orbax: the newest few, and the best by `config.train.best`
    WORKDIR/encoder.npz      the encoder of the best checkpoint (of the last, without evaluation)
    WORKDIR/metrics.jsonl, pictures/, tensorboard/    see `lsap_jax.training.logs`
"""

import contextlib
import dataclasses
import json
import pathlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import app, flags, logging
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from lsap_jax import cache, distributed, objectives, pretrained
from lsap_jax.commands import command_line
from lsap_jax.config import Config, Train
from lsap_jax.data import augment, pipeline, resize, samples
from lsap_jax.errors import ConfigError, TrainingError
from lsap_jax.generators import previews
from lsap_jax.generators.base import Generator
from lsap_jax.latent import spaces
from lsap_jax.networks import encoder_files, ir_se
from lsap_jax.networks.encoders import Encoder, EncoderArch
from lsap_jax.training import evaluation, initial, logs, ridge, update
from lsap_jax.training import state as training_state
from lsap_jax.training.state import State
from lsap_jax.training.update import Frozen

P = jax.sharding.PartitionSpec


def train(config: Config, workdir: str) -> State:
    """Train as `config.train` says, and return the last state.

    Raises:
      LsapError: if something is missing or impossible; before anything is compiled, where it can be known by then.
      TrainingError: if a term, or the gradient, stops being finite.
    """
    options, folder = config.train, pathlib.Path(workdir)
    cache.keep_compiled_programs()
    mesh = distributed.mesh()
    _check(options, mesh.size)
    spread, everywhere = jax.NamedSharding(mesh, P("data")), jax.NamedSharding(mesh, P())
    first_host = jax.process_index() == 0

    # ---------------------------------------------------------------- generator
    G = pretrained.load_generator(config.generator)
    if options.previews:
        G = previews.attach(G)
    if options.render and options.render not in G.resolutions:
        raise ConfigError(f"config.train.render={options.render}: {G.name} renders at {G.resolutions}")
    arch = describe(options, G)
    start = jnp.broadcast_to(G.w_avg if arch.start == "w_avg" else jnp.zeros(G.w_dim), (G.num_ws, G.w_dim))

    # ---------------------------------------------------------------- input
    source = _source(options, G)
    variables = initial.variables(options.encoder.weights, arch, options.seed)

    # ---------------------------------------------------------------- judges
    wanted = update.terms_of(options.loss, update.CODE_TERMS + update.IMAGE_TERMS)
    judges = objectives.judges_for(G, wanted, id_weights=options.id_weights, moco_weights=options.moco_weights)
    spread_of_w = spaces.w_statistics(G).spread if options.loss.regression else jnp.float32(1)
    frozen = Frozen(G, judges, start, jnp.square(spread_of_w) / G.w_dim)
    frozen = _place(frozen, everywhere)

    # ---------------------------------------------------------------- encoder and optimiser
    manager = _checkpoints(folder, options)
    begun = manager.latest_step()
    if options.encoder.fit and begun is None:
        variables, figures = ridge.fit(variables, arch, _fit_batches(options, G), start, spaces.w_statistics(G))
        print(f"lsap_jax: fitted head explains {figures['explained']:.3f} of the codes' variance", file=sys.stderr)

    def create(variables):
        return training_state.init(options, arch, variables)

    shapes = jax.eval_shape(create, variables)
    shardings = jax.tree.map(lambda _: everywhere, shapes)
    state = jax.jit(create, out_shardings=shardings)(_place(variables, everywhere))
    steps = {
        rendering: jax.jit(
            update.make_update(options, arch, rendering), donate_argnums=0, out_shardings=(shardings, everywhere)
        )
        for rendering in (False, True)
    }
    evaluate = jax.jit(evaluation.make_evaluate(options, arch), out_shardings=(everywhere, spread))

    # ---------------------------------------------------------------- checkpoints
    described = json.loads(json.dumps(dataclasses.asdict(config)))
    if begun is not None:
        state = _restore(manager, begun, shapes, everywhere, described, source)
    best_step = manager.best_step()
    known = manager.metrics(best_step) if best_step is not None else None
    best = known[options.best] if known else float("inf")
    log = logs.Logs(folder, begun or 0, options.steps, first_host)
    if first_host:
        (folder / "config.json").write_text(json.dumps(described, indent=2))

    def save(step, metrics=None):
        items = {
            "state": ocp.args.StandardSave(state),
            "position": ocp.args.JsonSave({"source": source.get_state() if source else None, "config": described}),
        }
        manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)

    def export(name, metrics):
        if first_host:
            variables = jax.device_get(state.variables)
            encoder = Encoder(variables, jax.device_get(start), arch, name=name, generator=G.fingerprint)
            meta = {"step": int(state.step), "config": described, "metrics": metrics, "generator": config.generator}
            encoder_files.save(folder / name, encoder, meta, np.float32)

    # ---------------------------------------------------------------- loop
    pending, metrics, evaluated = None, {}, None
    with contextlib.closing(log), contextlib.closing(manager), _Stop() as stop:
        for step in range(begun or 0, options.steps):
            batch = distributed.shard_batch(mesh, next(source)) if source else {}
            rendering = update.uses_images(options.loss) and step >= options.image_start
            state, measured = steps[rendering](state, frozen, batch)
            if pending is not None:
                metrics = _finite(*pending)  # of the step before, while this one runs
            pending, done = (step + 1, measured), step + 1
            last = done == options.steps
            if done % options.log_every == 0 or last:
                metrics = _finite(*pending)
                log.write(done, "train", metrics)
            log.progress(done, metrics)

            evaluated = None
            if options.eval_every and (done % options.eval_every == 0 or last) and options.data.validation:
                _finite(*pending)
                parts = []
                for index, given in enumerate(_validation(options, G)):
                    sums, renders = evaluate(state.variables, frozen, distributed.shard_batch(mesh, given), state.step)
                    parts.append(jax.device_get(sums))
                    if index == 0:
                        shown = renders.addressable_data(0)
                        _picture(log, done, given["image"], np.asarray(shown))
                evaluated = evaluation.means(parts)
                log.write(done, "eval", evaluated)
                if evaluated[options.best] < best:
                    best = evaluated[options.best]
                    export("encoder.npz", evaluated)
            stopping = stop.requested(done)
            if done % options.save_every == 0 or evaluated or last or stopping:
                _finite(*pending)
                save(done, evaluated)
            if stopping:
                break
    if stop.asked:
        print(f"lsap_jax: stopped at step {int(state.step)}; the same command goes on from there", file=sys.stderr)
    elif not (options.eval_every and options.data.validation):
        export("encoder.npz", metrics)
    return state


def describe(options: Train, G: Generator) -> EncoderArch:
    """The encoder that the configuration describes, for this generator."""
    fields = {field.name for field in dataclasses.fields(EncoderArch)}
    given: dict[str, Any] = {k: v for k, v in vars(options.encoder).items() if k in fields}
    given["stages"] = tuple(ir_se.Stage(*stage) for stage in given["stages"])
    return EncoderArch(num_ws=G.num_ws, w_dim=G.w_dim, **given)


def _check(options: Train, devices: int) -> None:
    for name in ("batch_size", "eval_batch_size"):
        if getattr(options, name) % devices:
            raise ConfigError(
                f"config.train.{name}={getattr(options, name)} does not divide over {devices} devices: "
                f"use a multiple of {devices}"
            )
    if options.batch_size % (options.microbatches * devices):
        raise ConfigError(
            f"config.train.batch_size={options.batch_size} does not divide into {options.microbatches} microbatches "
            f"on {devices} devices"
        )
    if options.noise not in ("const", "random"):
        raise ConfigError(f"config.train.noise={options.noise!r}: use 'const' or 'random'")
    if options.loss.regression and not _has_known_codes(options):
        raise ConfigError(
            "config.train.loss.regression needs known codes: use data.source='generated' or 'samples:FOLDER', "
            "or data.generated above 0"
        )
    if not any(dataclasses.asdict(options.loss).values()):
        raise ConfigError("config.train.loss has no weight above 0: nothing would be trained")
    measured = [name for name, _ in update.terms_of(options.loss, evaluation.TERMS)]
    if options.best not in ("loss", *measured):
        raise ConfigError(f"config.train.best={options.best!r}: evaluation gives {', '.join(('loss', *measured))}")


def _has_known_codes(options: Train) -> bool:
    return (
        options.data.generated > 0 or options.data.source == "generated" or options.data.source.startswith("samples:")
    )


def _source(options: Train, G: Generator) -> Any:
    """The iterator over what does not come from the generator; None where all does."""
    data = options.data
    if data.source == "generated":
        return None
    fresh = round(data.generated * options.batch_size)
    hosts = jax.process_count()
    if (options.batch_size - fresh) % jax.device_count() or not 0 <= data.generated < 1:
        raise ConfigError(
            f"config.train.data.generated={data.generated} leaves {options.batch_size - fresh} of {options.batch_size} "
            f"images to {data.source}: it must be a multiple of {jax.device_count()}, the number of devices, above 0"
        )
    return pipeline.train_batches(
        data.source,
        resolution=update.image_size(options),
        batch_size=options.batch_size - fresh,
        seed=options.seed,
        flip=data.flip,
        process_index=jax.process_index(),
        process_count=hosts,
        G=G,
    )


def _fit_batches(options: Train, G: Generator) -> Iterator[tuple[jax.Array, jax.Array]]:
    """What the closed-form start of a head is fitted to: images as the encoder sees them, and their codes."""
    source = _source(options, G)
    prepare = jax.jit(lambda G, key, batch: update.with_fresh_samples(options, G, key, batch))
    wear = jax.jit(lambda key, x: augment.augment(key, x, augment.Augment(**options.data.augment))[0])
    for number in range(-(-options.encoder.fit // options.batch_size)):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(options.seed), number))
        batch = prepare(G, keys[0], next(source) if source else {})
        known = np.flatnonzero(batch["has_ws"])
        yield wear(keys[1], batch["image"])[known], batch["ws"][known]


def _validation(options: Train, G: Generator) -> Iterator[dict[str, np.ndarray]]:
    """Batches of this host, in order; the last one filled up."""
    data, size = options.data, options.eval_batch_size
    if data.validation != "generated":
        yield from pipeline.eval_batches(
            data.validation,
            resolution=update.image_size(options),
            batch_size=size,
            limit=data.validation_count,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            G=G,
        )
        return
    settings = samples.Settings(data.truncation, data.mixing)
    mine = slice(*(jax.process_index() + np.arange(2)) * (size // jax.process_count()))
    for at in range(0, data.validation_count, size):
        # A key for every image, whatever the batch, and apart from those of training.
        numbers = at + np.arange(size)[mine]
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(0x5EED), n))(numbers)
        ws = samples.draw_each(G, keys, settings)
        image = np.asarray(samples.render(G, ws, update.image_size(options)))
        yield {
            "image": np.clip(np.round((image + 1) * 127.5), 0, 255).astype(np.uint8),
            "ws": np.asarray(ws),
            "has_ws": np.ones(len(numbers), bool),
            "mask": numbers < data.validation_count,
        }


def _checkpoints(folder: pathlib.Path, options: Train) -> ocp.CheckpointManager:
    policy = preservation_policy.AnyPreservationPolicy(
        [
            preservation_policy.LatestN(options.keep),
            preservation_policy.BestN(
                get_metric_fn=lambda m: m[options.best], reverse=True, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
    )
    return ocp.CheckpointManager(
        (folder / "checkpoints").absolute(),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policy, best_fn=lambda m: m[options.best], best_mode="min"
        ),
    )


def _restore(manager, step, shapes, sharding, described, source) -> State:
    target = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes)
    position = manager.restore(step, args=ocp.args.Composite(position=ocp.args.JsonRestore())).position
    changed = sorted(_changed(position["config"], described) - {"train.steps", "train.save_every", "train.keep"})
    if changed:
        raise ConfigError(
            f"{manager.directory.parent} holds a run with another config.{changed[0]}: give another --workdir, "
            "or the same configuration"
        )
    if source:
        source.set_state(position["source"])
    return manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))).state


def _changed(before: Any, now: Any, name: str = "") -> set[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        parts = (_changed(before.get(k), now.get(k), f"{name}.{k}" if name else k) for k in before.keys() | now.keys())
        return set().union(*parts)
    return set() if before == now else {name}


def _finite(step: int, measured: dict[str, jax.Array]) -> dict[str, float]:
    values = {name: float(value) for name, value in jax.device_get(measured).items()}
    wrong = [name for name, value in values.items() if not np.isfinite(value)]
    if wrong:
        named = [name for name in wrong if name != "loss" and not name.endswith("_norm")] or wrong
        raise TrainingError(
            f"step {step}: {named[0]} is {values[named[0]]}; the checkpoints before it are good. Lower "
            "config.train.learning_rate, or set config.train.clip"
        )
    return values


def _picture(log: logs.Logs, step: int, given: np.ndarray, renders: np.ndarray) -> None:
    count = min(8, len(renders), len(given))
    above = resize.area(jnp.asarray(given[:count], jnp.float32) / 127.5 - 1, renders.shape[1])
    log.picture(step, np.asarray(above), renders[:count])


def _place(tree: Any, sharding: jax.NamedSharding) -> Any:
    return jax.jit(lambda x: x, out_shardings=sharding)(tree)


class _Stop:
    """Whether SIGTERM asked to stop; on several hosts the same answer on all of them at the same step."""

    def __init__(self):
        self.asked, self._before = False, None
        main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and main_thread:  # only there may handlers be set
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_) -> None:
        self.asked = True

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def requested(self, step: int) -> bool:
        if jax.process_count() > 1:
            self.asked = multihost_utils.reached_preemption_sync_point(step)
        return self.asked


distributed.define_flags()
_WORKDIR = flags.DEFINE_string("workdir", "", "where checkpoints and metrics go; a run begun there goes on")


def main(argv: Sequence[str]) -> None:
    """Entry of `python -m lsap_jax.train`."""
    config = command_line.config_of(command_line.CONFIG)
    if not _WORKDIR.value:
        sys.exit("lsap_jax: give --workdir DIR")
    with command_line.ends_in_one_line("the same command goes on from the last checkpoint"):
        command_line.no_more(argv[1:])
        logging.set_verbosity(logging.WARNING)  # orbax tells every step of a checkpoint
        distributed.initialize_from_flags()
        train(config, _WORKDIR.value)


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
