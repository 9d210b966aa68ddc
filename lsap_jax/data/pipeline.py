"""Batches of images for training and evaluation, from folders, TFDS, or rendered samples.

    batches = train_batches("folder:faces/", resolution=256, batch_size=16, seed=0, flip=True, G=G)
    batch = next(batches)        # {"image": (b, R, R, 3) uint8, "ws": (b, num_ws, w_dim), "has_ws": (b,) bool}
    position = batches.get_state()

| source                  | what                                                                                   |
| ----------------------- | -------------------------------------------------------------------------------------- |
| `folder:PATH`           | square image files of a folder and the folders in it                                   |
| `tfds:NAME[:SPLIT]`     | a prepared data set of TensorFlow Datasets; see `lsap_jax.data.sources`                |
| `samples:DIR`           | samples of this generator, of `tools/render_samples.py`; the only ones with codes      |

Photos must be aligned beforehand (`tools/align_faces.py`): an image that is not square is left out, not cropped.

Which images make global batch k, and how they are mirrored, depends on the data, the seed and k alone. A host of
`process_count` reads its own slice, and the slices of all hosts, in the order of `process_index`, are the global batch.
Grain (https://github.com/google/grain) shuffles and reads ahead, on threads; TensorFlow is never imported.
"""

import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from absl import logging
from PIL import Image

from lsap_jax.data import images as image_files
from lsap_jax.data import sources
from lsap_jax.data.samples import Samples
from lsap_jax.errors import ConfigError, ImageError
from lsap_jax.generators.base import Generator

Batch = dict[str, np.ndarray]
Item = dict[str, Any]  # one image of a batch
_AHEAD = 4  # batches read ahead
_MOST_SUBSTITUTES = 100  # unreadable images in a row


class Records(Protocol):
    """An ordered set of square images, read by number from any thread.

    Attributes:
      name: as the user gave it.
      digest: identifies the images and their order, so that a position in one set is not used in another.
      has_ws: whether their codes are known.
      problems: {image: why it is left out}, as far as opening the set could tell.
    """

    name: str
    digest: str
    has_ws: bool
    problems: dict[str, str]

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """((S, S, 3) uint8, (num_ws, w_dim) float32 or None); raises ImageError."""
        ...


def open_records(source: str, G: Generator) -> Records:
    """Open a source as the table above has them.

    Raises:
      ImageError: if there is nothing at that place, or no image that can be used.
      ConfigError: if the source is of no known kind, its reader is not installed, or its samples are another
        generator's.
    """
    kind, _, place = source.partition(":")
    if not place or kind not in ("folder", "tfds", "samples"):
        raise ConfigError(f"data source {source!r}: use 'folder:PATH', 'tfds:NAME[:SPLIT]' or 'samples:DIR'")
    if kind == "folder":
        return _Folder(source, place)
    return _Tfds(source) if kind == "tfds" else _Rendered(source, place, G)


