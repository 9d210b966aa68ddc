"""Results on disk: one folder per image, whole or absent.

    OUT/settings.json                what made them; a folder takes results of one setting only
    OUT/images/ID/latents.npz        ws, noise where optimised, and what identifies the generator
    OUT/images/ID/metrics.json       numbers about the reconstruction
    OUT/images/ID/target.png         the aligned photo
    OUT/images/ID/inversion.png      its reconstruction

Results of big sets lie in shards instead of OUT/images: `lsap_jax.data.shards`. `read_store` reads both.

An image's folder is written under a temporary name and then renamed, so a folder that exists is finished and
a command that was killed goes on with the images that have none.
"""

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.data import shards
from lsap_jax.errors import ResultError

_PARTIAL = ".partial-"


class Record(NamedTuple):
    """One image of a results folder.

    Attributes:
      id: its name.
      source: where the photo came from; "" where that was not written down.
      ws: (num_ws, w_dim) its code.
      metrics: {name: number, or list of one for each layer}.
    """

    id: str
    source: str
    ws: np.ndarray
    metrics: dict[str, Any]


def open_folder(
    out: str | os.PathLike, settings: Mapping[str, Any], inside: Literal["images", "shards"] = "images"
) -> pathlib.Path:
    """Make OUT ready for results of `settings`, or go on with it.

    Leftovers of a killed run are removed.

    Args:
      out: the results folder.
      settings: what makes the results.
      inside: the folder in it for results of one image each, or for `shards`.

    Raises:
      ResultError: if OUT cannot be written, or holds results of other settings.
    """
    out = pathlib.Path(out)
    path = out / "settings.json"
    settings = json.loads(json.dumps(settings))
    try:
        (out / inside).mkdir(parents=True, exist_ok=True)
        if path.exists():
            known = read_settings(out)
            names = (settings.keys() | known.keys()) - {"versions"}  # a new patch release may finish an old folder
            changed = sorted(k for k in names if settings.get(k) != known.get(k))
            if changed:
                field = changed[0]
                if field == "store" and known.get(field) and settings.get(field):
                    raise ResultError(
                        f"{out} holds {_stored(known[field])}, and this command has "
                        f"{_stored(settings[field])}: give the same images and shard_size, or another --out"
                    )
                raise ResultError(
                    f"{out} holds results made with {field}={known.get(field)!r}, and this command has "
                    f"{settings.get(field)!r}: give another --out, or remove that folder"
                )
        else:
            store.write_atomically(path, json.dumps(settings, indent=2).encode())
        if inside == "images":  # a folder of shards may be shared by processes that write at this moment
            for leftover in (out / inside).glob(f"{_PARTIAL}*"):
                shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=out / inside, prefix=_PARTIAL):
            pass
    except OSError as error:
        raise ResultError(f"{out} cannot be written ({error}): give another --out") from error
    return out


def _stored(record: Mapping[str, Any]) -> str:
    return f"a set of {record['entries']} images (list {record['list']}) in shards of {record['shard_size']}"


def read_settings(out: str | os.PathLike) -> dict[str, Any]:
    """The settings that a results folder was made with.

    Raises:
      ResultError: if the folder is not one of ours.
    """
    path = pathlib.Path(out) / "settings.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ResultError(f"{out} is no results folder: it has no settings.json; `invert --out` makes one") from None
    except ValueError as error:
        raise ResultError(f"{path} is damaged ({error}): restore it or invert into a new folder") from error


def finished(out: str | os.PathLike) -> list[str]:
    """The ids of the images that are done, sorted."""
    images = pathlib.Path(out) / "images"
    return sorted(p.name for p in images.iterdir() if not p.name.startswith(".")) if images.is_dir() else []


def write(
    out: str | os.PathLike,
    image_id: str,
    latents: store.Tree,
    meta: Mapping[str, Any],
    metrics: Mapping[str, Any],
    pictures: Mapping[str, bytes],
) -> pathlib.Path:
    """Write one image's results, all or nothing; an existing result of this id is replaced.

    Args:
      out: the results folder.
      image_id: name of the image's folder: no separators, not starting with a dot.
      latents: arrays for `latents.npz`.
      meta: its description.
      metrics: for `metrics.json`.
      pictures: {file name: PNG bytes}.

    Raises:
      ResultError: if the folder cannot be written.
    """
    images = pathlib.Path(out) / "images"
    if not image_id or image_id.startswith(".") or pathlib.PurePath(image_id).name != image_id:
        raise ResultError(f"image id {image_id!r} cannot name a folder")
    try:
        images.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(dir=images, prefix=_PARTIAL))
        partial.chmod(0o755)
        store.save(partial / "latents.npz", latents, dict(meta))
        store.write_atomically(partial / "metrics.json", json.dumps(metrics, indent=2).encode())
        for name, png in pictures.items():
            store.write_atomically(partial / name, png)
        final = images / image_id
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
    except OSError as error:
        raise ResultError(
            f"{images / image_id} cannot be written ({error}): free space or give another --out"
        ) from error
    return final


def read(out: str | os.PathLike, image_id: str) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """One image's (latents, their description, metrics).

    Raises:
      ResultError: if there is no such image.
      CheckpointError: if its latents are damaged.
    """
    folder = pathlib.Path(out) / "images" / image_id
    if not folder.is_dir():
        known = finished(out)
        raise ResultError(f"{out} has no image {image_id!r}; it has {', '.join(known[:10]) or 'none'}")
    latents, meta = store.load(folder / "latents.npz")
    return latents, meta, json.loads((folder / "metrics.json").read_text())


def read_store(out: str | os.PathLike) -> Iterator[Record]:
    """The finished images of a results folder, one by one: of folders sorted by id, of shards in the set's order.

    No more than one shard is held in memory.

    Raises:
      ResultError: if the folder is not one of ours.
      CheckpointError: if a file is damaged.
    """
    read_settings(out)
    for image_id in finished(out):
        latents, _, metrics = read(out, image_id)
        yield Record(image_id, str(metrics.get("source", "")), latents["ws"], metrics)
    for path in shards.files(out):
        shard = shards.read(path)
        for i, image_id in enumerate(shard.ids):
            metrics = {name: value[i].tolist() for name, value in shard.metrics.items()}
            yield Record(image_id, shard.sources[i], shard.ws[i], metrics)
