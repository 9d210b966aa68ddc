"""The `invert` command: photos in, their codes out.

    python -m lsap_jax.invert --config configs/ffhq_mobile.py --images FILE|FOLDER --out DIR

writes a folder for each photo, with its code, reconstruction and metrics, and a page to look at. Big sets go into
shards:

    python -m lsap_jax.invert --config ... --config.invert.store=shards --images FOLDER|tfds:NAME[:SPLIT] --out DIR
    python -m lsap_jax.invert ... --shard 3/8                 # one part alone, on any machine that sees OUT

Stopped at any moment, by Ctrl-C or harder, the same command finishes what is missing and repeats nothing.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from lsap_jax import cache, distributed, pretrained, report
from lsap_jax.checkpoints import store
from lsap_jax.commands import command_line
from lsap_jax.config import Config, Invert
from lsap_jax.data import align, images, merge, photos, results, shards, sources
from lsap_jax.data.photos import Failure, Photo
from lsap_jax.data.sources import Entry
from lsap_jax.embed import dataset, inversion, optimize, preconditioner, presets
from lsap_jax.embed.preconditioner import Preconditioner
from lsap_jax.errors import ConfigError, ResultError
from lsap_jax.generators.base import Generator
from lsap_jax.metrics import reconstruction

_IMAGES = flags.DEFINE_string(
    "images", "", "photo, folder of photos, or tfds:NAME[:SPLIT]; a sample portrait when left out"
)
_OUT = flags.DEFINE_string("out", "runs/invert", "results folder; a folder begun with the same settings is finished")
_SHARD = flags.DEFINE_string("shard", "", "I/N: only part I, from 0, of N; N such commands do the whole set")
distributed.define_flags()

parse = command_line.parse


def main(argv: Sequence[str]) -> None:
    """Entry of `python -m lsap_jax.invert`."""
    config = command_line.config_of(command_line.CONFIG)
    with command_line.ends_in_one_line("finished photos are kept, and the same command does the rest"):
        command_line.no_more(argv[1:])
        invert_photos(config, _IMAGES.value, _OUT.value, _part(_SHARD.value))


def _part(shard: str) -> tuple[int, int]:
    """(index, count) of this process's part: of --shard, or of the hosts.

    Hosts whose numbers are given don't even connect: nothing of one's part depends on the others, so one can die and be
    started again alone. Where only the cluster knows the numbers, it is asked.
    """
    hosts = distributed.given()
    if shard:
        match = re.fullmatch(r"(\d+)/(\d+)", shard)
        if not match or int(match[1]) >= int(match[2]):
            raise ConfigError(f"--shard {shard!r}: write I/N with I from 0 to N - 1, such as 0/8")
        if hosts is not None:
            raise ConfigError("--shard and several hosts at once: each host is a part already, leave --shard out")
        return int(match[1]), int(match[2])
    if hosts is None:
        return 0, 1
    if hosts.index is None or hosts.count is None:
        distributed.initialize_from_flags()
        return jax.process_index(), jax.process_count()
    return hosts.index, hosts.count


@dataclasses.dataclass(frozen=True)
class Job:
    """What a command line asks for, checked and loaded.

    Attributes:
      options: of the configuration.
      source: the photos.
      prepare: how they are aligned.
      G: the generator.
      encoder: gives the start, or None.
      method: what is done from there.
      P: the generator's preconditioner, where the method wants one.
      metrics: kind of `reconstruction.measure`.
      settings: what identifies all this in the results.
    """

    options: Invert
    source: sources.Source
    prepare: photos.Preparation
    G: Generator
    encoder: Any
    method: optimize.Method
    P: Preconditioner | None
    metrics: str
    settings: dict[str, Any]


def invert_photos(config: Config, source: str, out: str | os.PathLike, part: tuple[int, int] = (0, 1)) -> None:
    """Invert every photo of `source`, or of a part of it, that OUT has no result of yet.

    A photo that cannot be used is listed with its reason; the others go on.

    Args:
      config: what to do.
      source: photo, folder of photos, or `tfds:NAME[:SPLIT]`; the sample portrait if empty.
      out: results folder.
      part: (index, count): which part of the set; only for `store = "shards"`.

    Raises:
      LsapError: for what concerns all photos (configuration, weights, the folders), or if none could be used.
    """
    cache.keep_compiled_programs()
    job = _job(config, source)
    if job.options.store == "shards":
        _invert_into_shards(job, out, part)
    elif part[1] > 1:
        raise ConfigError("parts of a set, and several hosts, need --config.invert.store=shards")
    else:
        _invert_into_folders(job, out)


def _job(config: Config, source: str) -> Job:
    options = config.invert
    method = presets.preset(options.preset, options.steps, options.noise or None)
    allowed = {
        "faces": photos.WHICH,
        "store": ("folders", "shards"),
        "metrics": ("", *reconstruction.KINDS),
        "renders": ("none", "png"),
    }
    for field, values in allowed.items():
        if (value := getattr(options, field)) not in values:
            raise ConfigError(f"config.invert.{field}={value!r}: use {' or '.join(repr(v) for v in values)}")
    for field in ("batch_size", "shard_size", "iterations"):
        if (value := getattr(options, field)) < 1:
            raise ConfigError(f"config.invert.{field}={value}: must be at least 1")
    if not options.encoder and options.preset in presets.ENCODER_NEEDED:
        raise ConfigError(f"config.invert.preset={options.preset!r} needs config.invert.encoder: a name or a path")
    entries = sources.open_source(source or _sample_portrait())
    landmarks = _landmarks(options.landmarks, entries) if options.landmarks else {}
    G = pretrained.load_generator(config.generator)
    encoder = pretrained.load_encoder(options.encoder) if options.encoder else None
    inversion.check_encoder(options.preset, encoder, G)
    settings = inversion.settings_of(G, method, options.preset, options.seed, encoder, options.iterations)
    settings |= {"faces": options.faces, "landmarks": options.landmarks}
    metrics = options.metrics or ("none" if options.store == "shards" else "full")
    if metrics != "full":
        settings["metrics"] = metrics
    prepare = photos.Preparation(G.resolution, options.faces, landmarks)
    P = None
    if method.preconditioned:
        P = preconditioner.fit(G, progress=_show_fit)
    return Job(options, entries, prepare, G, encoder, method, P, metrics, settings)


def _sample_portrait() -> str:
    path = cache.folder() / "sample-photo.png"
    if not path.exists():
        images.write_png(path, pretrained.load("sample-photo")[0]["image"])
    return str(path)


def _landmarks(path: str, source: sources.Source) -> dict[str, list[np.ndarray]]:
    """{entry name: faces} of a landmarks file."""
    if not isinstance(source, sources.Folder):
        raise ConfigError(f"config.invert.landmarks={path!r}: landmarks go with a folder of photos, by file name")
    files = [pathlib.Path(entry.source) for entry in source.entries(0, source.count)]
    found, unknown = align.match_landmarks(align.load_landmarks(path), files, source.name)
    for name in unknown:
        print(f"{path}: {name!r} is none of the photos", file=sys.stderr)
    return {images.name_below(file, source.name): faces for file, faces in found.items()}


def _invert_into_shards(job: Job, out: str | os.PathLike, which: tuple[int, int]) -> None:
    options, source = job.options, job.source
    embed = dataset.Embedder(
        job.G,
        job.method,
        encoder=job.encoder,
        iterations=options.iterations,
        batch_size=options.batch_size,
        metrics=job.metrics,
        renders=options.renders == "png",
        seed=options.seed,
        steps_per_call=options.steps_per_call or None,
        P=job.P,
    )
    stored = {"entries": source.count, "list": source.digest, "shard_size": options.shard_size}
    settings = {**job.settings, "metrics": job.metrics, "renders": options.renders, "store": stored}
    folder = results.open_folder(out, settings, inside="shards")
    part = shards.Part(folder, *which, source.count, options.shard_size)
    label = f"part {which[0]} of {which[1]}: " if which[1] > 1 else ""
    total = dataset.invert_part(source, job.prepare, embed, part, settings, lambda *state: _show_rate(label, *state))
    if label:
        print(f"{label}{total['images']} images, {total['failures']} left out: {part.folder / shards.MANIFEST}")
    if merge.is_complete(folder, which[1]):
        total = merge.merge(folder, verify=False)
        print(f"{total['images']} images, {total['failures']} left out: {folder / shards.MANIFEST}")


def _invert_into_folders(job: Job, out: str | os.PathLike) -> None:
    options, source = job.options, job.source
    out = results.open_folder(out, job.settings)
    failures: list[Failure] = []
    done = set(results.finished(out))
    entries = (e for e in source.entries(0, source.count) if options.faces == "all" or e.id not in done)
    missing = _unfinished(photos.ahead(job.prepare, entries, most=2 * options.batch_size + 2), done, failures)
    mesh = distributed.mesh(local=True)
    devices = mesh.size
    batch_size = -(-options.batch_size // devices) * devices
    number = 0
    while batch := list(itertools.islice(missing, batch_size)):
        label = f"[{', '.join(photo.id for photo in batch)}]"
        number += len(batch)
        began = time.monotonic()
        # A short last batch is filled up, so that it runs in the program compiled for the others.
        full = batch_size if number > len(batch) else -(-len(batch) // devices) * devices
        rows = [*batch, *[batch[-1]] * (full - len(batch))]
        found = inversion.invert(
            job.G,
            images.to_float(np.stack([photo.image for photo in rows])),
            job.method,
            seed=options.seed,
            encoder=job.encoder,
            iterations=options.iterations,
            metrics=job.metrics,
            steps_per_call=options.steps_per_call or None,
            progress=lambda *state, label=label: _show_progress(label, *state),
            mesh=mesh if devices > 1 else None,
            P=job.P,
        )
        if job.method.stages:
            print(file=sys.stderr)
        found = found.take(range(len(batch)))
        found.settings = job.settings
        notes = [
            {"source": p.source, "notes": list(p.notes), "seconds": (time.monotonic() - began) / len(batch)}
            for p in batch
        ]
        found.save(out, [photo.id for photo in batch], notes)
        for i, photo in enumerate(batch):
            print(f"{photo.id}: {_summary(found, i)}{''.join(f'; {n}' for n in photo.notes)}", flush=True)
    for failure in failures:
        print(f"{failure.source}: left out: {failure.reason}", file=sys.stderr)
    _write_failures(out, failures)
    if not results.finished(out):
        raise ResultError(f"none of the {source.count} photos could be used; the reasons stand above")
    report.write_index(out)
    print(f"look at {out / 'index.html'}")


def _unfinished(
    outcomes: Iterable[tuple[Entry, list[Photo] | Failure]], done: set[str], failures: list[Failure]
) -> Iterator[Photo]:
    """The photos of entries that are not done; entries that cannot be used are added to `failures`."""
    for _, outcome in outcomes:
        if isinstance(outcome, Failure):
            failures.append(outcome)
        else:
            yield from (photo for photo in outcome if photo.id not in done)


def _summary(found: inversion.Inversion, i: int) -> str:
    m = found.metrics
    forms = {"lpips_vgg": "LPIPS-VGG {:.3f}", "psnr": "PSNR {:.1f} dB", "id": "ID {:.2f}"}
    parts = [form.format(m[name][i]) for name, form in forms.items() if name in m]
    if "sncd_z" in m:
        parts.append(f"layers' z-scores {m['sncd_z'][i].min():.1f} .. {m['sncd_z'][i].max():.1f}")
    return ", ".join(parts) or "done"


def _show_fit(done: int) -> None:
    total = preconditioner.PROBES
    end = "\n" if done == total else ""
    print(f"\rthe optimiser's coordinates of this generator, once: {done}/{total}   ", end=end, file=sys.stderr)
    sys.stderr.flush()


def _show_progress(label: str, step: int, total: int, loss: np.ndarray, seconds: float) -> None:
    rate = step / seconds if seconds > 0.01 else 0.0  # no time has passed when the first call returns
    left = f"{(total - step) / rate:.0f} s left" if rate else "compiled"
    print(
        f"\r{label} step {step}/{total}  loss {np.nanmean(loss):.4f}  {rate:.2f} steps/s  {left}   ",
        end="",
        file=sys.stderr,
    )
    sys.stderr.flush()


def _show_rate(label: str, done: float, total: float, left_out: float, seconds: float) -> None:
    rate = done / seconds if seconds > 0.01 else 0.0
    left = f"{(total - done) / rate:.0f} s left" if rate else "starting"
    end = "\n" if done == total else ""
    print(
        f"\r{label}{done}/{total} photos, {left_out} left out  {rate:.2f} photos/s  {left}   ", end=end, file=sys.stderr
    )
    sys.stderr.flush()


def _write_failures(out: pathlib.Path, failures: list[Failure]) -> None:
    path = out / "failures.json"
    if failures:
        listed = [{"file": failure.source, "reason": failure.reason} for failure in failures]
        store.write_atomically(path, json.dumps(listed, indent=2).encode())
    else:
        path.unlink(missing_ok=True)
