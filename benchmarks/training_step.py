"""One training step of an encoder, as `lsap_jax.train` makes it; beside the PyTorch step of the reference.

    python benchmarks/training_step.py [--recipe e4e256] [--batch 2] [--losses l2 lpips id delta adversarial]
    python benchmarks/training_step.py --recipe e4e256 --id arcface --rival FOLDER
    python benchmarks/training_step.py --recipe mobile

Recipes, everything that each needs in one compiled call:

    e4e256  configs/ffhq_e4e.py at 256 pixels: IR-SE50 e4e with 14 rows, all open, on photos; a 256-pixel StyleGAN2,
            latent critic with pools, Ranger. Weights are random, which costs the same. `--losses` leaves terms out;
            `--resolution` and `--narrow` make it small, to try the script.
    mobile  configs/ffhq_mobile.py in both phases: terms of the code alone, then of the image too. Its images are drawn
            within the step; with `--drawn_before` they are given, as to the encoder that is shipped.
    tiny    configs/tiny.py, for a narrow generator of 32 pixels.

FOLDER holds the source of GANInverter, whose own trainer then runs in a process of its own (`ganinverter.py`), on as
many threads, in turns with ours. Its identity loss is IR-SE50 ArcFace, so compare with `--id arcface`, or without `id`
in `--losses`. Ratios are theirs / ours: above 1 we are faster. Prints one JSON line.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import runpy
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from timing import emit, interleave, machine, peak_memory

from lsap_jax import distributed, objectives, pretrained, train
from lsap_jax.config import Data, Encoder, Loss
from lsap_jax.data import samples
from lsap_jax.generators import previews, stylegan2
from lsap_jax.latent import spaces
from lsap_jax.networks import identity, ir_se
from lsap_jax.training import initial, update
from lsap_jax.training import state as training_state

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
WIDTHS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128}
NARROW = ((16, 1), (16, 1), (16, 2), (32, 1))
TERMS = {"l2": "l2", "lpips": "lpips_alex", "id": "id", "delta": "delta", "adversarial": "adversarial"}
WARMUP = 2


def e4e(flags):
    """Options, generator and batch of `configs/ffhq_e4e.py` at the resolution of `flags`, all rows open."""
    options = runpy.run_path(CONFIGS / "ffhq_e4e.py")["get_config"]().train
    side = flags.resolution
    kept = {TERMS[name] for name in flags.losses} - ({"id"} if flags.id == "none" else set())
    loss = Loss(**{name: weight for name, weight in dataclasses.asdict(options.loss).items() if name in kept})
    options = dataclasses.replace(
        options,
        encoder=Encoder(trunk="ir-se", head="e4e", resolution=side, stages=NARROW if flags.narrow else ()),
        data=Data(source="folder:"),
        loss=loss,
        working=side,
        batch_size=flags.batch,
        progressive_start=0,
        progressive_every=0,
        id_weights="",
    )
    widths = {r: min(c, 32) if flags.narrow else c for r, c in WIDTHS.items() if r <= side}
    G = stylegan2.init(jax.random.key(0), stylegan2.StyleGAN2(side, tuple(widths.items())))
    photos = np.random.RandomState(0).randint(0, 256, (flags.batch, side, side, 3), np.uint8)
    return options, G, {**_without_codes(G, flags.batch), "image": photos}


def shipped(flags):
    """The same of `configs/ffhq_mobile.py`."""
    config = runpy.run_path(CONFIGS / "ffhq_mobile.py")["get_config"]()
    options = dataclasses.replace(config.train, data=dataclasses.replace(config.train.data, source="generated"))
    if flags.batch:
        options = dataclasses.replace(options, batch_size=flags.batch)
    G = pretrained.load_generator(config.generator)
    if options.previews:
        G = previews.attach(G)
    return options, G, _drawn(options, G) if flags.drawn_before else {}


def tiny(flags):
    """The same of `configs/tiny.py`, for a narrow generator of 32 pixels."""
    options = runpy.run_path(CONFIGS / "tiny.py")["get_config"]().train
    widths = tuple((r, 8) for r in (4, 8, 16, 32))
    G = stylegan2.init(jax.random.key(0), stylegan2.StyleGAN2(32, widths, z_dim=16, w_dim=16, mapping_layers=2))
    return options, G, _drawn(options, G) if flags.drawn_before else {}


def ours(options, G, batch, id_judge):
    """The trainer's steps: {phase: call without arguments} and {phase: compile time, memory}."""
    mesh = distributed.mesh()
    everywhere = jax.NamedSharding(mesh, jax.P())
    arch = train.describe(options, G)
    start = jnp.broadcast_to(G.w_avg if arch.start == "w_avg" else jnp.zeros(G.w_dim), (G.num_ws, G.w_dim))
    wanted = update.terms_of(options.loss, update.CODE_TERMS + update.IMAGE_TERMS)
    judges = objectives.judges_for(G, [t for t in wanted if t[0] != "id" or id_judge == "dlib"])
    if options.loss.id and id_judge == "arcface":
        judges = judges.replace(identity=_arcface())
    spread = spaces.w_statistics(G).spread if options.loss.regression else jnp.float32(1)
    frozen = update.Frozen(G, judges, start, jnp.square(spread) / G.w_dim)
    frozen = jax.device_put(frozen, everywhere)
    variables = initial.variables(options.encoder.weights, arch, options.seed)
    parameters = sum(x.size for x in jax.tree.leaves(variables["params"]))
    phases = {"code terms": False} if options.image_start else {}
    if update.uses_images(options.loss):
        phases["image terms" if phases else "step"] = True

    def create(variables):
        return training_state.init(options, arch, variables)

    shardings = jax.tree.map(lambda _: everywhere, jax.eval_shape(create, variables))
    steps, programs = {}, {}
    for phase, rendering in phases.items():
        # Copies, since each phase's step donates its state.
        state = jax.jit(create, out_shardings=shardings)(jax.tree.map(jnp.copy, variables))
        step = jax.jit(
            update.make_update(options, arch, rendering), donate_argnums=0, out_shardings=(shardings, everywhere)
        )
        began = time.perf_counter()
        compiled = step.lower(state, frozen, distributed.shard_batch(mesh, batch)).compile()
        planned = compiled.memory_analysis()
        programs[phase] = {
            "compile_s": time.perf_counter() - began,
            "buffers_gib": planned.temp_size_in_bytes / 2**30,
        }
        steps[phase] = _calls(compiled, state, frozen, mesh, batch)
    return steps, programs, parameters


