"""The folder where fetched weights, generator statistics and compiled programs are kept."""

import contextlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from lsap_jax.checkpoints import store
from lsap_jax.errors import CheckpointError

VARIABLE = "LSAP_JAX_CACHE"


def folder() -> pathlib.Path:
    """`$LSAP_JAX_CACHE`, by default `~/.cache/lsap_jax`."""
    given = os.environ.get(VARIABLE)
    return pathlib.Path(given) if given else pathlib.Path.home() / ".cache" / "lsap_jax"


def remember(name: str, compute: Callable[[], store.Tree], meta: dict[str, Any]) -> store.Tree:
    """The tree kept under `statistics/NAME.npz`, computed and kept if it is not there yet.

    A file that cannot be read is computed again; a cache that cannot be written only costs time.

    Args:
      name: must identify the result: generator fingerprint, sample count, seed.
      compute: makes the tree.
      meta: description stored with it.
    """
    path = folder() / "statistics" / f"{name}.npz"
    if path.exists():
        try:
            return store.load(path)[0]
        except CheckpointError:
            path.unlink(missing_ok=True)
    tree = jax.device_get(compute())
    with contextlib.suppress(OSError):
        store.save(path, tree, meta)
    return tree


def keep_compiled_programs() -> None:
    """Let XLA keep compiled programs in the cache folder, so that a second run of a command starts at once.

    For commands only: a library must not change a process's compilation settings by itself.
    """
    jax.config.update("jax_compilation_cache_dir", str(folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
