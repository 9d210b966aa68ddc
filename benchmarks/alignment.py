"""Fidelity and alignment of presets at equal steps over a folder of aligned photos.

    python benchmarks/alignment.py --images FOLDER --out DIR [--steps 60] [--presets projector-w+ lsap-calibrated lsap]

`--presets lsap-without` is `lsap` without its alignment term. Every preset renders with the stored noise, so that
codes alone are compared. Prints a JSON line for each photo and preset, then one for each preset: mean LPIPS-VGG and
ID, and the z-scores of layers averaged over the photos.
DIR keeps the pictures, and what it has is not computed again.
"""

import argparse
import dataclasses
import pathlib

import numpy as np
from PIL import Image
from timing import emit, machine

import lsap_jax as lj
from lsap_jax.data import images, results
from lsap_jax.embed import presets


def main():
    """Parse flags, invert what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--presets", nargs="+", default=["projector-w+", "lsap-calibrated", "lsap"])
    flags = parser.parse_args()
    G = lj.load_generator("ffhq-mobile")
    files = images.list_images(flags.images)
    for path in files:
        for name in flags.presets:
            out = pathlib.Path(flags.out) / name
            if path.stem in results.finished(out):
                continue
            photo = Image.fromarray(images.read(path)).resize((G.resolution,) * 2, Image.Resampling.LANCZOS)
            method = method_of(name, flags.steps)
            found = lj.invert(G, images.to_float(np.asarray(photo))[None], method)
            found.save(out, [path.stem])
            record = {"preset": name, "photo": path.stem, "steps": flags.steps}
            values = {k: float(found.metrics[k][0]) for k in ("lpips_vgg", "lpips_alex", "psnr", "id")}
            z = found.metrics["sncd_z"][0]
            emit({"benchmark": "alignment", **record, **values, "z": [round(float(v), 1) for v in z]})
    for name in flags.presets:
        read = [results.read(pathlib.Path(flags.out) / name, path.stem)[2] for path in files]
        z = np.array([m["sncd_z"] for m in read])
        summary = {k: float(np.mean([m[k] for m in read])) for k in ("lpips_vgg", "lpips_alex", "psnr", "id")}
        summary |= {
            "largest_layer_mean_z": float(z.mean(0).max()),
            "smallest_layer_mean_z": float(z.mean(0).min()),
            "largest_z_of_any_photo": float(z.max()),
        }
        emit({"benchmark": "alignment", "preset": name, "photos": len(files), "steps": flags.steps, **summary})
    emit(machine())


def method_of(name, steps):
    """The preset with stored noise; of NAME-without, that of NAME without its alignment term."""
    method = presets.preset(name.removesuffix("-without"), steps, noise="const")
    if not name.endswith("-without"):
        return method
    stages = (
        dataclasses.replace(stage, terms=tuple(t for t in stage.terms if not t[0].startswith("sncd")))
        for stage in method.stages
    )
    return dataclasses.replace(method, stages=tuple(stages))


if __name__ == "__main__":
    main()
