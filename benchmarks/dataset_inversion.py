"""Inversion of a set by an encoder, in images per second, beside rendering alone.

    python benchmarks/dataset_inversion.py [--encoder PATH] [--batches 1 2 4 8] [--images 16] [--repeats 5]

Prints JSON lines. All take turns within one run, so that their ratio holds on a machine that others use:

    rendering      codes on the device -> pictures, batch by batch: what no inversion that looks at its result can beat
    codes          the whole of `invert` into shards with preset "encoder": PNG files -> codes on disk
    measured       the same, and every code is rendered at full size and compared with its photo

Photos are renders of the generator at its resolution, as PNG files, taken as aligned.
"""

import argparse
import itertools
import pathlib
import tempfile

import jax
import numpy as np
from timing import emit, interleave, machine

import lsap_jax as lj
from lsap_jax.data import images, photos, results, sources
from lsap_jax.data.shards import Part
from lsap_jax.embed import dataset, presets


def write_photos(G, folder, count):
    """Renders of random codes as PNG files."""
    for i in range(count):
        z = jax.random.normal(jax.random.key(i), (1, G.z_dim))
        image = G.synthesize(G.broadcast(G.map(z, truncation=0.7)))[0]
        images.write_png(folder / f"{i:04}.png", np.asarray(image))


def turns(G, E, folder, batch, out):
    """{name: timed call}, each over all photos of the folder."""
    source = sources.open_source(folder)
    prepare = photos.Preparation(G.resolution, "aligned")
    ws = E(images.to_float(np.stack([next(source.entries(0, 1)).read()] * batch)))
    number = itertools.count()

    def rendering():
        for _ in range(0, source.count, batch):
            jax.block_until_ready(G.synthesize(ws))

    def inversion(metrics):
        embed = dataset.Embedder(G, presets.preset("encoder"), encoder=E, batch_size=batch, metrics=metrics)

        def run():
            store = out / str(next(number))
            settings = {"generator": G.name, "store": {}}
            results.open_folder(store, settings, inside="shards")
            part = Part(store, 0, 1, source.count, source.count)
            done = dataset.invert_part(source, prepare, embed, part, settings)
            assert done["images"] == source.count

        return run

    return {"rendering": rendering, "codes": inversion("none"), "measured": inversion("pixels")}


def main():
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", default="ffhq-mobile")
    parser.add_argument("--encoder", default="ffhq-mobile-lsap")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args()
    G = lj.load_generator(flags.generator)
    E = lj.load_encoder(flags.encoder)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write_photos(G, root / "photos", flags.images)
        for batch in flags.batches:
            times = interleave(turns(G, E, root / "photos", batch, root / f"out{batch}"), flags.repeats, warmup=1)
            rates = {name: {k: flags.images / v for k, v in t.items()} for name, t in times.items()}
            ratios = {
                name: {k: rates[name][k] / rates["rendering"][k] for k in ("min", "median", "cpu")}
                for name in ("codes", "measured")
            }
            record = {"benchmark": "dataset inversion", "batch": batch, "images_per_s": rates, "of_rendering": ratios}
            emit({**record, "encoder": E.name, **machine()})


if __name__ == "__main__":
    main()
