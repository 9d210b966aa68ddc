"""Writing pickles that name anything, without having or importing what they name.

`dumps` writes plain values as Python does, and in addition `Name` (a global), `Call` (a call of one, with a state) and
`Persistent` (a persistent id). `torch_file` writes PyTorch's format before 1.6, `tensor` what a tensor is in a plain
pickle: that format within it.
"""

import dataclasses
import io
import pickle
import struct
from collections import OrderedDict
from typing import Any, ClassVar

import numpy as np


@dataclasses.dataclass(eq=False)
class Name:
    module: str
    name: str


@dataclasses.dataclass(eq=False)
class Call:
    function: Name
    args: Any = ()
    state: Any = None


@dataclasses.dataclass(eq=False)
class Persistent:
    identity: Any


class _Pickler(pickle._Pickler):
    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def persistent_id(self, value):
        return value.identity if isinstance(value, Persistent) else None

    def save_name(self, value):
        self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        self.memoize(value)

    def save_call(self, value):
        self.save(value.function)
        self.save(value.args)
        self.write(b"R")
        self.memoize(value)
        if value.state is not None:
            self.save(value.state)
            self.write(b"b")

    dispatch[Name] = save_name
    dispatch[Call] = save_call


def dumps(value: Any, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def torch_file(value: Any, storages: dict[str, np.ndarray]) -> bytes:
    """PyTorch's format before 1.6."""
    contents = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in storages.values())
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, value, list(storages))
    return b"".join(map(dumps, parts)) + contents


def storage(key: str, count: int, kind: str = "FloatStorage") -> Persistent:
    return Persistent(("storage", Name("torch", kind), key, "cpu", count, None))


def tensor(array: np.ndarray, parameter: bool = False) -> Call:
    kind = {"f": "FloatStorage", "e": "HalfStorage", "l": "LongStorage"}[array.dtype.char]
    blob = torch_file(storage("7", array.size, kind), {"7": np.ascontiguousarray(array)})
    held = Call(Name("torch.storage", "_load_from_bytes"), (blob,))
    stride = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)
    plain = Call(Name("torch._utils", "_rebuild_tensor_v2"), (held, 0, array.shape, stride, False, OrderedDict()))
    return Call(Name("torch._utils", "_rebuild_parameter"), (plain, True, OrderedDict())) if parameter else plain


def pytorch_file(tree):
    """The bytes of a PyTorch file with nested dicts of plain values and of arrays, which become float32."""
    storages = {}

    def rebuilt(value):
        if isinstance(value, dict):
            return {k: rebuilt(v) for k, v in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        key, value = str(len(storages)), np.asarray(value, np.float32, order="C")
        storages[key] = value
        stride = tuple(step // 4 for step in value.strides)
        args = (storage(key, value.size), 0, value.shape, stride, False, OrderedDict())
        return Call(Name("torch._utils", "_rebuild_tensor_v2"), args)

    return torch_file(rebuilt(tree), storages)


def damaged(data: bytes, truncations: int = 30, flips: int = 60):
    """Cut and altered copies of a file, always the same ones."""
    random = np.random.default_rng(0)
    for end in np.linspace(0, len(data) - 1, truncations).astype(int):
        yield data[:end]
    for position in random.integers(0, len(data), flips):
        changed = bytearray(data)
        changed[position] ^= 1 << random.integers(8)
        yield bytes(changed)