class Batches:
    """Endless batches of one host, whose position can be kept and taken up again, bit for bit.

    Attributes:
      records: the images.
    """

    def __init__(self, records: Records, dataset: Any, options: Any, described: dict[str, Any]):
        self.records = records
        self._described = described
        self._iterator = iter(dataset.to_iter_dataset(options))

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """The position, of plain JSON values; the same on every host."""
        return {**self._described, **self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a position.

        Raises:
          ConfigError: if it is a position in other data, or in another order of them.
        """
        for field, value in self._described.items():
            if state.get(field) != value:
                raise ConfigError(
                    f"{self.records.name}: the position was kept with {field}={state.get(field)!r}, and now it is "
                    f"{value!r}: bring back the data and settings of that run, or start a new one"
                )
        self._iterator.set_state({key: value for key, value in state.items() if key not in self._described})


def train_batches(
    source: str,
    *,
    resolution: int,
    batch_size: int,
    seed: int,
    flip: bool,
    G: Generator,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Shuffled images without end; every epoch has an order of its own.

    An image that turns out unreadable while it is read is replaced by the next one of the set, with a warning.

    Args:
      source: see the module.
      resolution: side of the images in pixels; larger ones are shrunk by antialiased resampling.
      batch_size: of all hosts together.
      seed: of order and mirroring.
      flip: mirror every other image, at random, where no code is known.
      G: the generator, for the shape of codes and to check samples.
      process_index: of this host.
      process_count: number of hosts.

    Raises:
      ImageError, ConfigError: as `open_records`; or if `batch_size` does not divide over the hosts.
    """
    grain = _grain()
    local = _local(batch_size, process_count)
    records = open_records(source, G)
    _check_size(records, resolution)
    mirroring = flip and not records.has_ws

    def load(index: int, random: np.random.Generator) -> Item:
        for step in range(min(_MOST_SUBSTITUTES, len(records))):
            try:
                item = _load(records, (index + step) % len(records), resolution, G)
            except ImageError as error:
                logging.warning("%s: another image is taken instead (%s)", source, error)
                continue
            if mirroring and random.random() < 0.5:
                item["image"] = item["image"][:, ::-1]
            return item
        raise ImageError(f"{source}: {_MOST_SUBSTITUTES} images in a row cannot be read; see the warnings before this")

    dataset = grain.MapDataset.source(range(len(records))).seed(seed).shuffle().repeat().random_map(load)
    dataset = dataset.batch(local)[process_index::process_count]
    described = {"digest": records.digest, "seed": seed, "batch_size": batch_size}
    return Batches(records, dataset, _read_options(grain), described)


def eval_batches(
    source: str,
    *,
    resolution: int,
    batch_size: int,
    limit: int,
    G: Generator,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """The first images of a source, in order.

    Every batch is full: the last one is padded, and all hosts get equally many. Besides the fields of training batches
    there is "mask" (b,) bool, False for padding and for images that cannot be read, so that means over true entries
    depend neither on the batch size nor on the number of hosts.

    Args:
      source: see the module.
      resolution: side of the images in pixels.
      batch_size: of all hosts together.
      limit: how many images at most.
      G: the generator.
      process_index: of this host.
      process_count: number of hosts.

    Raises:
      ImageError, ConfigError: as `train_batches`.
    """
    grain = _grain()
    local = _local(batch_size, process_count)
    records = open_records(source, G)
    _check_size(records, resolution)
    count = min(limit, len(records))
    if count < 1:
        raise ConfigError(f"limit={limit}: an evaluation needs at least one image")
    nothing = {
        "image": np.zeros((resolution, resolution, 3), np.uint8),
        "ws": np.zeros((G.num_ws, G.w_dim), np.float32),
        "has_ws": np.bool_(False),
    }

    def load(index: int) -> Item:
        if index < count:
            try:
                return {**_load(records, index, resolution, G), "mask": np.bool_(True)}
            except ImageError as error:
                logging.warning("%s: an image is left out of the evaluation (%s)", source, error)
        return {**nothing, "mask": np.bool_(False)}

    padded = -(-count // batch_size) * batch_size
    dataset = grain.MapDataset.source(range(padded)).map(load).batch(local)[process_index::process_count]
    return iter(dataset.to_iter_dataset(_read_options(grain)))


class _Folder:
    """Image files; which of them are square is read from their headers when the folder is opened."""

    has_ws = False

    def __init__(self, name: str, root: str):
        self.name = name
        self.problems: dict[str, str] = {}
        self._paths: list[str] = []
        digest = hashlib.blake2b(digest_size=8)
        try:
            found = image_files.list_images(root)
        except ImageError as error:
            raise ImageError(f"{error}. Put aligned, square photos there (tools/align_faces.py makes them)") from None
        for path in found:
            reason = _header_problem(path)
            if reason:
                self.problems[str(path)] = reason
                logging.warning("%s: left out: %s", path, reason)
            else:
                self._paths.append(str(path))
                digest.update(image_files.name_below(path, root).encode(errors="surrogateescape") + b"\0")
        if not self._paths:
            path, reason = next(iter(self.problems.items()))
            raise ImageError(f"{root}: none of {len(found)} images can be used; the first is {path}: {reason}")
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> tuple[np.ndarray, None]:
        return image_files.read(self._paths[index]), None


class _Tfds:
    """A prepared data set; its images are looked at as they are read."""

    has_ws = False

    def __init__(self, name: str):
        self.name = name
        self.problems: dict[str, str] = {}
        self._source = sources.open_source(name)
        self.digest = self._source.digest
        for index in range(min(len(self), 8)):  # a set of images that are not square is refused at once
            try:
                _check_square(self.read(index)[0])
                return
            except ImageError as error:
                self.problems[f"{name}#{index}"] = str(error)
        reason = next(iter(self.problems.values()), "it is empty")
        raise ImageError(f"{name}: none of its first images can be used: {reason}")

    def __len__(self) -> int:
        return self._source.count

    def read(self, index: int) -> tuple[np.ndarray, None]:
        (entry,) = self._source.entries(index, index + 1)
        return entry.read(), None


class _Rendered:
    """Samples of the generator in use."""

    has_ws = True

    def __init__(self, name: str, folder: str, G: Generator):
        self.name = name
        self.problems: dict[str, str] = {}
        self._samples = Samples(folder, G.fingerprint)
        described = json.dumps({**self._samples.meta, "count": len(self._samples)}, sort_keys=True)
        self.digest = hashlib.blake2b(described.encode(), digest_size=8).hexdigest()
        self.resolution = int(self._samples.meta["resolution"])

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        item = self._samples[index]
        return item["image"], item["ws"]


def _check_size(records: Records, resolution: int) -> None:
    if isinstance(records, _Rendered) and records.resolution % resolution:
        raise ConfigError(
            f"{records.name}: its samples have {records.resolution} pixels, and {resolution} are wanted: render them "
            f"with tools/render_samples.py --resolution {resolution}"
        )


def _load(records: Records, index: int, resolution: int, G: Generator) -> Item:
    pixels, ws = records.read(index)
    _check_square(pixels)
    known = ws is not None
    return {
        "image": _resized(pixels, resolution),
        "ws": ws if known else np.zeros((G.num_ws, G.w_dim), np.float32),
        "has_ws": np.bool_(known),
    }


def _check_square(pixels: np.ndarray) -> None:
    height, width = pixels.shape[:2]
    if height != width:
        raise ImageError(_not_square(width, height))


def _not_square(width: int, height: int) -> str:
    return f"it is {width} x {height} pixels; training takes square crops: align it with tools/align_faces.py"


def _header_problem(path: pathlib.Path) -> str:
    """Why an image file cannot be used, as far as its first bytes tell; "" if nothing is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path) as image:
                width, height = image.size
    except Exception as error:  # Pillow raises nearly anything on malformed files
        return f"not a readable image ({type(error).__name__})"
    if width != height:
        return _not_square(width, height)
    if width < image_files.SMALLEST_SIDE:
        return f"it is {width} x {height} pixels, too small"
    return ""


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """Box means for whole factors, otherwise a triangle filter that widens with the factor."""
    factor, rest = divmod(len(pixels), side)
    if (factor, rest) == (1, 0):
        return pixels
    image = Image.fromarray(pixels)
    if factor and not rest:
        return np.asarray(image.reduce(factor))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _local(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise ConfigError(f"batch_size={batch_size} does not divide over {process_count} hosts: use a multiple")
    return batch_size // process_count


def _read_options(grain: Any) -> Any:
    return grain.ReadOptions(num_threads=min(_AHEAD, os.cpu_count() or 1), prefetch_buffer_size=_AHEAD)


def _grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise ConfigError(f"reading training images needs a package: pip install 'lsap_jax[train]' ({error})") from None
    return grain
