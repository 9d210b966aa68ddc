"""The shipped directions on inverted photos: do attributes follow them, does the person stay, do local ones stay local.

    python benchmarks/directions.py --inversions RESULTS [--follow smile,yaw] [--bank DIR/directions.npz]

RESULTS is a folder of the invert command. One JSON line for each direction:

* for one that is followed: its attribute at strengths -3, -2, ..., 3 on every photo and whether it rises at each step;
  for any: ID similarity of the edit at -2 and at 2 to the unedited inversion;
* for one of a region (found on a Jacobian): R, mean |change| outside over inside of the region, on every photo at the
  strength where the inside changes by --target; and the same for the ten leading SeFa and the ten leading GANSpace
  directions of the same layers, of which the best by mean R is told. Both signs of every direction count, in the mean.
"""

import argparse

import jax
import numpy as np
from timing import emit

import lsap_jax as lj
from lsap_jax import pretrained
from lsap_jax.data import resize, results
from lsap_jax.data.images import to_uint8
from lsap_jax.edit import directions, ganspace, named, regions, sefa
from lsap_jax.metrics import attributes, edits, locality, reconstruction
from lsap_jax.metrics.spread import spread
from lsap_jax.networks import identity

SIDE = 256  # pixels of the pictures that are compared
STRENGTHS = tuple(range(-3, 4))
RIVALS = 10  # of each method
TRIED = (0.75, 1.5, 3.0, 6.0)  # strengths between which the inside change is interpolated


def main():
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inversions", required=True)
    parser.add_argument("--generator", default="ffhq-mobile")
    parser.add_argument("--bank", default="", help="another bank than the shipped one")
    parser.add_argument("--only", default="", help="names of directions")
    parser.add_argument("--follow", default="smile,yaw,mouth-open,eyes-open,hair-brightness,skin-brightness")
    parser.add_argument("--target", type=float, default=0.06, help="mean |change| inside, images in [-1, 1]")
    flags = parser.parse_args()
    G = lj.load_generator(flags.generator)
    bank = {d.name: d for d in directions.load_bank(flags.bank, G)} if flags.bank else named.shipped(G)
    known = {} if flags.bank else named.found_by(G)
    ids = results.finished(flags.inversions)
    codes = {name: lj.Inversion.load(flags.inversions, [name], G).ws for name in ids}
    measured, judge = attributes.load(landmarks68=True), identity.identity()
    bank = {name: d for name, d in bank.items() if not flags.only or name in flags.only.split(",")}
    wanted = {name: known.get(name, {}).get("settings", {}).get("region") for name in bank}
    specs, rivals = sorted({region for region in wanted.values() if region}), {}
    for name, d in bank.items():
        line = {"benchmark": "directions", "direction": name, "photos": ids}
        if name in flags.follow.split(","):
            line |= _followed(G, d, codes, measured, judge, name.replace("-", "_"))
        else:
            line |= _identity(G, d, codes, judge)
        if region := wanted[name]:
            layers = tuple(np.flatnonzero(np.asarray(d.layer_weights)).tolist())
            if layers not in rivals:
                rivals[layers] = _rivals(G, layers, codes, specs)
            line |= _local(G, d, codes, region, flags.target, rivals[layers])
        emit(line)


def _picture(G, ws):
    return resize.area(reconstruction.as_saved(G.synthesize(ws)), SIDE)


def _followed(G, d, codes, measured, judge, attribute):
    rows, kept = [], {}
    column = measured.names.index(attribute)
    for name, ws in codes.items():
        series = {s: _picture(G, directions.apply_direction(ws, d, s)) for s in STRENGTHS}
        rows.append([float(measured(image)[0, column]) for image in series.values()])
        kept[name] = [round(float(edits.identity_kept(judge, series[0], series[s])[0]), 3) for s in (-2, 2)]
    steady = edits.monotonicity(rows, STRENGTHS)
    return {
        "attribute": {name: np.round(row, 3).tolist() for name, row in zip(codes, rows, strict=True)},
        "steps_that_rise": steady.steps.round(3).tolist(),
        "id_at_2": kept,
        "id_least": min(min(pair) for pair in kept.values()),
    }


def _identity(G, d, codes, judge):
    kept = {}
    for name, ws in codes.items():
        before, *after = (_picture(G, directions.apply_direction(ws, d, s)) for s in (0, -2, 2))
        kept[name] = [round(float(edits.identity_kept(judge, before, image)[0]), 3) for image in after]
    return {"id_at_2": kept, "id_least": min(min(pair) for pair in kept.values())}


def _rivals(G, layers, codes, specs):
    """{name: changes} of the leading SeFa and GANSpace directions of these layers."""
    tried = {f"sefa{i}": d for i, d in enumerate(sefa.sefa(G, RIVALS, layers))}
    tried |= {f"ganspace{i}": d for i, d in enumerate(ganspace.from_w(G, RIVALS, layers))}
    return {name: _changes(G, d, codes, specs) for name, d in tried.items()}


def _local(G, d, codes, region, target, rivals):
    own = _ratios(_changes(G, d, codes, [region])[region], target)
    theirs = {name: _ratios(changes[region], target) for name, changes in rivals.items()}
    means = {name: float(np.nanmean(r)) for name, r in theirs.items() if np.isfinite(r).any()}
    best = min(means, key=means.get)
    return {
        "region": region,
        "inside_change": target,
        "R": own.round(3).tolist(),
        "R_mean": round(spread(own).mean, 3),
        "rivals_mean": {name: round(value, 3) for name, value in means.items()},
        "best_rival": best,
        "best_rival_R": theirs[best].round(3).tolist(),
        "R_over_best": round(spread(own).mean / means[best], 3),
    }


def _changes(G, d, codes, specs):
    """{region: (photos, 2 signs, 1 + tried, 2)}: inside and outside change of every photo along the strengths."""
    found = {spec: np.zeros((len(codes), 2, 1 + len(TRIED), 2)) for spec in specs}
    detector, _ = pretrained.load("mtcnn")
    for number, ws in enumerate(codes.values()):
        before = _picture(G, ws)
        points = attributes.face_points(detector, to_uint8(np.asarray(before[0])))
        masks = {spec: regions.parse(spec, SIDE, points) for spec in specs}
        for row, sign in enumerate((1, -1)):
            for column, strength in enumerate(TRIED, start=1):
                after = _picture(G, directions.apply_direction(ws, d, sign * strength))
                for spec, mask in masks.items():
                    changed = locality.change(before, after, mask)
                    found[spec][number, row, column] = changed.inside[0], changed.outside[0]
    return found


def _ratios(changes, target):
    """(photos,) R where the inside change first passes the target, mean of both signs; NaN where neither does."""
    ratios = np.full(changes.shape[:2], np.nan)
    for at in np.ndindex(ratios.shape):
        inside, outside = changes[at].T
        if (inside >= target).any():
            last = int(np.argmax(inside >= target))
            share = (target - inside[last - 1]) / (inside[last] - inside[last - 1])
            ratios[at] = (outside[last - 1] + share * (outside[last] - outside[last - 1])) / target
    known = np.isfinite(ratios)
    return np.where(known.any(1), np.where(known, ratios, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    main()
