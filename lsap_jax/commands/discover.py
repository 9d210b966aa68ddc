"""The `discover` command: a generator in, a bank of editing directions and a page to judge them out.

    python -m lsap_jax.discover --method lowrank --region mouth --layers 2-7 --out DIR
    python -m lsap_jax.discover --method resefa --region eyes@4 --inversions RESULTS --image me --out DIR
    python -m lsap_jax.discover --method ganspace --count 20 --layers 0-7 --out DIR
    python -m lsap_jax.discover --method sefa --count 10 --layers 4-9 --out DIR
    python -m lsap_jax.discover --method interfacegan --attributes smile,yaw --samples 2000 --out DIR
    python -m lsap_jax.discover --method contrafeat --steps 2000 --out DIR

Regions are written as `lsap_jax.edit.regions.parse` reads them. Written:

    OUT/directions.npz     the bank: --direction OUT/directions.npz#NAME of the edit command takes one
    OUT/bank.json          what was found, how, and what it measures
    OUT/index.html         the page
    OUT/pictures/          strips on inverted photos (--inversions), or on samples

Jacobians and training states are kept, so that the same command goes on where it was killed, and another region on the
same code costs seconds.
"""

import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from lsap_jax import bank_page, cache, pretrained
from lsap_jax.checkpoints import store
from lsap_jax.commands import command_line
from lsap_jax.commands import discover_methods as methods
from lsap_jax.commands.edit import parse_strengths
from lsap_jax.data import images as image_files
from lsap_jax.data import resize, results
from lsap_jax.edit import directions, jacobian, low_rank, regions
from lsap_jax.edit.directions import Direction, apply_direction
from lsap_jax.embed import inversion
from lsap_jax.errors import ConfigError, ResultError
from lsap_jax.generators.base import Generator
from lsap_jax.metrics import edits, locality, reconstruction
from lsap_jax.metrics.spread import spread
from lsap_jax.networks import identity

