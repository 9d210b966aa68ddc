"""Reader of numpy's files (.npy, .npz) and of plain pickles of arrays that executes nothing.

Unlike `numpy.load(allow_pickle=True)` it reads arrays of Python objects (IDInvert's boundaries are a pickled dict in an
.npy) by `unpickle`, with nothing but Python's containers and numpy's arrays allowed.

What comes out: arrays, each an own writable copy in native byte order; for an .npy that holds one object, that object;
for an .npz, a dict; for a pickle, what it holds. Structured and date arrays are refused.
"""

import ast
import re
from typing import Any

import numpy as np

from lsap_jax.checkpoints import constructors, sniff, unpickle
from lsap_jax.checkpoints.archive import Archive, Source, read_source
from lsap_jax.errors import CheckpointError

_ALLOWED = {**constructors.PYTHON, **constructors.NUMPY}
_LONGEST_HEADER = 10_000  # bytes; numpy's own limit


def load(source: Source) -> Any:
    """Read an .npy or .npz file.

    Args:
      source: a path, or the bytes of a file.

    Returns:
      .npy: the array, or the object if it is a 0-d array of objects. .npz: {name: the same}.

    Raises:
      CheckpointError: if the file is missing, truncated, of another kind, or holds something that is refused.
    """
    data, name = read_source(source)
    kind = sniff.kind(data, name)
    if kind == "npy":
        return _load_npy(data, name)
    if kind == "npz":
        archive = Archive(data, name)
        return {r.removesuffix(".npy"): _load_npy(bytes(archive.read(r)), f"{name}[{r}]") for r in archive}
    raise CheckpointError(f"{name}: not an .npy or .npz file but {sniff.KINDS[kind]}; check that it is the right file")


def load_pickle(source: Source) -> Any:
    """Read a pickle that needs no more than Python's containers and numpy's arrays.

    Raises:
      CheckpointError: if the file is missing, truncated, of another kind, or asks for anything else.
    """
    data, name = read_source(source)
    if (kind := sniff.kind(data, name)) not in ("pickle", "nvidia", "unknown"):
        raise CheckpointError(f"{name}: not a plain pickle but {sniff.KINDS[kind]}; check that it is the right file")
    return unpickle.read(data, _ALLOWED, name=name)[0]


def _load_npy(data: bytes, name: str) -> Any:
    """Magic, version, header length, header (a Python literal), contents. See numpy.lib.format."""
    try:
        if data[:6] != b"\x93NUMPY" or data[6] not in (1, 2, 3):
            raise ValueError("not an .npy of version 1, 2 or 3")
        width = 2 if data[6] == 1 else 4
        start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
        if start > min(len(data), _LONGEST_HEADER):
            raise ValueError("its header does not end")
        text = data[8 + width : start].decode("utf-8" if data[6] == 3 else "latin-1")
        # Python 2 wrote long integers into the shape: (14L, 512L).
        header = ast.literal_eval(re.sub(r"(?<=\d)L(?=[,)])", "", text).strip())
        dtype, shape, fortran = constructors.dtype(header["descr"]), header["shape"], header["fortran_order"]
        if not dtype.hasobject:
            return constructors.array(memoryview(data)[start:], dtype, shape, "F" if fortran else "C")
    except (ValueError, TypeError, LookupError, SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{name}: a damaged or unsupported .npy ({error}); get the file again") from error
    value, _ = unpickle.read(data, _ALLOWED, name=name, start=start)
    if not isinstance(value, np.ndarray):
        raise CheckpointError(f"{name}: an array of objects that holds a {type(value).__name__} instead")
    return value if value.ndim else value[()]
