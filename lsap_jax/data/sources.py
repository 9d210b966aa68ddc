"""Image sets of any size as ordered lists of entries, read when they are needed.

    source = open_source("photos/")            # or one file, or "tfds:NAME[:SPLIT]"
    for entry in source.entries(1000, 2000):
        pixels = entry.read()

The order is the same on every host. Memory does not grow with the set: the names of a folder are sorted in pieces and
kept in a temporary file.
"""

import contextlib
import functools
import hashlib
import heapq
import itertools
import json
import os
import pathlib
import re
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from lsap_jax.data import images
from lsap_jax.errors import ConfigError, ImageError

_AT_ONCE = 100_000  # names sorted in memory
_STRIDE = 1_000  # names between marks


class Entry(NamedTuple):
    """One image of a set.

    Attributes:
      id: names its results; different for every entry of a set.
      source: where it lies, for people.
      name: path below the folder, with "/".
      read: -> (H, W, 3) uint8; raises ImageError if it cannot be used.
    """

    id: str
    source: str
    name: str
    read: Callable[[], np.ndarray]


class Source(Protocol):
    """An ordered set of images.

    Attributes:
      name: as the user gave it.
      count: how many entries.
      digest: 16 hex digits that identify the entries' names and their order.
    """

    name: str
    count: int
    digest: str

    def entries(self, start: int, stop: int) -> Iterator[Entry]:
        """Entries start, ..., stop - 1."""
        ...


def open_source(name: str | os.PathLike) -> Source:
    """A folder, one image file, or `tfds:NAME[:VERSION][:SPLIT]`.

    Raises:
      ImageError: if there is no such file or folder, or no image in it.
      ConfigError: if there is no such prepared data set, or its reader is not installed.
    """
    source = str(name)
    return Tfds(source) if source.startswith("tfds:") else Folder(source)


class Folder:
    """The image files of a folder and the folders in it, in the order of `images.list_images`; or one file."""

    def __init__(self, root: str | os.PathLike):
        """Lists the folder."""
        self.name = os.fspath(root)
        self._root = pathlib.Path(root)
        if not self._root.is_file() and not self._root.is_dir():
            raise ImageError(f"{root}: no such file or folder")
        names = iter([""]) if self._root.is_file() else _sorted(_walk(self._root))
        self._list = tempfile.TemporaryFile(prefix="lsap-list-")  # noqa: SIM115, lives as long as the source
        weakref.finalize(self, self._list.close)
        self._reading = threading.Lock()  # of the file's position
        self._marks: list[int] = []  # where every _STRIDE-th name begins
        digest = hashlib.blake2b(digest_size=8)
        self.count = 0
        for name in names:
            if self.count % _STRIDE == 0:
                self._marks.append(self._list.tell())
            line = json.dumps(name).encode() + b"\n"  # in ASCII, whatever stands in a file's name
            self._list.write(line)
            digest.update(line)
            self.count += 1
        self.digest = digest.hexdigest()
        if not self.count:
            raise ImageError(f"{root}: no images in this folder; looked for {' '.join(images.EXTENSIONS)}")

    def entries(self, start: int, stop: int) -> Iterator[Entry]:
        """Entries start, ..., stop - 1."""
        stop = min(stop, self.count)
        if start >= stop:
            return
        first = start // _STRIDE
        position = self._marks[first]
        for index in range(first * _STRIDE, stop):
            with self._reading:
                self._list.seek(position)
                line = self._list.readline()
                position = self._list.tell()
            if index >= start:
                path = self._root / json.loads(line)
                name, image_id = images.name_below(path, self._root), images.image_id(path, self._root)
                yield Entry(image_id, str(path), name, functools.partial(images.read, path))


class Tfds:
    """A prepared data set of TensorFlow Datasets in ArrayRecord files; TensorFlow is not needed and not imported."""

    def __init__(self, source: str):
        """Opens `tfds:NAME[:VERSION][:SPLIT]`; the split is "train" by default."""
        self.name = source
        name, *rest = source.removeprefix("tfds:").split(":")
        if rest and re.fullmatch(r"[\d.]+", rest[0]):
            name = f"{name}:{rest.pop(0)}"
        split = ":".join(rest) or "train"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of packages that it imports
                import tensorflow_datasets as tfds
        except ImportError as error:
            raise ConfigError(f"{source}: needs packages of its own: pip install 'lsap_jax[tfds]' ({error})") from None
        try:
            builder = tfds.builder(name)
            self._records: Any = builder.as_data_source(split=split)
        except Exception as error:  # tfds raises many kinds of its own
            reason = str(error).strip().splitlines()
            raise ConfigError(
                f"{source}: cannot be read as a prepared data set ({reason[0] if reason else type(error).__name__}); "
                "prepare it with file_format='array_record', and set TFDS_DATA_DIR to the folder that it lies in"
            ) from None
        self.count = len(self._records)
        self._label = re.sub(r"[^\w.-]", "-", f"{builder.info.full_name}-{split}")
        self.digest = hashlib.blake2b(f"{self._label} {self.count}".encode(), digest_size=8).hexdigest()

    def entries(self, start: int, stop: int) -> Iterator[Entry]:
        """Entries start, ..., stop - 1."""
        for index in range(start, min(stop, self.count)):
            where = f"{self.name}#{index}"
            yield Entry(f"{self._label}-{index:08d}", where, str(index), functools.partial(self._read, index, where))

    def _read(self, index: int, where: str) -> np.ndarray:
        try:
            record = self._records[index]
        except Exception as error:
            raise ImageError(f"{where}: a damaged record ({error})") from error
        pixels = np.asarray(record["image"]) if "image" in record else np.zeros((0, 0, 0))
        if pixels.ndim == 3 and pixels.shape[-1] == 1:
            pixels = np.repeat(pixels, 3, -1)
        if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.shape[-1] != 3:
            raise ImageError(f"{where}: the record has no feature 'image' with 8 bits and one or three colours")
        height, width, _ = pixels.shape
        if min(height, width) < images.SMALLEST_SIDE:
            raise ImageError(f"{where}: an image of {width} x {height} pixels is too small")
        return pixels


def _walk(root: pathlib.Path) -> Iterator[str]:
    """Names below `root` of what `images.list_images` lists, in no order."""
    folders = [""]
    while folders:
        below = folders.pop()
        with os.scandir(root / below) as found:
            for item in found:
                if item.name.startswith("."):
                    continue
                if item.is_dir(follow_symlinks=False):
                    folders.append(f"{below}{item.name}/")
                elif os.path.splitext(item.name)[1].lower() in images.EXTENSIONS and item.is_file():
                    yield below + item.name


def _sorted(names: Iterator[str]) -> Iterator[str]:
    """External sort: pieces that fit in memory, each sorted into a file, then merged."""
    with contextlib.ExitStack() as pieces:
        sorted_names = []
        while piece := sorted(itertools.islice(names, _AT_ONCE), key=_parts):
            file = pieces.enter_context(tempfile.TemporaryFile("w+", prefix="lsap-list-"))
            file.writelines(json.dumps(name) + "\n" for name in piece)
            file.seek(0)
            sorted_names.append(map(json.loads, file))
        yield from heapq.merge(*sorted_names, key=_parts)


def _parts(name: str) -> list[str]:
    return name.split("/")  # the order of pathlib: a folder's files before those of "folder-b"
