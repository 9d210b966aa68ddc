"""Results on disk: one folder per image, whole or absent.

    OUT/settings.json                what made them; a folder takes results of one setting only
    OUT/images/ID/latents.npz        ws, noise where optimised, and what identifies the generator
    OUT/images/ID/metrics.json       numbers about the reconstruction
    OUT/images/ID/target.png         the aligned photo
    OUT/images/ID/inversion.png      its reconstruction

An image's folder is written under a temporary name and then renamed, so a folder that exists is finished and
a command that was killed goes on with the images that have none.
"""

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.errors import ResultError

_PARTIAL = ".partial-"


def open_folder(out: str | os.PathLike, settings: Mapping[str, Any]) -> pathlib.Path:
    """Make OUT ready for results of `settings`, or go on with it.

    Leftovers of a killed run are removed.

    Raises:
      ResultError: if OUT cannot be written, or holds results of other settings.
    """
    out = pathlib.Path(out)
    path = out / "settings.json"
    settings = json.loads(json.dumps(settings))
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
        if path.exists():
            known = read_settings(out)
            names = (settings.keys() | known.keys()) - {"versions"}  # a new patch release may finish an old folder
            changed = sorted(k for k in names if settings.get(k) != known.get(k))
            if changed:
                field = changed[0]
                raise ResultError(
                    f"{out} holds results made with {field}={known.get(field)!r}, and this command has "
                    f"{settings.get(field)!r}: give another --out, or remove that folder"
                )
        else:
            store.write_atomically(path, json.dumps(settings, indent=2).encode())
        for leftover in (out / "images").glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=out / "images", prefix=_PARTIAL):
            pass
    except OSError as error:
        raise ResultError(f"{out} cannot be written ({error}): give another --out") from error
    return out


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
