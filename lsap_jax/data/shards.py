"""Results of big sets on disk: shards of a fixed number of images, and a manifest.

    OUT/settings.json                              what made them, and which list of images; one of each
    OUT/shards/part-00000-of-00004/
        pieces/0000000040-8.npz                    entries 40 .. 47 of an unfinished shard
        shard-00042.npz                            a finished shard
        manifest.json                              of a finished part
    OUT/manifest.json                              of the whole set, joined by `merge`

Shard g holds entries g S, ..., (g + 1) S - 1 of the ordered list, S the shard size, and part I of N is a stretch of
whole shards: a shard's bytes are the same however many parts there are, and no part needs to know of another. Every
file appears whole or not at all, so a run that was killed goes on after the last finished piece. Nothing in a file
depends on when, or how often, it was tried.

A manifest is JSON with one line for each shard, so that it can be written, joined and read without being held in
memory.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.data.photos import Failure
from lsap_jax.errors import CheckpointError, ResultError

FOLDER = "shards"
MANIFEST = "manifest.json"
_SHARD, _END = '{"shard":', "],"


@dataclasses.dataclass
class Shard:
    """Results of a stretch of the list: a shard, or a piece of one.

    Attributes:
      first: its first entry.
      entries: how many entries it covers.
      ids: of the n images; an entry may have none, or several faces.
      sources: where each came from.
      notes: what was done to each.
      ws: (n, num_ws, w_dim) float32 the codes.
      metrics: {name: (n, ...) float32}.
      failures: entries that could not be used.
      settings: what made it.
    """

    first: int
    entries: int
    ids: list[str]
    sources: list[str]
    notes: list[list[str]]
    ws: np.ndarray
    metrics: dict[str, np.ndarray]
    failures: list[Failure]
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """Part `index` of `count` of a set.

    Attributes:
      out: the results folder.
      index: from 0.
      count: how many parts there are.
      entries: of the whole list.
      shard_size: entries of a shard.
    """

    out: pathlib.Path
    index: int
    count: int
    entries: int
    shard_size: int

    @property
    def folder(self) -> pathlib.Path:
        """Where its shards lie."""
        return self.out / FOLDER / f"part-{self.index:05d}-of-{self.count:05d}"

    @property
    def shards(self) -> range:
        """The numbers of its shards."""
        whole = -(-self.entries // self.shard_size)
        return range(whole * self.index // self.count, whole * (self.index + 1) // self.count)

    def stretch(self, shard: int) -> range:
        """The entries of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.entries))

    def path(self, shard: int) -> pathlib.Path:
        """Where a finished shard lies."""
        return self.folder / f"shard-{shard:05d}.npz"

    def piece(self, stretch: range) -> pathlib.Path:
        """Where a piece of an unfinished shard lies."""
        return self.folder / "pieces" / f"{stretch.start:010d}-{len(stretch)}.npz"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from working on the same part; a process that dies lets go.

        Raises:
          ResultError: if another one does, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / ".lock", "a")  # noqa: SIM115, closed below
        except OSError as error:
            raise ResultError(f"{self.folder} cannot be written ({error}): give another --out") from error
        with lock:
            try:
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ResultError(
                    f"another process works on part {self.index} of {self.count} of {self.out}: "
                    "give each its own --shard"
                ) from None
            except (ImportError, OSError):  # not every system has locks; without them only the check is missing
                pass
            yield

    def clean(self) -> None:
        """Remove what killed runs have left half written."""
        for folder in (self.folder, self.folder / "pieces"):
            for leftover in folder.glob(".*.*") if folder.is_dir() else ():
                leftover.unlink(missing_ok=True)


def write(path: pathlib.Path, shard: Shard) -> None:
    """Write a shard or a piece, all or nothing.

    Raises:
      ResultError: if it cannot be written.
    """
    meta = {
        "kind": "inversions",
        "first": shard.first,
        "entries": shard.entries,
        "settings_hash": settings_hash(shard.settings),
        "ids": shard.ids,
        "sources": shard.sources,
        "notes": shard.notes,
        "failures": [failure._asdict() for failure in shard.failures],
        "settings": shard.settings,
    }
    tree: store.Tree = {"ws": np.asarray(shard.ws, np.float32)}
    if shard.metrics:
        tree["metrics"] = {name: np.asarray(value, np.float32) for name, value in sorted(shard.metrics.items())}
    try:
        store.save(path, tree, meta)
    except OSError as error:
        raise ResultError(f"{path}: cannot be written ({error}): free space or give another --out") from error


def read(path: str | os.PathLike) -> Shard:
    """Read a shard or a piece.

    Raises:
      CheckpointError: if it is missing, damaged, or something else.
    """
    tree, meta = store.load(path)
    if meta.get("kind") != "inversions":
        raise CheckpointError(f"{path}: holds a {meta.get('kind', 'tree of unknown kind')!r}, not inversions")
    failures = [Failure(**failure) for failure in meta["failures"]]
    lists = meta["ids"], meta["sources"], meta["notes"]
    metrics = tree.get("metrics", {})
    return Shard(meta["first"], meta["entries"], *lists, tree["ws"], metrics, failures, meta["settings"])


