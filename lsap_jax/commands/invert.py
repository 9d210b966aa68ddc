"""The `invert` command: photos in, a results folder with codes, reconstructions, metrics and a page to look at.

    python -m lsap_jax.invert --config configs/ffhq_mobile.py --images FILE|FOLDER --out DIR

Stopped at any moment, by Ctrl-C or harder, the same command finishes what is missing and repeats nothing.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import config_flags
from PIL import Image

from lsap_jax import cache, pretrained, report
from lsap_jax.checkpoints import store
from lsap_jax.config import Config, Invert
from lsap_jax.data import align, faces, images, results
from lsap_jax.embed import inversion, presets
from lsap_jax.errors import ConfigError, FaceError, ImageError, LsapError, ResultError
from lsap_jax.generators.base import Generator

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Python file with get_config(), such as configs/ffhq_mobile.py"
)
_IMAGES = flags.DEFINE_string("images", "", "photo, or folder of photos; a sample portrait when left out")
_OUT = flags.DEFINE_string("out", "runs/invert", "results folder; a folder begun with the same settings is finished")


@dataclasses.dataclass(frozen=True)
class Photo:
    """One aligned face, ready to be inverted.

    Attributes:
      id: name of its results folder.
      source: the file it came from.
      image: (R, R, 3) uint8 at the generator's resolution R.
      notes: what was done to it.
    """

    id: str
    source: str
    image: np.ndarray
    notes: tuple[str, ...]


def parse(argv: list[str]) -> list[str]:
    """Parse flags as absl does, and end in one line also where the config file or a field of it is at fault."""
    try:
        return app.parse_flags_with_usage(argv)
    except KeyError as error:  # of ml_collections, for a field that does not exist
        known = ", ".join(f"invert.{field.name}" for field in dataclasses.fields(Invert))
        sys.exit(f"lsap_jax: --config: {error.args[0]}; the fields are generator, {known}")


def main(argv: Sequence[str]) -> None:
    """Entry of `python -m lsap_jax.invert`."""
    if len(argv) > 1:
        sys.exit(f"lsap_jax: unexpected argument {argv[1]!r}: flags begin with --")
    config = _CONFIG.value
    if config is None:
        sys.exit("lsap_jax: give --config FILE, for example --config configs/ffhq_mobile.py")
    try:
        _ = config.generator
    except OSError as error:  # ml_collections could not read the file, and says so when a field is first asked for
        sys.exit(f"lsap_jax: --config: {error}")
    try:
        invert_photos(config, _IMAGES.value, _OUT.value)
    except LsapError as error:
        sys.exit(f"lsap_jax: {error}")
    except KeyboardInterrupt:
        sys.exit("\nlsap_jax: interrupted; finished photos are kept, and the same command does the rest")


def invert_photos(config: Config, source: str, out: str | os.PathLike) -> None:
    """Invert every photo of `source` that OUT has no result of yet, and write the page.

    A photo that cannot be used is listed with its reason (in `failures.json` and on the page); the others go on.

    Raises:
      LsapError: for what concerns all photos (configuration, weights, the folders), or if none could be used.
    """
    cache.keep_compiled_programs()
    options = config.invert
    method = presets.preset(options.preset, options.steps, options.noise or None)
    if options.faces not in ("largest", "all", "aligned"):
        raise ConfigError(f"config.invert.faces={options.faces!r}: use 'largest', 'all' or 'aligned'")
    if options.batch_size < 1:
        raise ConfigError(f"config.invert.batch_size={options.batch_size}: must be at least 1")
    root, files = photo_files(source)
    landmarks = {}
    if options.landmarks:
        landmarks, unknown = align.match_landmarks(align.load_landmarks(options.landmarks), files, root)
        for name in unknown:
            print(f"{options.landmarks}: {name!r} is none of the photos", file=sys.stderr)
    G = pretrained.load_generator(config.generator)
    settings = inversion.settings_of(G, method, options.preset, options.seed)
    settings |= {"faces": options.faces, "landmarks": options.landmarks}
    out = results.open_folder(out, settings)

    failures: list[dict[str, str]] = []
    missing = load_photos(root, files, G, options.faces, landmarks, set(results.finished(out)), failures)
    number = 0
    while batch := list(itertools.islice(missing, options.batch_size)):
        label = f"[{', '.join(photo.id for photo in batch)}]"
        number += len(batch)
        began = time.monotonic()
        # A short last batch is filled up, so that it runs in the program compiled for the others.
        rows = [*batch, *[batch[-1]] * (options.batch_size - len(batch) if number > len(batch) else 0)]
        found = inversion.invert(
            G,
            images.to_float(np.stack([photo.image for photo in rows])),
            method,
            seed=options.seed,
            steps_per_call=options.steps_per_call or None,
            progress=lambda *state, label=label: _show_progress(label, *state),
        )
        print(file=sys.stderr)
        found = found.take(range(len(batch)))
        found.settings = settings
        notes = [
            {"source": p.source, "notes": list(p.notes), "seconds": (time.monotonic() - began) / len(batch)}
            for p in batch
        ]
        found.save(out, [photo.id for photo in batch], notes)
        for i, photo in enumerate(batch):
            print(f"{photo.id}: {_summary(found, i)}{''.join(f'; {n}' for n in photo.notes)}", flush=True)
    for failure in failures:
        print(f"{failure['file']}: left out: {failure['reason']}", file=sys.stderr)
    _write_failures(out, failures)
    if not results.finished(out):
        raise ResultError(f"none of the {len(files)} photos could be used; the reasons stand above")
    report.write_index(out)
    print(f"look at {out / 'index.html'}")


def photo_files(source: str) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """(root, files) of a photo or a folder; of the sample portrait if `source` is empty.

    Raises:
      ImageError: if there is no such file, or no image in the folder.
    """
    root = pathlib.Path(source)
    if not source:
        root = cache.folder() / "sample-photo.png"
        if not root.exists():
            images.write_png(root, pretrained.load("sample-photo")[0]["image"])
    return root, images.list_images(root)


def load_photos(
    root: pathlib.Path,
    files: Sequence[pathlib.Path],
    G: Generator,
    which: str,
    landmarks: dict[pathlib.Path, list[np.ndarray]],
    finished: set[str],
    failures: list[dict[str, str]],
) -> Iterator[Photo]:
    """Read and align photos one by one, leaving out the finished; those that fail are added to `failures`."""
    detector: Any = None
    for path in files:
        image_id = images.image_id(path, root)
        if which != "all" and image_id in finished:
            continue
        try:
            pixels = images.read(path)
            if which == "aligned":
                found = [_taken_as_aligned(pixels, G.resolution)]
            else:
                given = landmarks.get(path)
                if given is None and detector is None:
                    detector = pretrained.load("mtcnn")[0]
                found = faces.faces_of(pixels, detector, which=which, size=G.resolution, landmarks=given)
        except (ImageError, FaceError) as error:
            failures.append({"file": str(path), "reason": str(error)})
            continue
        for index, face in enumerate(found):
            face_id = f"{image_id}-face{index}" if which == "all" else image_id
            if face_id not in finished:
                yield Photo(face_id, str(path), face.image, face.notes)


def _taken_as_aligned(pixels: np.ndarray, size: int) -> faces.AlignedFace:
    height, width = pixels.shape[:2]
    if height != width:
        raise ImageError(
            f"it is {width} x {height} and config.invert.faces='aligned' takes square crops: crop it, or use 'largest'"
        )
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS)
    return faces.AlignedFace(np.asarray(resized), np.zeros((0, 2)), ("taken as aligned",))


def _summary(found: inversion.Inversion, i: int) -> str:
    m = found.metrics
    return (
        f"LPIPS-VGG {m['lpips_vgg'][i]:.3f}, PSNR {m['psnr'][i]:.1f} dB, ID {m['id'][i]:.2f}, "
        f"layers' z-scores {m['sncd_z'][i].min():.1f} .. {m['sncd_z'][i].max():.1f}"
    )


def _show_progress(label: str, step: int, total: int, loss: np.ndarray, seconds: float) -> None:
    rate = step / seconds if seconds > 0.01 else 0.0  # no time has passed when the first call returns
    left = f"{(total - step) / rate:.0f} s left" if rate else "compiled"
    print(
        f"\r{label} step {step}/{total}  loss {np.nanmean(loss):.4f}  {rate:.2f} steps/s  {left}   ",
        end="",
        file=sys.stderr,
    )
    sys.stderr.flush()


def _write_failures(out: pathlib.Path, failures: list[dict[str, str]]) -> None:
    path = out / "failures.json"
    if failures:
        store.write_atomically(path, json.dumps(failures, indent=2).encode())
    else:
        path.unlink(missing_ok=True)
