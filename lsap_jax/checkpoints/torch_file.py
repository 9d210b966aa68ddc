"""Reader of PyTorch's files (`torch.save`: .pt, .pth, .ckpt) that needs no PyTorch and executes nothing.

Read are the zip format (PyTorch 1.6 and later) and the one before it (0.1.10 to 1.5; later with
`_use_new_zipfile_serialization=False`).

What comes out: tensors and parameters as numpy arrays (each its own writable, C-contiguous copy, also where the file
shares a storage; float16 stays, bfloat16 becomes float32), numbers, strings, bytes, None, lists, tuples, sets, dicts
(also for OrderedDict, defaultdict, Counter, argparse.Namespace), numpy arrays and scalars, torch.Size as a tuple,
torch.device ("cuda:0"), torch.dtype ("float32") and paths as strings, and a bare storage as a 1-D array.

What is refused, with a CheckpointError that names it: any other class or function, so whole pickled modules; complex,
quantised, sparse and 8-bit float tensors; TorchScript archives; the tar format of PyTorch before 0.1.10; records that
are missing, damaged or of the wrong size; tensors that reach beyond their storage.
"""

import dataclasses
import math
import struct
from collections.abc import Callable
from typing import Any, Literal

import ml_dtypes
import numpy as np

from lsap_jax.checkpoints import sniff, unpickle
from lsap_jax.checkpoints.archive import Archive, Source, read_source
from lsap_jax.checkpoints.constructors import NUMPY, PYTHON, sequence
from lsap_jax.checkpoints.pickle_machine import Constructor, Unsupported
from lsap_jax.errors import CheckpointError

ByteOrder = Literal["<", ">"]
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_NAMES = (
    "float64",
    "float32",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
)
_DTYPES = {name: np.dtype(name) for name in _NAMES} | {"bfloat16": _BFLOAT16}
_ALIASES = {
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
}
_UNSUPPORTED = ("complex32", "complex64", "complex128", "quint8", "qint8", "qint32", "float8_e4m3fn", "float8_e5m2")
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
}


@dataclasses.dataclass(frozen=True)
class _StorageType:
    """A storage class as it occurs in a persistent id."""

    dtype: np.dtype


def load(source: Source) -> Any:
    """Read a PyTorch file.

    Args:
      source: a path, or the bytes of a file.

    Returns:
      The saved object; the module's docstring says what its parts become.

    Raises:
      CheckpointError: if the file is missing, truncated, not PyTorch's, or holds something that is refused.
    """
    data, name = read_source(source)
    kind = sniff.kind(data, name)
    if kind == "torch-zip":
        return _load_zip(data, name)
    if kind == "torch-legacy":
        return _load_legacy(data, name)
    if kind == "torch-tar":
        raise CheckpointError(
            f"{name}: the tar format of PyTorch before 0.1.10 (2017) is not read; load it with any PyTorch up to now "
            "and save it again with torch.save"
        )
    raise CheckpointError(f"{name}: not a PyTorch file but {sniff.KINDS[kind]}; check that it is the right file")


