"""Self-describing weight files: one `.npz` with a tree of arrays and a JSON description.

A file holds every array under its path in the tree (`synthesis/b4/const`) and, under
`__meta__`, a JSON object that says what it is: kind, architecture, source, licence,
checksums. Nothing in it is pickled, so any numpy reads it and nothing can be executed.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import secrets
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from lsap_jax.errors import CheckpointError

META_KEY = "__meta__"
Tree = dict[str, Any]


def flatten(tree: Tree, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts of arrays -> {"a/b/c": array}, in the order of the tree."""
    flat = {}
    for key, value in tree.items():
        if not isinstance(key, str) or "/" in key or not key:
            raise CheckpointError(f"tree key {key!r} under {prefix!r}: keys must be non-empty strings without '/'")
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = np.asarray(value)
    return flat


def unflatten(flat: dict[str, np.ndarray]) -> Tree:
    """{"a/b/c": array} -> nested dicts; the inverse of `flatten` for trees without empty dicts."""
    tree: Tree = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def fingerprint(*trees: Any) -> str:
    """16 hex digits that identify the names, shapes and values of trees of arrays."""
    digest = hashlib.blake2b(digest_size=8)
    for index, tree in enumerate(trees):
        for key, value in sorted(flatten({str(index): tree}).items()):
            digest.update(f"{key}{value.shape}{value.dtype}".encode())
            digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open a file for writing that a reader sees as it was, or whole, or not at all: never a part.

    It appears under its name when the block ends; if the block raises, nothing is left.

    Raises:
      OSError: if the folder is not writable or the disk is full; no partial file stays behind.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path` as `writing` does."""
    with writing(path) as file:
        file.write(data)


def save(path: str | os.PathLike, tree: Tree, meta: dict[str, Any]) -> None:
    """Write a tree of arrays and its description as one `.npz`, atomically.

    Args:
      path: where to write; the folder is made if missing.
      tree: nested dicts with array leaves.
      meta: JSON-serialisable description; by convention with `kind`, `source`, `licence`.

    Raises:
      CheckpointError: if a key of the tree is not a plain name.
      OSError: if the file cannot be written.
    """
    flat: dict[str, Any] = {META_KEY: np.frombuffer(json.dumps(meta).encode(), np.uint8), **flatten(tree)}
    buffer = io.BytesIO()
    np.savez(buffer, **flat)
    write_atomically(path, buffer.getvalue())


def load(path: str | os.PathLike) -> tuple[Tree, dict[str, Any]]:
    """Read a file written by `save`: (nested dicts of numpy arrays, description).

    Raises:
      CheckpointError: if the file is missing, truncated, or not one of ours.
    """
    arrays: dict[str, np.ndarray] = {}
    meta: dict[str, Any] = {}
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            if META_KEY not in file.files:
                raise CheckpointError(
                    f"{path}: an .npz without {META_KEY}, so not a weight file of lsap_jax; "
                    "convert the original checkpoint with tools/convert_checkpoint.py"
                )
            for key in file.files:
                if key == META_KEY:
                    meta = json.loads(file[key].tobytes())
                else:
                    arrays[key] = file[key]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise CheckpointError(f"{path}: not a readable .npz ({error}); fetch or convert it again") from error
    return unflatten(arrays), meta
