"""What a weight file may contain besides tensors: the allow-lists for Python's containers and for numpy.

`PYTHON` and `NUMPY` are allow-lists of `unpickle.read`. What comes out is plain: OrderedDict, defaultdict,
Counter and argparse.Namespace become dicts, paths become strings, arrays are writable, C-contiguous and in the
machine's own byte order. Structured, date, void and longer-than-file arrays are refused.
"""

import math
import pathlib
import re
from typing import Any

import numpy as np

from lsap_jax.checkpoints.pickle_machine import Buildable, Constructor, Pending, Unsupported, key

_DTYPE = re.compile(r"[<>=|]?(?:\?|b1|[biufc]\d{1,2}|[SU]\d{1,9}|O\d?)")


class Attributes(dict, Buildable):
    """A namespace: a dict whose items are the attributes."""

    def build(self, state: Any) -> "Attributes":
        """Take the attributes."""
        self.update(dictionary(state))
        return self


def dictionary(items: Any = ()) -> dict:
    """A dict from a dict, or from a list of pairs."""
    pairs = items.items() if isinstance(items, dict) else items
    return {key(name): value for name, value in pairs}


def sequence(items: Any = ()) -> list:
    """A list from a list or tuple; longer things are not spelled out item by item."""
    if not isinstance(items, list | tuple | set | frozenset):
        raise ValueError(f"a list is made of a {type(items).__name__}")
    return list(items)


