"""Codes with scores: measured on the generator's own samples, or read from a table."""

import csv
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.data import samples
from lsap_jax.errors import ConfigError, ResultError
from lsap_jax.generators.base import Generator

_SHARD = 256  # samples of one file


class Attributes(Protocol):
    """What measures images: `lsap_jax.metrics.attributes`, or anything alike."""

    @property
    def names(self) -> Sequence[str]:
        """K of them."""
        ...

    def __call__(self, images: jax.Array) -> np.ndarray:
        """(B, H, W, 3) in [-1, 1] -> (B, K), NaN where something cannot be measured."""
        ...


def read_scores(path: str | os.PathLike, names: Sequence[str] | None = None) -> np.ndarray:
    """Scores of a CSV file with a header: columns `index,score`, from 0, or `name,score`.

    Args:
      path: the file.
      names: of a `name,score` file, in which order the scores are wanted; the file's by default.

    Returns:
      (N,) float64: score i belongs to index i, or to name i.

    Raises:
      ConfigError: if the file cannot be read, a column is missing, a score is no finite number (its row is named, the
        header being row 1), an index or name is missing, or occurs twice.
    """
    path = pathlib.Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [title.strip().lower() for title in next(reader, [])]
            lines = [(reader.line_num, line) for line in reader if any(cell.strip() for cell in line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as CSV ({error})") from error
    key = next((title for title in ("index", "name") if title in header), None)
    if key is None or "score" not in header:
        raise ConfigError(f"{path}: its first row must name the columns, 'index,score' or 'name,score'; it is {header}")
    found: dict[str, float] = {}
    for number, line in lines:
        cells = dict(zip(header, (cell.strip() for cell in line), strict=False))
        label, text = cells.get(key, ""), cells.get("score", "")
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise ConfigError(
                f"{path}, row {number}: the score {text!r} of {label!r} is not a number: leave the row out"
            )
        if key == "index" and not label.isdecimal():
            raise ConfigError(f"{path}, row {number}: the index {label!r} is no whole number from 0")
        label = str(int(label)) if key == "index" else label
        if label in found:
            raise ConfigError(f"{path}, row {number}: {key} {label!r} occurs twice")
        found[label] = score
    if not found:
        raise ConfigError(f"{path}: no scores in it")
    wanted = [str(i) for i in range(len(found))] if key == "index" else list(found if names is None else names)
    missing = [label for label in wanted if label not in found]
    if missing:
        raise ConfigError(f"{path}: no score for {key} {missing[0]!r} ({len(missing)} of {len(wanted)} are missing)")
    return np.array([found[label] for label in wanted])


def measure(
    G: Generator,
    attributes: Attributes,
    count: int,
    seed: int = 0,
    truncation: float = 1.0,
    batch: int = 8,
    *,
    resolution: int | None = None,
    folder: str | os.PathLike | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of random samples, and what is measured on their images.

    Sample i depends on seed and i alone. With a folder every 256 samples are written there, and the same call goes on
    after the last that were; a larger count goes on too.

    Args:
      G: the generator; its stored noise is used.
      attributes: images (B, H, W, 3) -> (B, K), with `names`.
      count: of samples.
      seed: of the draw.
      truncation: psi.
      batch: images rendered together.
      resolution: side of the images that are measured, in pixels; all of the generator's by default.
      folder: where to keep shards.
      progress: called with (samples done, count).

    Returns:
      codes (count, w_dim) float32 and scores (count, K) float32.

    Raises:
      ConfigError: if the resolution cannot be rendered, or the attributes do not measure (B, K).
      ResultError: if the folder cannot be written or holds other measurements.
    """
    if count < 1 or batch < 1:
        raise ConfigError(f"{count} samples in batches of {batch}: both are at least 1")
    about = {
        "kind": "measured samples",
        "fingerprint": G.fingerprint,
        "seed": seed,
        "truncation": truncation,
        "resolution": resolution or G.resolution,
        "names": list(attributes.names),
    }
    where = None if folder is None else pathlib.Path(folder)
    parts = []
    for start in range(0, count, _SHARD):
        file = None if where is None else where / f"measured-{start // _SHARD:05d}.npz"
        stop = start + _SHARD if file else min(start + _SHARD, count)  # shards are whole, so that a longer run fits on
        if file and file.exists():
            tree, meta = store.load(file)
            if {key: meta.get(key) for key in about} != about:
                raise ResultError(f"{file}: holds other measurements ({meta}); choose another folder, or delete it")
        else:
            tree = _measured(G, attributes, range(start, stop), seed, truncation, batch, about["resolution"])
            if file:
                try:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    store.save(file, tree, about)
                except OSError as error:
                    raise ResultError(f"{file}: cannot be written ({error})") from error
        parts.append(tree)
        if progress:
            progress(min(stop, count), count)
    codes, scores = (np.concatenate([part[key] for part in parts])[:count] for key in ("w", "scores"))
    return codes, scores


def _measured(G, attributes, indices, seed, truncation, batch, resolution):
    """{"w": (n, w_dim), "scores": (n, K)} of some samples."""
    settings, codes, scores = samples.Settings((truncation, truncation), 0.0), [], []
    for at in range(indices.start, indices.stop, batch):
        here = min(batch, indices.stop - at)
        ws = samples.numbered(G, jax.random.key(seed), jnp.arange(at, at + batch), settings)
        found = np.asarray(attributes(samples.render(G, ws, resolution, exact=resolution == G.resolution)), np.float32)
        if found.shape != (batch, len(attributes.names)):
            raise ConfigError(f"the attributes gave {found.shape} for {batch} images and {len(attributes.names)} names")
        codes.append(np.asarray(ws[:here, 0]))
        scores.append(found[:here])
    return {"w": np.concatenate(codes), "scores": np.concatenate(scores)}
