"""Reading any weight file by its content."""

from typing import Any

from lsap_jax.checkpoints import numpy_file, nvidia_pickle, sniff, torch_file
from lsap_jax.checkpoints.archive import Source, read_source
from lsap_jax.errors import CheckpointError


def read(source: Source) -> Any:
    """Read a PyTorch file, an NVIDIA network pickle, an .npy, an .npz or a pickle of numpy arrays.

    Args:
      source: a path, or the bytes of a file; its name does not matter.

    Returns:
      What `torch_file.load`, `nvidia_pickle.read`, `numpy_file.load` or `numpy_file.load_pickle` returns.

    Raises:
      CheckpointError: if it is none of these, or the reader refuses it.
    """
    data, name = read_source(source)
    kind = sniff.kind(data, name)
    if kind in ("torch-zip", "torch-legacy", "torch-tar"):
        return torch_file.load(source)
    if kind == "nvidia":
        return nvidia_pickle.read(source)
    if kind in ("npy", "npz"):
        return numpy_file.load(source)
    if kind == "pickle":
        return numpy_file.load_pickle(source)
    raise CheckpointError(
        f"{name}: {sniff.KINDS[kind]}; a PyTorch file (.pt, .pth), an NVIDIA network pickle (.pkl), an .npy, an .npz "
        "or a pickle of numpy arrays can be read"
    )
