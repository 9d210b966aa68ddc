"""The `edit` command: inverted photos and directions in, edited pictures and a refreshed page out.

    python -m lsap_jax.edit --inversions DIR --direction pca0 --strength -3:3:7
    python -m lsap_jax.edit --inversions DIR --direction smile.pt --direction pca3:0-7 --strength 2 --images me.jpg
    python -m lsap_jax.edit --list

A direction is the name of one that is shipped for the generator (--list shows them), `pcaN` (principal axis N of its
W), a file, or FILE#COMPONENT of a file that holds several; each may end in :LAYERS. Several --direction are applied
together, each with the strength given. Written for each image:

    OUT/images/ID/edits/LABEL/{strength}.png
    OUT/images/ID/edits/LABEL/edit.json        directions, strengths with their unit, what each edit changed

    OUT/images/ID/edits/LABEL/morph.webp       --morph webp|gif: the series there and back as an animation
    OUT/images/ID/edits/LABEL/grid.png         --grid: columns strengths of the first direction, rows of the second

A series is written whole or not at all. What is there already is kept: the same command again makes nothing, and other
strengths of the same directions join the series.
"""

import glob
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from lsap_jax import cache, page, pretrained, report
from lsap_jax.checkpoints import store
from lsap_jax.commands import command_line
from lsap_jax.data import animation, resize, results, shards
from lsap_jax.data import images as image_files
from lsap_jax.edit import named
from lsap_jax.edit.directions import Direction, apply_direction
from lsap_jax.edit.directions import record as direction_record
from lsap_jax.embed import inversion
from lsap_jax.errors import ConfigError, DirectionError, ResultError
from lsap_jax.generators.base import Generator
from lsap_jax.latent import alignment
from lsap_jax.metrics import reconstruction
from lsap_jax.networks import identity, lpips

Judges = Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]]

_PARTIAL = ".partial-"


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command's flags; a set of its own, so that commands of one process may use the same names.

    Raises:
      flags.Error: if a flag is unknown or its value impossible.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("inversions", None, "results folder of the invert command", flag_values=values)
    flags.DEFINE_multi_string(
        "direction", [], "NAME, pcaN, FILE or FILE#COMPONENT, each with or without :LAYERS", flag_values=values
    )
    flags.DEFINE_string("strength", "-3:3:7", "2, or -2,0,2, or start:stop:count", flag_values=values)
    flags.DEFINE_list("images", [], "ids of the images to edit; all by default", flag_values=values)
    flags.DEFINE_enum(
        "unit", None, ["sigma", "w"], "of strength; sigma unless a file says otherwise", flag_values=values
    )
    flags.DEFINE_enum("morph", "", ["", "webp", "gif"], "also write the series as an animation", flag_values=values)
    flags.DEFINE_bool(
        "grid", False, "two directions: also every strength of one with every one of the other", flag_values=values
    )
    flags.DEFINE_bool("force", False, "use directions of another generator", flag_values=values)
    flags.DEFINE_string("name", "", "label of the series; made of the directions' names by default", flag_values=values)
    flags.DEFINE_string("generator", "", "name or path, if not where the inversions found it", flag_values=values)
    flags.DEFINE_bool("list", False, "show the directions shipped for --generator, and go", flag_values=values)
    command_line.no_more(command_line.parse_own(values, argv, __doc__))
    return values


def main(argv: Sequence[str]) -> None:
    """Entry of `python -m lsap_jax.edit`."""
    with command_line.ends_in_one_line("finished images are kept, and the same command does the rest"):
        values = parse(argv)
        if values.list:
            print(listing(pretrained.load_generator(values.generator or "ffhq-mobile")))
            return
        if not values.inversions or not values.direction:
            raise ConfigError("give --inversions DIR and --direction NAME|FILE (--list names some); --help says more")
        cache.keep_compiled_programs()
        edit_folder(
            values.inversions,
            values.direction,
            parse_strengths(values.strength),
            ids=values.images,
            unit=values.unit,
            force=values.force,
            label=values.name,
            generator=values.generator,
            morph=values.morph,
            grid=values.grid,
        )


def parse_strengths(text: str) -> tuple[float, ...]:
    """One number, "2", several, "-2,0,2", or start:stop:count, "-3:3:7" for seven from -3 to 3.

    Raises:
      ConfigError: if it is none of these, not finite, or names a strength twice.
    """
    try:
        if ":" in text:
            start, stop, count = text.split(":")
            numbers = np.linspace(float(start), float(stop), int(count))
        else:
            numbers = np.asarray([float(part) for part in text.split(",")])
        strengths = tuple(float(f"{number:.10g}") + 0.0 for number in numbers)  # 0.3 for 0.30000000000000004, 0 for -0
        if not strengths or not np.isfinite(strengths).all() or len(set(strengths)) != len(strengths):
            raise ValueError(text)
    except ValueError:
        raise ConfigError(f"strength {text!r}: write 2, or -2,0,2, or start:stop:count as in -3:3:7") from None
    return strengths


