"""From entries of a set to aligned photos, read ahead on threads.

prepare = Preparation(size=1024)
for entry, outcome in ahead(prepare, source.entries(0, 100)):
    ...                                     # a list of Photo, or the Failure of this entry
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from lsap_jax import pretrained
from lsap_jax.data import faces
from lsap_jax.data.sources import Entry
from lsap_jax.errors import ConfigError, FaceError, ImageError

WHICH = ("largest", "all", "aligned")
T = TypeVar("T")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Photo:
    """One aligned face, ready to be inverted.

    Attributes:
      id: name of its results.
      source: where it came from.
      image: (R, R, 3) uint8 at the generator's resolution R.
      notes: what was done to it.
    """

    id: str
    source: str
    image: np.ndarray
    notes: tuple[str, ...]


class Failure(NamedTuple):
    """An entry that cannot be used.

    Attributes:
      id: the name that its results would have.
      source: where it lies.
      reason: why not.
    """

    id: str
    source: str
    reason: str


class Preparation:
    """Reads an entry and cuts out its face or faces; may be called from several threads.

    Attributes:
      size: side of the results in pixels: the generator's resolution.
      which: "largest" aligns the largest face of each photo, "all" every face, "aligned" takes photos as aligned.
      landmarks: {entry name: its faces}, in place of detection.
    """

    def __init__(self, size: int, which: str = "largest", landmarks: Mapping[str, list[np.ndarray]] | None = None):
        """Raises ConfigError if `which` is unknown."""
        if which not in WHICH:
            raise ConfigError(f"config.invert.faces={which!r}: use 'largest', 'all' or 'aligned'")
        self.size, self.which, self.landmarks = size, which, landmarks or {}
        self._detector: Any = None
        self._fetching = threading.Lock()

    def __call__(self, entry: Entry) -> list[Photo] | Failure:
        """The entry's photos, at least one; or why it has none."""
        try:
            pixels = entry.read()
            if self.which == "aligned":
                found = [_taken_as_aligned(pixels, self.size)]
            else:
                given = self.landmarks.get(entry.name)
                detector = self._mtcnn() if given is None else None
                found = faces.faces_of(pixels, detector, which=self.which, size=self.size, landmarks=given)
        except (ImageError, FaceError) as error:
            return Failure(entry.id, entry.source, str(error))
        several = self.which == "all"
        return [
            Photo(f"{entry.id}-face{index}" if several else entry.id, entry.source, face.image, face.notes)
            for index, face in enumerate(found)
        ]

    def _mtcnn(self) -> Any:
        with self._fetching:
            if self._detector is None:
                self._detector = pretrained.load("mtcnn")[0]
            return self._detector


def ahead(function: Callable[[T], R], items: Iterable[T], threads: int = 0, most: int = 16) -> Iterator[tuple[T, R]]:
    """`function` of every item on threads, in the order of the items.

    Args:
      function: what to compute.
      items: taken only as they are needed.
      threads: how many; one for each processor, at most 8, by default.
      most: results that wait to be taken, at most.

    Yields:
      (item, function(item)); what the function raises is raised here.
    """
    threads = threads or min(8, os.cpu_count() or 1)
    items = iter(items)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting = collections.deque((item, pool.submit(function, item)) for item in itertools.islice(items, most))
        try:
            while waiting:
                item, future = waiting.popleft()
                result = future.result()
                waiting.extend((more, pool.submit(function, more)) for more in itertools.islice(items, 1))
                yield item, result
        finally:
            for _, future in waiting:
                future.cancel()


def _taken_as_aligned(pixels: np.ndarray, size: int) -> faces.AlignedFace:
    height, width = pixels.shape[:2]
    if height != width:
        raise ImageError(
            f"it is {width} x {height} and config.invert.faces='aligned' takes square crops: crop it, or use 'largest'"
        )
    if height != size:
        pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS))
    return faces.AlignedFace(pixels, np.zeros((0, 2)), ("taken as aligned",))
