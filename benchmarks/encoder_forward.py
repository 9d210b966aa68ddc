"""Encoders' forward pass, batch 1 and 8, and one photo by the encoder alone: code and 1024-pixel render.

    python benchmarks/encoder_forward.py [--encoders e4e mobile] [--batches 1 8] [--repeats 8]

    e4e     IR-SE50 e4e, 18 rows, 256 pixels, as published
    mobile  the compact encoder of configs/ffhq_mobile.py
    tiny    a narrow one, to try the script

Weights are random, which costs the same; all take turns in one run. With `mobile` comes one photo of 1024 pixels, warm:
in one compiled call it is shrunk, encoded, and its code rendered by `ffhq-mobile` at 1024; the two halves alone run
beside it. Prints one JSON line.
"""

import argparse
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
from timing import emit, interleave, machine, peak_memory

from lsap_jax import pretrained, train
from lsap_jax.networks import encoders, ir_se

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
NARROW = (ir_se.Stage(16, 1), ir_se.Stage(16, 1), ir_se.Stage(16, 1))


def encoder(arch, start):
    """An encoder with random weights, drawn by numpy: that needs no compilation."""
    shape = (1, arch.resolution, arch.resolution, arch.channels)
    shapes = jax.eval_shape(encoders.module(arch).init, jax.random.key(0), jnp.zeros(shape))
    random = np.random.default_rng(0)

    def leaf(path, x):
        values = 0.02 * random.standard_normal(x.shape, np.float32)
        return jnp.asarray(np.abs(values) if path[-1].key == "var" else values)

    return encoders.Encoder(jax.tree.map_with_path(leaf, shapes), start, arch)


@jax.jit
def invert(E, G, photo):
    """(B, 1024, 1024, 3) -> its codes and their renders."""
    ws = E(photo)
    return ws, G.synthesize(ws)


def main():
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoders", nargs="+", choices=("e4e", "mobile", "tiny"), default=["e4e", "mobile"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=8)
    flags = parser.parse_args()
    built = {}
    if "e4e" in flags.encoders:
        built["e4e"] = encoder(encoders.EncoderArch(), jnp.zeros((18, 512)))
    if "tiny" in flags.encoders:
        built["tiny"] = encoder(encoders.EncoderArch(stages=NARROW, resolution=64, width=16), jnp.zeros((18, 512)))
    if "mobile" in flags.encoders:
        config = runpy.run_path(CONFIGS / "ffhq_mobile.py")["get_config"]()
        G = pretrained.load_generator(config.generator)
        built["mobile"] = encoder(train.describe(config.train, G), G.broadcast(G.w_avg[None])[0])
    fns, record = {}, {}
    for name, E in built.items():
        record[name] = {
            "resolution": E.arch.resolution,
            "rows": E.arch.num_ws,
            "parameters": sum(x.size for x in jax.tree.leaves(E.variables["params"])),
        }
        for size in flags.batches:
            images = _images(size, E.arch.resolution)
            fns[f"{name} batch {size}"] = lambda E=E, images=images: E(images)
    if "mobile" in built:
        E, photo = built["mobile"], _images(1, G.resolution)
        ws, render = E(photo), jax.jit(lambda G, ws: G.synthesize(ws))
        fns |= {
            "photo, encoded and rendered": lambda: invert(E, G, photo),
            "photo, encoded": lambda: E(photo),
            "photo, rendered": lambda: render(G, ws),
        }
    times = interleave(fns, flags.repeats)
    emit(
        {
            "benchmark": "encoder forward",
            "encoders": record,
            "seconds": times,
            "peak_memory_gib": peak_memory(),
            **machine(),
        }
    )


def _images(size, side):
    return jnp.asarray(np.random.RandomState(0).uniform(-1, 1, (size, side, side, 3)), jnp.float32)


if __name__ == "__main__":
    main()