def edit_folder(
    out: str | os.PathLike,
    specs: Sequence[str],
    strengths: Sequence[float],
    *,
    ids: Sequence[str] = (),
    unit: str | None = None,
    force: bool = False,
    label: str = "",
    generator: str = "",
    morph: str = "",
    grid: bool = False,
    judges: Judges | None = None,
) -> None:
    """Edit the images of a results folder, and refresh its page.

    Args:
      out: the results folder.
      specs: directions as `lsap_jax.edit.named.resolve` reads them, applied together.
      strengths: of each picture of the series, in the directions' unit.
      ids: of the images; all by default.
      unit: of the strengths; see `load_direction`.
      force: use directions of another generator.
      label: of the series; made of the directions' names by default.
      generator: name or path; by default what the inversions say.
      morph: "webp" or "gif" also writes the series as an animation.
      grid: also write the table of both directions' strengths.
      judges: {metric: (edited, unedited) -> (B,)}; by default the face identity and LPIPS-Alex.

    Raises:
      LsapError: if the folder, an image, a direction or the generator cannot be used.
    """
    out = pathlib.Path(out)
    settings, done = results.read_settings(out), results.finished(out)
    ids = list(ids) or done
    if shards.is_sharded(out):
        raise ResultError(
            f"{out} holds shards, which keep no photos to edit beside: invert those photos into folders "
            "(--config.invert.store=folders), or edit codes in Python: lj.Inversion.load(OUT, ids), lj.apply_direction"
        )
    if not ids or set(ids) - set(done):
        missing = f"image {sorted(set(ids) - set(done))[0]!r}" if ids else "finished image"
        raise ResultError(f"{out} has no {missing}; it has {', '.join(done[:10]) or 'none'}")
    G = pretrained.load_generator(generator or settings["generator"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        directions = [named.resolve(spec, G, unit, force) for spec in specs]
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"note: {text}", file=sys.stderr)
    if grid and len(directions) != 2:
        raise ConfigError(f"a grid is of two directions; {len(directions)} were given")
    units = {d.unit for d in directions}
    if len(units) > 1:
        raise DirectionError(
            "these directions have strengths of different units; choose one by --unit sigma or --unit w"
        )
    label = label or re.sub(r"[^\w.+-]", "_", "+".join(d.name for d in directions)).lstrip(".")
    if not label or label.startswith(".") or pathlib.PurePath(label).name != label:
        raise ConfigError(f"name {label!r}: cannot be the name of a folder")
    record = {
        "label": label,
        "directions": [direction_record(d) for d in directions],
        "unit": units.pop(),
        "fingerprint": G.fingerprint,
    }
    judges = {"id": identity.identity(), "lpips_alex": lpips.load("alex")} if judges is None else judges

    began, made = time.monotonic(), 0
    for number, image_id in enumerate(ids):
        folder = out / "images" / image_id / "edits" / label
        known = _known(folder, record)
        missing = [strength for strength in strengths if strength not in known]
        if missing:
            found = inversion.Inversion.load(out, [image_id], G)
            _make(folder, record, known, missing, found, directions, judges)
            made += 1
        if morph and (missing or not (folder / f"morph.{morph}").exists()):
            frames = [image_files.read(folder / _file(strength)) for strength in sorted({*known, *strengths})]
            animation.write(folder / f"morph.{morph}", animation.there_and_back(frames))
        if grid and (missing or not (folder / "grid.png").exists()):
            found = inversion.Inversion.load(out, [image_id], G)
            image_files.write_png(folder / "grid.png", _grid(found, directions, sorted(strengths)))
        left = (time.monotonic() - began) / max(1, made) * (len(ids) - number - 1)
        what = f"{len(missing)} pictures made" if missing else "nothing left to do"
        print(f"{image_id}: {label}, {what} [{number + 1}/{len(ids)} images, {left:.0f} s left]", flush=True)
    print(f"look at {report.write_index(out)}")


def listing(G: Generator) -> str:
    """The directions shipped for G: name, layers, what it measures, and the command that found it."""
    lines, known = [], named.found_by(G)
    for name, d in named.shipped(G).items():
        layers = np.flatnonzero(np.asarray(d.layer_weights))
        kept = known[name]["measures"].get("ID at ±2", {}).get("mean", float("nan"))
        words = [
            f"--{flag}" if value is True else f"--{flag} {_plain(value)}" for flag, value in _settings(known[name])
        ]
        lines.append(f"{name:16} layers {layers[0]}-{layers[-1]}, ID at ±2 {kept:.2f}; discover {' '.join(words)}")
    about = f"of {G.name or 'this generator'}, besides pca0 to pca{G.w_dim - 1} and files of directions"
    return "\n".join([f"directions {about}:", *lines] if lines else [f"no directions are shipped {about}"])


def _settings(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(flag, value) of the run that found a direction, method first."""
    return sorted(record["settings"].items(), key=lambda item: item[0] != "method")


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def edited(ws: jax.Array, directions: Sequence[Direction], strength: float) -> jax.Array:
    """Codes (B, num_ws, w_dim) moved along all directions, by the same strength along each."""
    for d in directions:
        ws = apply_direction(ws, d, strength)
    return ws


def _grid(found: inversion.Inversion, directions: Sequence[Direction], strengths: Sequence[float]) -> np.ndarray:
    """Columns strengths of the first direction, rows of the second, with captions: uint8."""
    across, down = directions
    rows = []
    for below in strengths:
        moved = apply_direction(found.ws, down, below)
        tiles = [np.asarray(found.render(apply_direction(moved, across, strength))[0]) for strength in strengths]
        labels = [page.strength(strength, across.unit) for strength in strengths]
        rows.append(
            report.strip(tiles, labels, f"{down.name} {page.strength(below, down.unit)}; columns {across.name}")
        )
    return np.concatenate(rows)


def _known(folder: pathlib.Path, record: dict[str, Any]) -> dict[float, dict[str, float]]:
    """{strength: metrics} of an earlier series of the same directions in this folder; another one is replaced."""
    path = folder / "edit.json"
    if not path.exists():
        return {}
    try:
        earlier = json.loads(path.read_text())
        if any(earlier[key] != value for key, value in record.items()):
            print(f"{folder}: replaced, it was made with other directions; --name keeps both", file=sys.stderr)
            return {}
        names = earlier["metrics"].keys()
        return {s: {name: earlier["metrics"][name][i] for name in names} for i, s in enumerate(earlier["strengths"])}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ResultError(f"{path} is damaged ({error}): remove its folder and run the command again") from error


def _make(
    folder: pathlib.Path,
    record: dict[str, Any],
    known: dict[float, dict[str, float]],
    missing: Sequence[float],
    found: inversion.Inversion,
    directions: Sequence[Direction],
    judges: Judges,
) -> None:
    """Render the missing strengths of one image and write the whole series, all or nothing."""
    A = alignment.fit(found.generator)
    small = min(reconstruction.RESOLUTION, found.generator.resolution)
    unedited = resize.area(reconstruction.as_saved(found.images), small)
    metrics = dict(known)
    prefix = f"{_PARTIAL}{folder.name}~"
    try:
        folder.parent.mkdir(exist_ok=True)
        for leftover in folder.parent.glob(f"{glob.escape(prefix)}*"):
            shutil.rmtree(leftover)
        partial = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=prefix))
        partial.chmod(0o755)
        for strength in known:
            shutil.copy(folder / _file(strength), partial)
        for strength in missing:
            ws = edited(found.ws, directions, strength)
            # One at a time: making PNG files takes longer than rendering, and every render is the one of the inversion.
            images = found.render(ws)
            if strength == 0:
                # No bit of the code has changed: the picture is the one that is there, not another batch's rendering.
                shutil.copy(folder.parents[1] / "inversion.png", partial / _file(strength))
            else:
                image_files.write_png(partial / _file(strength), np.asarray(images[0]))
            seen = resize.area(reconstruction.as_saved(images), small)
            metrics[strength] = {name: float(judge(seen, unedited)[0]) for name, judge in judges.items()}
            metrics[strength]["sncd_z_max"] = float(alignment.calibrated(found.generator, A, ws).max())
        strengths = sorted(metrics)
        whole = {
            **record,
            "strengths": strengths,
            "files": [_file(strength) for strength in strengths],
            "metrics": {name: [metrics[s][name] for s in strengths] for name in metrics[strengths[0]]},
        }
        store.write_atomically(partial / "edit.json", json.dumps(whole, indent=2).encode())
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except OSError as error:
        raise ResultError(f"{folder} cannot be written ({error}): free some space, or remove it") from error


def _file(strength: float) -> str:
    return f"{strength:.10g}.png"