def tensor_constructors(file_size: int, byte_order: ByteOrder = "<") -> dict[tuple[str, str], Any]:
    """The allow-list for tensors over storages that are 1-D arrays, with dtypes, sizes and devices.

    Args:
      file_size: bytes of the file. All its tensors together may take 16 times that and 1 GiB (a tensor may repeat its
        storage by strides of 0, and storages may be shared).
      byte_order: of the storages, for untyped ones.
    """
    left = 2**30 + 16 * file_size

    def rebuild(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
        nonlocal left
        view = _view(storage, offset, size, stride)
        left -= view.nbytes
        if left < 0:
            raise ValueError("its tensors together are absurdly larger than the file")
        dtype = np.dtype(np.float32) if view.dtype == _BFLOAT16 else view.dtype.newbyteorder("=")
        return np.array(view, dtype, order="C")

    def rebuild_v2(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> np.ndarray:
        if metadata:
            raise Unsupported("a tensor that is a lazy conjugate or negative is not read; save tensor.resolve_neg()")
        return rebuild(storage, offset, size, stride)

    def rebuild_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None) -> np.ndarray:
        if dtype not in _DTYPES:
            raise Unsupported(f"a tensor of dtype {dtype!s:.40} is not read; save it as float32")
        if not isinstance(storage, np.ndarray) or storage.nbytes % _DTYPES[dtype].itemsize:
            raise ValueError("a tensor's storage does not hold its dtype")
        typed = _typed(storage.view(np.uint8).data, _DTYPES[dtype], byte_order)
        return rebuild_v2(typed, offset, size, stride, requires_grad, hooks, metadata)

    return _allowed(rebuild, rebuild_v2, rebuild_v3)


def _allowed(rebuild: Callable, rebuild_v2: Callable, rebuild_v3: Callable) -> dict[tuple[str, str], Any]:
    """The allow-list of PyTorch's names, given how tensors are made."""

    def device(kind: Any, index: Any = None) -> str:
        return f"{kind:s}" if index is None else f"{kind:s}:{index:d}"

    def from_type(make: Any, cls: Any, args: Any, state: Any) -> Any:
        # A tensor with Python attributes, or of a subclass; the attributes are dropped.
        if not isinstance(make, Constructor) or cls not in ("Tensor", "Parameter", "Buffer"):
            raise Unsupported("a subclass of torch.Tensor is not read; save plain tensors")
        return make.make(*args)

    names = {
        ("torch._utils", "_rebuild_tensor"): Constructor(rebuild),
        ("torch._utils", "_rebuild_tensor_v2"): Constructor(rebuild_v2),
        ("torch._utils", "_rebuild_tensor_v3"): Constructor(rebuild_v3),
        ("torch._utils", "_rebuild_parameter"): Constructor(lambda data, requires_grad, hooks: data),
        ("torch._utils", "_rebuild_parameter_with_state"): Constructor(lambda data, requires_grad, hooks, state: data),
        ("torch._tensor", "_rebuild_from_type_v2"): Constructor(from_type),
        ("torch", "Tensor"): "Tensor",
        ("torch.nn.parameter", "Parameter"): "Parameter",
        ("torch.nn.parameter", "Buffer"): "Buffer",
        ("torch", "Size"): Constructor(lambda sizes=(): tuple(sequence(sizes))),
        ("torch", "device"): Constructor(device),
    }
    dtypes = {("torch", name): name for name in (*_DTYPES, *_UNSUPPORTED)}
    aliases = {("torch", alias): name for alias, name in _ALIASES.items()}
    storages = {
        (module, name): _StorageType(_DTYPES[dtype])
        for module in ("torch", "torch.cuda", "torch.storage")
        for name, dtype in _STORAGES.items()
    }
    return {**PYTHON, **NUMPY, **names, **dtypes, **aliases, **storages}


def _typed(contents: memoryview, dtype: np.dtype, byte_order: ByteOrder) -> np.ndarray:
    """A storage: a read-only 1-D array over the bytes of the file."""
    if dtype == _BFLOAT16:  # has no byte-swapped form
        return np.frombuffer(contents, byte_order + "u2").astype(np.uint16).view(_BFLOAT16)
    return np.frombuffer(contents, dtype.newbyteorder(byte_order))


def _view(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """The elements of a storage that a tensor consists of, checked to lie within it."""
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise ValueError("a tensor has no storage")
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)):
        raise ValueError("a tensor's size and stride do not fit together")
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)):
        raise ValueError("a tensor has a negative or fractional size, stride or offset")
    if math.prod(size) == 0:
        return np.empty(size, storage.dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= storage.size:
        raise ValueError(f"a tensor of size {size} reaches beyond its storage of {storage.size} elements")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _load_zip(data: bytes, name: str) -> Any:
    """The format since 1.6: a zip archive of data.pkl, one record data/KEY per storage, and byteorder."""
    archive = Archive(data, name)
    pickle = min((r for r in archive if r == "data.pkl" or r.endswith("/data.pkl")), key=len)
    root = pickle.removesuffix("data.pkl")
    if f"{root}constants.pkl" in archive:
        raise CheckpointError(
            f"{name}: a TorchScript archive (torch.jit.save), which holds a program; "
            "save its state_dict with torch.save"
        )
    byte_order: ByteOrder = "<"
    if f"{root}byteorder" in archive:
        word = bytes(archive.read(f"{root}byteorder"))
        if word not in (b"little", b"big"):
            raise CheckpointError(f"{name}: record {root}byteorder says {word[:20]!r}, neither little nor big")
        byte_order = "<" if word == b"little" else ">"

    storages: dict[tuple[str, np.dtype], np.ndarray] = {}

    def storage(identity: Any) -> np.ndarray:
        cls, key, count = _storage_identity(identity, 5)
        if (key, cls.dtype) not in storages:
            contents = archive.read(f"{root}data/{key}")
            if len(contents) != count * cls.dtype.itemsize:
                raise CheckpointError(
                    f"{name}: record {root}data/{key} has {len(contents)} bytes, "
                    f"but the tensors in it need {count * cls.dtype.itemsize}; download or save the file again"
                )
            storages[key, cls.dtype] = _typed(contents, cls.dtype, byte_order)
        return storages[key, cls.dtype]

    allowed = tensor_constructors(len(data), byte_order)
    return unpickle.read(bytes(archive.read(pickle)), allowed, name=name, persistent=storage)[0]


def _load_legacy(data: bytes, name: str) -> Any:
    """The format before 1.6: a magic number, a version, the system, the object, its storages' keys (pickles); storages.

    A storage is an int64 count and its elements, little-endian. Where they lie is known only after the object has been
    read, so the object is read twice: for the types of its storages first, then with them.
    """
    magic, position = unpickle.read(data, {}, name=name)
    version, position = unpickle.read(data, {}, name=name, start=position)
    _, position = unpickle.read(data, {}, name=name, start=position)
    if magic != 0x1950A86A20F9469CFC6C or version != 1001:
        raise CheckpointError(f"{name}: a PyTorch file of an unknown version ({version!s:.20}); save it again")

    types: dict[str, tuple[np.dtype, int]] = {}

    def note(identity: Any) -> None:
        cls, key, count = _storage_identity(identity, 6)
        types.setdefault(key, (cls.dtype, count))

    def ignore(*args: Any) -> None:
        return None

    _, end = unpickle.read(data, _allowed(ignore, ignore, ignore), name=name, persistent=note, start=position)
    keys, end = unpickle.read(data, {}, name=name, start=end)

    contents = {}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in types:
            raise CheckpointError(f"{name}: a storage belongs to no tensor; download or save the file again")
        dtype, count = types[key]
        size = count * dtype.itemsize
        if end + 8 + size > len(data) or data[end : end + 8] != struct.pack("<q", count):
            raise CheckpointError(
                f"{name}: storage {key} is truncated or not of {count} elements; download or save the file again"
            )
        contents[key] = memoryview(data)[end + 8 : end + 8 + size]
        end += 8 + size

    def storage(identity: Any) -> np.ndarray:
        cls, key, count = _storage_identity(identity, 6)
        if key not in contents:
            raise CheckpointError(f"{name}: storage {key} is missing; download or save the file again")
        if len(contents[key]) != count * cls.dtype.itemsize:
            raise CheckpointError(f"{name}: storage {key} is used with two sizes; save the file again")
        array = _typed(contents[key], cls.dtype, "<")
        if identity[5] is not None:  # a storage that is a part of another one
            _, first, length = identity[5]
            array = _view(array, first, (length,), (1,))
        return array

    return unpickle.read(data, tensor_constructors(len(data)), name=name, persistent=storage, start=position)[0]


def _storage_identity(identity: Any, length: int) -> tuple[_StorageType, str, int]:
    """Check a persistent id ("storage", type, key, device, element count[, view]) -> (type, key, count)."""
    if not isinstance(identity, tuple) or len(identity) != length or identity[0] != "storage":
        raise ValueError("it refers to something other than a storage")
    _, cls, key, _, count = identity[:5]
    if not isinstance(cls, _StorageType) or not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise ValueError("a storage has an unknown type, key or size")
    return cls, key, count