def encoded(text: Any, encoding: Any) -> bytes:
    """Bytes as protocols 0 to 2 spell them: a string and its encoding."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes are spelled in an unknown way")
    return text.encode("latin-1")


def raw_bytes(value: Any = b"", encoding: Any = None) -> bytes:
    """Bytes from bytes or Latin-1 text; never from a length."""
    if isinstance(value, str):
        return encoded(value, encoding or "latin-1")
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"bytes are made of a {type(value).__name__}")
    return bytes(value)


def number(real: Any, imaginary: Any) -> complex:
    """A complex number from two floats."""
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise ValueError("a complex number is not made of two floats")
    return complex(real, imaginary)


def _path(flavour: type[pathlib.PurePath]) -> Constructor:
    return Constructor(lambda *parts: str(flavour(*parts)))


def _reconstructor(cls: Any, base: Any, state: Any) -> Any:
    """How protocols 0 and 1 spell an object: its class, the class that holds its data, that data."""
    if not isinstance(cls, Constructor) or not isinstance(base, Constructor):
        raise ValueError("an object is made of something that is not a class")
    return cls.make() if state is None else cls.make(state)


_POSIX, _WINDOWS = _path(pathlib.PurePosixPath), _path(pathlib.PureWindowsPath)

PYTHON = {
    ("collections", "OrderedDict"): Constructor(dictionary),
    ("collections", "Counter"): Constructor(dictionary),
    ("collections", "defaultdict"): Constructor(lambda factory=None: {}),
    ("argparse", "Namespace"): Constructor(Attributes),
    ("types", "SimpleNamespace"): Constructor(Attributes),
    ("builtins", "object"): Constructor(dict),
    ("builtins", "dict"): Constructor(dictionary),
    ("builtins", "list"): Constructor(sequence),
    ("builtins", "tuple"): Constructor(lambda items=(): tuple(sequence(items))),
    ("builtins", "set"): Constructor(lambda items=(): set(map(key, sequence(items)))),
    ("builtins", "frozenset"): Constructor(lambda items=(): frozenset(map(key, sequence(items)))),
    ("builtins", "bytes"): Constructor(raw_bytes),
    ("builtins", "bytearray"): Constructor(lambda *args: bytearray(raw_bytes(*args))),
    ("builtins", "complex"): Constructor(number),
    # Types that occur as values only, for instance as the factory of a defaultdict.
    ("builtins", "int"): "int",
    ("builtins", "float"): "float",
    ("builtins", "bool"): "bool",
    ("builtins", "str"): "str",
    ("_codecs", "encode"): Constructor(encoded),
    ("copyreg", "_reconstructor"): Constructor(_reconstructor),
    ("pathlib", "PosixPath"): _POSIX,
    ("pathlib", "PurePosixPath"): _POSIX,
    ("pathlib", "WindowsPath"): _WINDOWS,
    ("pathlib", "PureWindowsPath"): _WINDOWS,
    ("pathlib._local", "PosixPath"): _POSIX,
    ("pathlib._local", "PurePosixPath"): _POSIX,
    ("pathlib._local", "WindowsPath"): _WINDOWS,
    ("pathlib._local", "PureWindowsPath"): _WINDOWS,
}


def dtype(text: Any) -> np.dtype:
    """A numpy dtype from its short spelling: numbers, booleans, fixed-length strings and objects.

    Raises:
      Unsupported: if it is of another kind or not spelled that way.
    """
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise Unsupported(f"numpy dtype {str(text)[:40]!r} is not read, only numbers, booleans, strings and objects")
    return np.dtype("O") if "O" in text else np.dtype(text)


def array(raw: Any, kind: Any, shape: Any, order: str = "C") -> np.ndarray:
    """An own, writable, C-contiguous array in native byte order.

    Args:
      raw: its bytes (or Latin-1 text, Python 2's spelling), or a list of the items of an object array.
      kind: its dtype.
      shape: its shape; must fit `raw` exactly.
      order: "C" or "F", the order of `raw`.

    Raises:
      ValueError: if these do not fit together.
    """
    if not isinstance(kind, np.dtype):
        raise ValueError("an array lacks its dtype")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("an array has an impossible shape")
    if order not in ("C", "F"):
        raise ValueError("an array has an unknown memory order")
    count = math.prod(shape)
    if kind.hasobject:
        if not isinstance(raw, list) or len(raw) != count:
            raise ValueError("an object array does not have as many items as its shape says")
        objects = np.empty(count, object)
        for index, item in enumerate(raw):  # one by one: numpy would turn nested lists into more dimensions
            objects[index] = item
        return objects.reshape(shape)  # numpy lists objects in C order whatever their order in memory
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(raw, bytes | bytearray | memoryview) or not kind.itemsize:
        raise ValueError("an array lacks its contents")
    if len(raw) != count * kind.itemsize:
        raise ValueError(f"an array of {count * kind.itemsize} bytes has contents of {len(raw)} bytes")
    if not count:
        return np.zeros(shape, kind.newbyteorder("="))
    return np.array(np.frombuffer(raw, kind).reshape(shape, order=order), kind.newbyteorder("="), order="C")


class _Dtype(Pending):
    """`numpy.dtype`, complete once its byte order is set."""

    def __init__(self, text: Any, align: Any = False, copy: Any = True) -> None:
        super().__init__()
        self.dtype = dtype(text)

    def build(self, state: Any) -> np.dtype:
        """Take the state (version, byte order, base of a sub-array, field names, fields, ...)."""
        _, byte_order, *structure = state
        if any(part is not None for part in structure[:3]) or byte_order not in ("<", ">", "=", "|"):
            raise Unsupported("a structured numpy dtype is not read; save its fields as separate arrays")
        return self.dtype if byte_order == "|" else self.dtype.newbyteorder(byte_order)


class _Array(Pending):
    """`numpy.ndarray` as `_reconstruct` makes it: empty until its state is set."""

    def __init__(self, cls: Any, shape: Any, typecode: Any) -> None:
        super().__init__()
        if cls != "numpy.ndarray":
            raise ValueError("an array is of another class than numpy.ndarray")

    def build(self, state: Any) -> np.ndarray:
        """Take the state ([version,] shape, dtype, is Fortran order, contents)."""
        shape, kind, fortran, raw = state[-4:]
        return array(raw, kind, shape, "F" if fortran else "C")


def _scalar(kind: Any, raw: Any = None) -> np.generic:
    """A numpy scalar from its dtype and bytes."""
    if not isinstance(kind, np.dtype) or kind.hasobject:
        raise ValueError("a numpy scalar has no usable dtype")
    return array(raw, kind, ()).flat[0]


NUMPY = {
    ("numpy", "ndarray"): "numpy.ndarray",
    ("numpy", "dtype"): Constructor(_Dtype),
    ("numpy._core.multiarray", "_reconstruct"): Constructor(_Array),
    ("numpy._core.multiarray", "scalar"): Constructor(_scalar),
    ("numpy._core.numeric", "_frombuffer"): Constructor(array),
}