SHOWN = 256  # pixels of the page's pictures, and of what is measured
AT = 2.0  # strength at which directions are measured
_TOLD = ("kept", "leak", "inside", "accuracy_held_out", "accuracy_rest", "share", "explained")  # statistics shown


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command's flags, a set of its own.

    Raises:
      flags.Error: if a flag is unknown or its value impossible.
    """
    values = flags.FlagValues()
    flags.DEFINE_enum("method", None, sorted(methods.METHODS), "how directions are found", flag_values=values)
    flags.DEFINE_string("out", None, "folder of the bank", flag_values=values)
    flags.DEFINE_string("generator", "ffhq-mobile", "name or path", flag_values=values)
    flags.DEFINE_string("layers", "all", "rows of W+ to edit: 0-5 or 0,2,4-6", flag_values=values)
    flags.DEFINE_integer("count", 4, "directions, at most", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "of every random choice", flag_values=values)
    flags.DEFINE_string("name", "", "what the directions are called", flag_values=values)
    flags.DEFINE_string("inversions", "", "results folder of invert, for --image and --show", flag_values=values)
    flags.DEFINE_string(
        "image", "", "lowrank, resefa: the inverted image to find on; else a sample", flag_values=values
    )
    flags.DEFINE_list("show", [], "inverted images of the page; the first two by default", flag_values=values)
    flags.DEFINE_string("strength", "-3:3:7", "of the page's columns", flag_values=values)
    flags.DEFINE_integer(
        "measured", 4, "fresh samples that are measured; 0 for none", lower_bound=0, flag_values=values
    )
    flags.DEFINE_string("region", "", "lowrank, resefa: what is to change", flag_values=values)
    flags.DEFINE_string("outside", "", "lowrank, resefa: what is not; all the rest by default", flag_values=values)
    flags.DEFINE_enum("solver", "", ["", *low_rank.SOLVERS], "instead of the method's own", flag_values=values)
    flags.DEFINE_integer("outside_rank", None, "lowrank, resefa: axes to project off", flag_values=values)
    flags.DEFINE_float("outside_energy", None, "the same, by share of energy", flag_values=values)
    flags.DEFINE_float("c", 0.377, "lowrank: of robust PCA, smaller for lower rank", flag_values=values)
    flags.DEFINE_bool("untied", False, "lowrank, resefa: a vector for each row", flag_values=values)
    flags.DEFINE_enum("colour", "mean", jacobian.COLOURS, "lowrank, resefa: of the pixels", flag_values=values)
    flags.DEFINE_integer("grid", 256, "lowrank, resefa: side of the Jacobian's image", flag_values=values)
    flags.DEFINE_integer("block", -1, "ganspace: whose activations are analysed; -1 for W itself", flag_values=values)
    flags.DEFINE_integer("samples", 2000, "ganspace of a block, interfacegan: codes drawn", flag_values=values)
    flags.DEFINE_list("attributes", [], "interfacegan: measured ones; all by default", flag_values=values)
    flags.DEFINE_bool("landmarks68", False, "interfacegan: lids and lips too; non-commercial", flag_values=values)
    flags.DEFINE_string("codes", "", "interfacegan: .npy (N, w_dim), with --scores", flag_values=values)
    flags.DEFINE_string("scores", "", "interfacegan: CSV index,score of those codes", flag_values=values)
    flags.DEFINE_float("share", 0.02, "interfacegan: of the samples, at either end", flag_values=values)
    flags.DEFINE_bool("conditional", False, "interfacegan: each direction off all the others", flag_values=values)
    flags.DEFINE_enum("variant", "bi", ["bi", "pt"], "contrafeat: binary or prototypes", flag_values=values)
    flags.DEFINE_enum("on", "fixedE", ["fixedE", "fixed", "pca", "sefa"], "contrafeat: directions", flag_values=values)
    flags.DEFINE_integer("steps", 2000, "contrafeat: of the training", flag_values=values)
    flags.DEFINE_integer("batch", 4, "contrafeat: codes of a step", flag_values=values)
    flags.DEFINE_integer("resolution", 256, "contrafeat: pixels of the renders", flag_values=values)
    flags.DEFINE_bool("previews", False, "contrafeat: by approximate preview heads, faster", flag_values=values)
    command_line.no_more(command_line.parse_own(values, argv, __doc__))
    return values


def main(argv: Sequence[str]) -> None:
    """Entry of `python -m lsap_jax.discover`."""
    with command_line.ends_in_one_line("the same command goes on"):
        values = parse(argv)
        if not values.method or not values.out:
            raise ConfigError(
                f"give --out DIR and --method, one of {', '.join(sorted(methods.METHODS))}; --help says more"
            )
        cache.keep_compiled_programs()
        discover(values)


def discover(values: flags.FlagValues) -> None:
    """Find directions as the flags say, measure them, and write bank and page.

    Raises:
      LsapError: if something is missing or impossible.
    """
    out, strengths = pathlib.Path(values.out), parse_strengths(values.strength)
    G = pretrained.load_generator(values.generator)
    shown = _shown(values, G)
    found = methods.METHODS[values.method](values, G, out)
    if not found.directions:
        raise ConfigError(f"{values.method} found no direction")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(f"{out}: cannot be made ({error})") from error
    settings = {name: values[name].value for name in values if values[name].value != values[name].default}
    directions.save_bank(
        out / "directions.npz", found.directions, {"settings": settings, "generator": values.generator}
    )
    tested = methods.samples(G, values.seed + 2, values.measured) if values.measured else None
    judge = identity.identity() if values.measured else None
    entries, began = [], time.monotonic()
    for number, d in enumerate(found.directions):
        rows = [_strip(out, G, d, name, ws, strengths) for name, ws in shown.items()]
        prototype = (found.prototypes or {}).get(d.name)
        entries.append(
            {
                "name": d.name,
                "origin": d.origin,
                "unit": d.unit,
                "layer_weights": None if d.layer_weights is None else np.asarray(d.layer_weights).tolist(),
                "measures": _measures(G, d, found.region, tested, judge),
                "rows": rows,
                "prototype": None if prototype is None else _picture(out, f"{d.name}-prototype", prototype),
            }
        )
        left = (time.monotonic() - began) / (number + 1) * (len(found.directions) - number - 1)
        print(f"{d.name}: {d.origin} [{number + 1}/{len(found.directions)}, {left:.0f} s left]", flush=True)
    title = f"{values.method} in {G.name}" + (f", {values.region}" if values.region else "")
    record = {"title": title, "settings": settings, "notes": list(found.notes), "directions": entries}
    store.write_atomically(out / "bank.json", json.dumps(record, indent=2).encode())
    print(f"look at {bank_page.write(out)}")


def _shown(values: flags.FlagValues, G: Generator) -> dict[str, jax.Array]:
    """{name: (1, num_ws, w_dim)} of the page: inverted photos, or two samples."""
    if values.inversions:
        done = results.finished(values.inversions)
        if not done:
            raise ResultError(f"{values.inversions} has no finished image: give the --out of an invert run")
        ids = values.show or done[:2]
        for image_id in [*ids, *filter(None, [values.image])]:
            if image_id not in done:
                raise ResultError(
                    f"{values.inversions} has no image {image_id!r}; it has {', '.join(done[:10]) or 'none'}"
                )
        return {image_id: inversion.Inversion.load(values.inversions, [image_id], G).ws for image_id in ids}
    if values.show or values.image:
        raise ConfigError("--show and --image name inverted images: give --inversions DIR with them")
    ws = methods.samples(G, values.seed + 1, 2)
    return {f"sample {index}": ws[index : index + 1] for index in range(2)}


def _strip(out: pathlib.Path, G: Generator, d: Direction, name: str, ws: jax.Array, strengths: Sequence[float]) -> Any:
    """Pictures of one image along a direction, as the page's record has them."""
    files = []
    for strength in strengths:
        image = resize.area(G.synthesize(apply_direction(ws, d, strength)), min(SHOWN, G.resolution))[0]
        files.append(_picture(out, f"{d.name}/{name} {strength:+g}".replace(" ", "_"), np.asarray(image)))
    return {"image": name, "strengths": list(strengths), "files": files}


