"""Encoders compared: fidelity, alignment and editing consistency, on photos and on the generator's own samples.

    python benchmarks/encoders.py --encoders aligned.npz plain.npz --photos FOLDER --samples 500 --seeds 5 --out DIR

Photos are aligned square crops. Samples are drawn with psi 1 in `--seeds` parts of equal size, and every figure is the
mean over the images of a part: its mean and its deviation over the parts are printed (for photos: over the photos).
LEC edits by the first principal components of W, 2 standard deviations each way. Prints JSON lines; OUT keeps the
pictures of the photos, inputs above reconstructions.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from timing import emit, machine

import lsap_jax as lj
from lsap_jax.data import images, resize, samples
from lsap_jax.latent import spaces
from lsap_jax.metrics import consistency, reconstruction

COMPONENTS = 3  # principal components that LEC edits by
STRENGTH = 2.0  # standard deviations


def main():
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", default="ffhq-mobile")
    parser.add_argument("--encoders", nargs="+", required=True)
    parser.add_argument("--photos")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", default="")
    flags = parser.parse_args()
    G = lj.load_generator(flags.generator)
    encoders = {pathlib.Path(name).stem: lj.load_encoder(name) for name in flags.encoders}
    if flags.photos:
        files = images.list_images(flags.photos)
        photos = np.stack([_read(path, G.resolution) for path in files])
        for name, E in encoders.items():
            rows = _measure(G, E, photos, 1, pathlib.Path(flags.out) / f"{name}.png" if flags.out else None)
            for i, path in enumerate(files):
                emit(
                    {
                        "benchmark": "encoders",
                        "encoder": name,
                        "photo": path.stem,
                        **_round({k: v[i] for k, v in rows.items()}),
                    }
                )
            emit({"benchmark": "encoders", "encoder": name, "photos": len(files), **_spread(list(_each(rows)))})
    parts: dict[str, list] = {name: [] for name in encoders}
    size = flags.samples // flags.seeds
    for seed in range(flags.seeds):
        drawn = _samples(G, seed, size, flags.batch)
        for name, E in encoders.items():
            rows = _measure(G, E, drawn, flags.batch)
            part = {k: float(v.mean()) for k, v in rows.items() if not k.startswith("lec")}
            part |= {k: consistency.trimmed_mean(v) for k, v in rows.items() if k.startswith("lec")}
            parts[name].append(part)
            emit({"benchmark": "encoders", "encoder": name, "seed": seed, "samples": size, **_round(part)})
    for name, found in parts.items():
        emit(
            {
                "benchmark": "encoders",
                "encoder": name,
                "samples": size * flags.seeds,
                "seeds": flags.seeds,
                **_spread(found),
            }
        )
    emit(machine())


def _measure(G, E, pictures, batch, picture=None):
    """{metric: (N,)} of an encoder over images (N, R, R, 3)."""
    W = spaces.w_statistics(G)
    resolution = 256 if 256 in G.resolutions else None
    judge = lj.identity()
    found, renders, descriptors = [], [], []
    render = jax.jit(lambda G, ws: G.synthesize(ws))
    lec = jax.jit(lambda E, G, x, d: consistency.latent_editing_consistency(E, G, x, d, resolution))
    for at in range(0, len(pictures), batch):
        x = jnp.asarray(pictures[at : at + batch])
        ws = E(x)
        reconstructed = render(G, ws)
        m = reconstruction.measure(G, ws, reconstructed, x)
        rows = {name: m[name] for name in ("lpips_vgg", "lpips_alex", "psnr", "id")}
        rows |= {"sncd_mean": m["sncd"].mean(1), "z_mean": m["sncd_z"].mean(1), "z_largest": m["sncd_z"].max(1)}
        rows["z_abs"] = np.abs(m["sncd_z"]).mean(1)
        k = np.arange(COMPONENTS)[(at // batch) % COMPONENTS]
        sign = 1 if (at // batch) % 2 else -1
        edit = jnp.broadcast_to(sign * STRENGTH * W.stddev[k] * W.components[k], (G.num_ws, G.w_dim))
        rows["lec"] = np.asarray(lec(E, G, x, edit))
        found.append(rows)
        seen = [resize.area(image, 256) for image in (reconstruction.as_saved(reconstructed), x)]
        descriptors.append([np.asarray(judge.embed(image)) for image in seen])
        if picture:
            renders.append(np.asarray(reconstructed))
    if picture:
        pair = [np.concatenate(list(a[:, ::4, ::4]), 1) for a in (pictures, np.concatenate(renders))]
        images.write_png(picture, images.to_uint8(np.concatenate(pair, 0)))
    measured = {name: np.concatenate([np.asarray(rows[name]) for rows in found]) for name in found[0]}
    # How alike the reconstruction of one and the picture of another are: the mean over all others.
    of_renders, of_pictures = (np.concatenate(parts) for parts in zip(*descriptors, strict=True))
    cosines = of_renders @ of_pictures.T
    others = (cosines.sum(1) - np.diag(cosines)) / max(1, len(cosines) - 1)
    spread = cosines[~np.eye(len(cosines), dtype=bool)]
    emit(
        {
            "benchmark": "encoders",
            "id_of_pairs": [round(float(v), 3) for v in np.percentile(np.diag(cosines), [0, 5, 50, 95, 100])],
            "id_of_random_pairs": [round(float(v), 3) for v in np.percentile(spread, [0, 5, 50, 95, 100])],
        }
    )
    return {**measured, "id_random_pairs": others}


def _samples(G, seed, count, batch):
    key = jax.random.key(10_000 + seed)
    draw = jax.jit(lambda G, key: samples.render(G, samples.draw(G, key, batch, (1.0, 1.0), 0.0), G.resolution))
    parts = [np.asarray(draw(G, jax.random.fold_in(key, n))) for n in range(-(-count // batch))]
    return np.concatenate(parts)[:count]


def _read(path, side):
    photo = Image.fromarray(images.read(path)).resize((side, side), Image.Resampling.LANCZOS)
    return images.to_float(np.asarray(photo))


def _each(rows):
    for i in range(len(next(iter(rows.values())))):
        yield {name: value[i] for name, value in rows.items()}


def _spread(found):
    return {
        name: [round(float(np.mean([f[name] for f in found])), 4), round(float(np.std([f[name] for f in found])), 4)]
        for name in found[0]
    }


def _round(values):
    return {name: round(float(value), 4) for name, value in values.items()}


if __name__ == "__main__":
    main()