def _calls(compiled, state, frozen, mesh, batch):
    """One step a call, from the state that the last one left."""
    held = [state]

    def step():
        held[0], metrics = compiled(held[0], frozen, distributed.shard_batch(mesh, batch))
        return metrics

    return step


@contextlib.contextmanager
def theirs(folder, flags):
    """A call that has the rival's process make a step, what that process said of itself, and of each step."""
    script = pathlib.Path(__file__).with_name("ganinverter.py")
    sizes = ["--resolution", str(flags.resolution), "--batch", str(flags.batch)]
    command = [sys.executable, str(script), str(folder), *sizes, "--losses", *flags.losses]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        said, records = json.loads(process.stdout.readline()), []

        def step():
            process.stdin.write("\n")
            process.stdin.flush()
            records.append(json.loads(process.stdout.readline()))

        yield step, said, records
        process.stdin.close()


def main():
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=("e4e256", "mobile", "tiny"), default="e4e256")
    parser.add_argument("--batch", type=int, default=0, help="images of a step; by default 2 (e4e256), the config's")
    parser.add_argument("--losses", nargs="+", choices=TERMS, default=list(TERMS), help="of e4e256")
    parser.add_argument("--id", choices=("dlib", "arcface", "none"), default="dlib", help="the face network of e4e256")
    parser.add_argument("--resolution", type=int, default=256, help="of e4e256")
    parser.add_argument("--narrow", action="store_true", help="of e4e256")
    parser.add_argument("--drawn_before", action="store_true", help="of mobile")
    parser.add_argument("--rival", type=pathlib.Path, help="source folder of GANInverter, beside e4e256")
    parser.add_argument("--repeats", type=int, default=6)
    flags = parser.parse_args()
    if flags.rival and flags.recipe != "e4e256":
        parser.error("--rival is for --recipe e4e256")
    if flags.recipe == "e4e256":
        flags.batch = flags.batch or 2
        if flags.id == "none":
            flags.losses = [name for name in flags.losses if name != "id"]
    options, G, batch = {"e4e256": e4e, "mobile": shipped, "tiny": tiny}[flags.recipe](flags)
    steps, programs, parameters = ours(options, G, batch, flags.id)
    record = {"benchmark": "training step", "recipe": flags.recipe, "batch": options.batch_size}
    if flags.recipe == "e4e256":
        record |= {"resolution": flags.resolution, "losses": flags.losses, "id": flags.id}
    record |= {"parameters": parameters, "programs": programs}
    if flags.rival:
        with theirs(flags.rival, flags) as (step, said, records):
            times = interleave({"ours": steps["step"], "theirs": step}, flags.repeats, WARMUP)
        times["theirs"]["cpu"] = min(r["cpu"] for r in records[WARMUP:])  # its own process's
        ratio = {k: times["theirs"][k] / times["ours"][k] for k in times["ours"]}
        record |= {"theirs_over_ours": ratio, "theirs": {**said, "peak_memory_gib": records[-1]["peak_memory_gib"]}}
    else:
        times = interleave(steps, flags.repeats, WARMUP)
    emit({**record, "seconds": times, "peak_memory_gib": peak_memory(), **machine()})


def _arcface():
    """The reference's judge of identity with random weights."""
    side = identity.ARCFACE_INPUT
    variables = jax.jit(ir_se.ArcFace().init)(jax.random.key(2), jnp.zeros((1, side, side, 3)))
    return identity.ArcFace(variables)


def _drawn(options, G):
    settings = samples.Settings(options.data.truncation, options.data.mixing)
    key, size = jax.random.key(1), options.batch_size
    fresh = jax.jit(samples.fresh, static_argnums=(2, 3, 4))(G, key, size, update.image_size(options), settings)
    pixels = np.asarray(jnp.clip(jnp.round((fresh["image"] + 1) * 127.5), 0, 255), np.uint8)
    return {"image": pixels, "ws": np.asarray(fresh["ws"]), "has_ws": np.ones(size, bool)}


def _without_codes(G, size):
    return {"ws": np.zeros((size, G.num_ws, G.w_dim), np.float32), "has_ws": np.zeros(size, bool)}


if __name__ == "__main__":
    main()
