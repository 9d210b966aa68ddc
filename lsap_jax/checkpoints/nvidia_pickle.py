"""Reader of NVIDIA's network pickles (StyleGAN2-ADA for PyTorch and its descendants) that executes nothing.

Such a file is a dict {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs", ...}. Each network is an object of
`torch_utils.persistence`: the source code of its class, the arguments it was made with, and its attributes, with
tensors as PyTorch files within the pickle. The source code is dropped unread.

What comes out: a `Module` for each network, plain values for the rest. Everything that `torch_file` refuses is refused
here too, as are the pickles of NVIDIA's TensorFlow releases.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lsap_jax.checkpoints import sniff, torch_file, unpickle
from lsap_jax.checkpoints.archive import Source, read_source
from lsap_jax.checkpoints.constructors import dictionary
from lsap_jax.checkpoints.pickle_machine import Constructor, Unsupported
from lsap_jax.errors import CheckpointError

# What torch.nn.Module keeps in its __dict__ besides the attributes that its subclasses set.
_TORCH_ATTRIBUTES = ("call_super_init", "T_destination")
_MOST_MODULES = 10_000  # a file of a few KB can hold 2^40 paths to one module


@dataclasses.dataclass(frozen=True)
class Module:
    """A network as it was pickled.

    Attributes:
      class_name: of its class, such as "Generator".
      init_args: the positional arguments it was made with.
      init_kwargs: the keyword arguments it was made with; what is missing had the default of its source code.
      state: {name: array}, its state dict: parameters and persistent buffers of all submodules under NVIDIA's names,
        such as "synthesis.b4.conv1.weight", in PyTorch's order and layouts.
      attributes: {name: value}, the other attributes of it and all submodules, such as "z_dim" and
        "synthesis.b4.conv1.up".
    """

    class_name: str
    init_args: tuple
    init_kwargs: Mapping[str, Any]
    state: Mapping[str, np.ndarray]
    attributes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class _Persistent:
    """An object of `torch_utils.persistence` without its code."""

    class_name: str
    fields: dict[str, Any]


def read(source: Source) -> dict[str, Any]:
    """Read an NVIDIA network pickle.

    Args:
      source: a path, or the bytes of a file.

    Returns:
      The dict in the file, with a `Module` for each network.

    Raises:
      CheckpointError: if the file is missing, truncated, of another kind, from NVIDIA's TensorFlow code, or holds
        something that is refused.
    """
    data, name = read_source(source)
    if (kind := sniff.kind(data, name)) not in ("nvidia", "pickle"):
        raise CheckpointError(f"{name}: not an NVIDIA network pickle but {sniff.KINDS[kind]}")

    def storage(contents: Any) -> np.ndarray:
        value = torch_file.load(contents) if isinstance(contents, bytes) else None
        if not isinstance(value, np.ndarray):
            raise ValueError("a tensor's storage is not one")
        return value

    allowed = {
        **torch_file.tensor_constructors(len(data)),
        ("torch.storage", "_load_from_bytes"): Constructor(storage),
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): Constructor(_persistent),
        ("dnnlib.util", "EasyDict"): Constructor(dictionary),
        ("dnnlib.tflib.network", "Network"): Constructor(_refuse_tensorflow),
        ("tfutil", "Network"): Constructor(_refuse_tensorflow),
    }
    value, _ = unpickle.read(data, allowed, name=name)
    if not isinstance(value, dict) or not any(isinstance(item, _Persistent) for item in value.values()):
        raise CheckpointError(
            f"{name}: no dictionary of networks (G, D, G_ema) in it; "
            "check that it is a network snapshot of NVIDIA's code"
        )
    return {
        key: _module(item, f"{name}: {key}") if isinstance(item, _Persistent) else item for key, item in value.items()
    }


def _persistent(meta: Any) -> _Persistent:
    """What stands for NVIDIA's `_reconstruct_persistent_obj`, which would execute meta["module_src"]."""
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise ValueError("a persistent object is not described as a class")
    class_name, fields = meta.get("class_name"), meta.get("state")
    if not isinstance(class_name, str) or not isinstance(fields, dict):
        raise ValueError("a persistent object lacks its class name or state")
    return _Persistent(class_name, fields)


def _refuse_tensorflow(*args: Any, **kwargs: Any) -> None:
    raise Unsupported(
        "a pickle of NVIDIA's TensorFlow code, which holds a program; convert it first with legacy.py of NVIDIA's "
        "stylegan2-ada-pytorch: python legacy.py --source=OLD.pkl --dest=NEW.pkl"
    )


def _module(network: _Persistent, where: str) -> Module:
    """Flatten a network; `where` is for messages."""
    state: dict[str, np.ndarray] = {}
    attributes: dict[str, Any] = {}
    for prefix, module in _submodules(network, where):
        fields = {}
        for group in ("_parameters", "_buffers", "_modules", "_init_kwargs"):
            fields[group] = module.fields.get(group, {})
            if not isinstance(fields[group], dict) or not all(isinstance(name, str) for name in fields[group]):
                raise CheckpointError(f"{where}.{prefix}{group} is not a dictionary of names; get the file again")
        transient = module.fields.get("_non_persistent_buffers_set", ())
        for name, tensor in {**fields["_parameters"], **fields["_buffers"]}.items():
            if tensor is None or (isinstance(transient, set) and name in transient):
                continue
            if not isinstance(tensor, np.ndarray):
                raise CheckpointError(f"{where}.{prefix}{name} is a {type(tensor).__name__}, not a tensor")
            state[prefix + name] = tensor
        for name, value in module.fields.items():
            if isinstance(name, str) and not name.startswith("_") and name not in _TORCH_ATTRIBUTES:
                attributes[prefix + name] = value
    args = network.fields.get("_init_args", ())
    kwargs = network.fields.get("_init_kwargs", {})
    return Module(network.class_name, args if isinstance(args, tuple) else (), kwargs, state, attributes)


def _submodules(network: _Persistent, where: str) -> Iterator[tuple[str, _Persistent]]:
    """(name prefix, module) of a network and everything below it, parents first, in PyTorch's order."""
    waiting: list[tuple[str, Any]] = [("", network)]
    for _ in range(_MOST_MODULES):
        if not waiting:
            return
        prefix, module = waiting.pop()
        if not isinstance(module, _Persistent):
            raise CheckpointError(f"{where}.{prefix.rstrip('.')} is a {type(module).__name__}, not a module")
        yield prefix, module
        children = [(f"{prefix}{name}.", child) for name, child in module.fields.get("_modules", {}).items()]
        waiting.extend(child for child in reversed(children) if child[1] is not None)
    raise CheckpointError(
        f"{where} has more than {_MOST_MODULES} modules, perhaps within each other; not a network of NVIDIA's"
    )