def finish(part: Part, shard: int, pieces: Sequence[range]) -> None:
    """Make a shard of its pieces, which are removed.

    Raises:
      CheckpointError: if a piece is missing or damaged.
      ResultError: if the shard cannot be written.
    """
    read_pieces = [read(part.piece(piece)) for piece in pieces]
    stretch = part.stretch(shard)
    full = [piece for piece in read_pieces if piece.ids] or read_pieces[:1]  # one without images has no metrics
    joined = Shard(
        stretch.start,
        len(stretch),
        [i for piece in read_pieces for i in piece.ids],
        [s for piece in read_pieces for s in piece.sources],
        [n for piece in read_pieces for n in piece.notes],
        np.concatenate([piece.ws for piece in full]),
        {name: np.concatenate([piece.metrics[name] for piece in full]) for name in full[0].metrics},
        [f for piece in read_pieces for f in piece.failures],
        full[0].settings,
    )
    write(part.path(shard), joined)
    forget_pieces(part, shard)


def forget_pieces(part: Part, shard: int) -> None:
    """Remove the pieces of a finished shard, also those of another batch size."""
    stretch = part.stretch(shard)
    for path in (part.folder / "pieces").glob("*.npz"):
        if int(path.name.partition("-")[0]) in stretch:
            path.unlink(missing_ok=True)


def finish_part(part: Part, settings: Mapping[str, Any]) -> dict[str, int]:
    """Write the manifest of a part all of whose shards are there.

    Returns:
      {"images": how many have codes, "failures": how many entries have none}.

    Raises:
      CheckpointError: if a shard is damaged.
      ResultError: if the manifest cannot be written.
    """
    if (part.folder / "pieces").is_dir():
        shutil.rmtree(part.folder / "pieces")
    lines = (_shard_line(part, shard) for shard in part.shards)
    return write_manifest(part.folder / MANIFEST, lines, _head(part, settings))


def _head(part: Part, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "inversion-manifest",
        "parts": part.count,
        "entries": part.entries,
        "shard_size": part.shard_size,
        "settings_hash": settings_hash(settings),
        "settings": settings,
    }


def _shard_line(part: Part, number: int) -> dict[str, Any]:
    path = part.path(number)
    shard = read(path)
    return {
        "shard": number,
        "file": path.relative_to(part.out).as_posix(),
        "sha256": sha256(path),
        "first": shard.first,
        "entries": shard.entries,
        "ids": shard.ids,
        "failures": [failure._asdict() for failure in shard.failures],
    }


def write_manifest(path: pathlib.Path, lines: Iterable[Mapping[str, Any]], head: Mapping[str, Any]) -> dict[str, int]:
    """Write a manifest line by line.

    Returns:
      {"images": ..., "failures": ...} in all, which stand at its end.

    Raises:
      ResultError: if it cannot be written.
    """
    total = {"images": 0, "failures": 0}
    try:
        with store.writing(path) as file:
            file.write(json.dumps(head)[:-1].encode() + b', "shards": [')
            for index, line in enumerate(lines):
                total["images"] += len(line["ids"])
                total["failures"] += len(line["failures"])
                file.write((",\n" if index else "\n").encode() + json.dumps(line).encode())
            file.write(f"\n{_END} {json.dumps(total)[1:]}\n".encode())
    except OSError as error:
        raise ResultError(f"{path}: cannot be written ({error}): free some space") from error
    return total


def manifest_head(path: str | os.PathLike) -> dict[str, Any]:
    """What a manifest says before its shards: kind, parts, entries, shard_size, settings_hash, settings.

    Raises:
      ResultError: if it is missing or damaged.
    """
    try:
        with open(path) as file:
            head = json.loads(file.readline() + "]}")
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: missing or damaged ({error}); run the command of its part again") from None
    return {key: value for key, value in head.items() if key != "shards"}


def manifest_total(path: str | os.PathLike) -> dict[str, int]:
    """{"images": ..., "failures": ...} of a manifest, from its end.

    Raises:
      ResultError: if it is missing or damaged.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 200))
            return json.loads("{" + file.read().rpartition(f"\n{_END}".encode())[2].decode())
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: missing or damaged ({error}); run the command of its part again") from None


def manifest_shards(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """The shards of a manifest, one by one: shard, file, sha256, first, entries, ids, failures.

    Raises:
      ResultError: if it is missing or damaged.
    """
    line = ""
    try:
        with open(path) as file:
            file.readline()
            for line in file:
                if line.startswith(_SHARD):
                    yield json.loads(line.rstrip(",\n"))
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: missing or damaged ({error}); run the command of its part again") from None
    if not line.startswith(_END):
        raise ResultError(f"{path}: cut short; run the command of its part again")


def sha256(path: str | os.PathLike) -> str:
    """Of a file, in hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(settings))


def settings_hash(settings: Mapping[str, Any]) -> str:
    """16 hex digits that identify settings; versions of packages are left out, as for results in folders."""
    plain = {key: value for key, value in settings.items() if key != "versions"}
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=8).hexdigest()


def files(out: str | os.PathLike) -> list[pathlib.Path]:
    """The finished shards of a folder, in the order of the list; each once, also where numbers of parts were mixed."""
    found = {path.name: path for path in sorted(pathlib.Path(out).glob(f"{FOLDER}/part-*-of-*/shard-*.npz"))}
    return [found[name] for name in sorted(found, key=lambda name: int(name.split(".")[0].split("-")[1]))]


def is_sharded(out: str | os.PathLike) -> bool:
    """Whether results lie in shards there."""
    return (pathlib.Path(out) / FOLDER).is_dir()