def _picture(out: pathlib.Path, name: str, image: np.ndarray) -> str:
    path = out / "pictures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image_files.write_png(path, image)
    return path.relative_to(out).as_posix()


def _measures(
    G: Generator, d: Direction, region: np.ndarray | None, tested: jax.Array | None, judge: identity.Identity | None
) -> dict[str, dict[str, float]]:
    """What a direction does to fresh samples at strengths of -AT and AT, and what is known of it."""
    values: dict[str, Any] = {name: [float(d.statistics[name])] for name in _TOLD if name in d.statistics}
    if tested is not None and judge is not None:
        side = min(SHOWN, G.resolution)
        kept, moved, ratio = [], [], []
        for ws in tested:  # one at a time: memory stays small, and every render is the same program
            before, *after = (
                resize.area(reconstruction.as_saved(G.synthesize(apply_direction(ws[None], d, s))), side)
                for s in (0.0, -AT, AT)
            )
            for edited in after:
                kept.append(edits.identity_kept(judge, before, edited)[0])
                moved.append(float(np.abs(np.asarray(edited - before)).mean()))
                if region is not None:
                    mask = region if len(region) == side else regions.resize(region, side)
                    ratio.append(locality.change(before, edited, mask).locality[0])
        values |= {f"ID at ±{AT:g}": kept, f"mean |change| at ±{AT:g}": moved}
        if region is not None:
            values["R, change outside / inside"] = ratio
    told = {name: spread(v) for name, v in values.items()}
    return {name: {"mean": s.mean, "spread": s.deviation, "count": s.count} for name, s in told.items()}
