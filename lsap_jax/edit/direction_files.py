"""The published file formats of editing directions, as plain arrays.

| published by                     | file   | holds                                                                   |
| -------------------------------- | ------ | ----------------------------------------------------------------------- |
| InterFaceGAN, LowRankGAN, ReSeFa | `.npy` | (w_dim,) or (1, w_dim), of unit length                                  |
| e4e, GANInverter                 | `.pt`  | (1, w_dim) or (1, rows, w_dim), rows of unit length                     |
| IDInvert, HiGAN                  | `.npy` | pickled dict: boundary (1, [rows,] w_dim), meta_data.manipulate_layers  |
| e4e's GANSpace                   | `.pt`  | dict: mean (1, w_dim), comp (K, 1, w_dim) orthonormal, std (K,)         |
| GANSpace                         | `.npz` | the same as lat_mean, lat_comp, lat_stdev                               |

Any of them may lie in any container that `lsap_jax.checkpoints.read` opens; the contents decide, not the extension.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lsap_jax.checkpoints import read
from lsap_jax.errors import DirectionError

_PCA_KEYS = (("mean", "comp", "std"), ("lat_mean", "lat_comp", "lat_stdev"))


class Published(NamedTuple):
    """One direction of a file.

    Attributes:
      rows: (n, w_dim) float32; one row stands for every layer.
      layers: that the file says to edit, or None for all.
      sigma: standard deviation of W along the direction, where the file says it.
      mean: (w_dim,) the centre of W, where the file says it.
    """

    rows: np.ndarray
    layers: tuple[int, ...] | None = None
    sigma: float | None = None
    mean: np.ndarray | None = None


def open_file(path: str | os.PathLike) -> Any:
    """The Python object in a file, with every tensor as a numpy array; nothing in it is executed.

    Raises:
      DirectionError: if there is no such file.
      CheckpointError: if it cannot be read.
    """
    if not os.path.isfile(path):
        raise DirectionError(f"{os.fspath(path)}: no such file")
    return read.read(path)


def parse(data: Any, path: str | os.PathLike) -> list[Published]:
    """The directions in what `open_file` returned; `path` is for messages.

    Raises:
      DirectionError: if it is none of the formats above, or a direction is zero or not finite.
    """
    if isinstance(data, np.ndarray) and data.dtype != object:
        return [Published(_rows(data, path))]
    if isinstance(data, dict) and "boundary" in data:
        about = data.get("meta_data") or {}
        return [Published(_rows(data["boundary"], path), parse_layers(about.get("manipulate_layers")))]
    for keys in _PCA_KEYS:
        if isinstance(data, dict) and all(key in data for key in keys):
            return _components(*(data[key] for key in keys), path=path)
    held = f"a dict of {sorted(map(str, data))[:8]}" if isinstance(data, dict) else f"a {type(data).__name__}"
    raise DirectionError(
        f"{os.fspath(path)}: holds {held}, no known form of a direction; save it as a plain array of shape (w_dim,) or "
        "(rows, w_dim) with numpy.save"
    )


def parse_layers(layers: str | Sequence[int] | None) -> tuple[int, ...] | None:
    """Layers of W+ as sorted indices: "0-5" (both ends included), "0,2,4-6", or a sequence; "all" or None is None.

    Raises:
      DirectionError: if it is none of these.
    """
    if layers is None or (isinstance(layers, str) and layers.strip() in ("", "all")):
        return None
    try:
        if isinstance(layers, str):
            found = set()
            for part in layers.split(","):
                first, dash, last = part.strip().partition("-")
                span = range(int(first), int(last if dash else first) + 1)
                if not span:
                    raise ValueError(part)
                found.update(span)
        else:
            found = {int(layer) for layer in layers if int(layer) == layer}
            if len(found) != len(layers):
                raise ValueError("a layer named twice, or by a fraction")
        if not found or min(found) < 0:
            raise ValueError("no layer")
    except (TypeError, ValueError):
        raise DirectionError(f"layers {layers!r}: write them as 0-5 or 0,2,4-6, counted from 0") from None
    return tuple(sorted(found))


def _rows(array: Any, path: str | os.PathLike) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind not in "fiu":
        raise DirectionError(
            f"{os.fspath(path)}: an array of shape {array.shape} and type {array.dtype}; a direction is (w_dim,), "
            "(1, w_dim), (rows, w_dim) or (1, rows, w_dim) numbers"
        )
    rows = np.atleast_2d(array).astype(np.float32)
    if not np.isfinite(rows).all() or not rows.any():
        raise DirectionError(f"{os.fspath(path)}: the direction is zero or has NaN or infinite values")
    return rows


def _components(mean: Any, components: Any, stddev: Any, path: str | os.PathLike) -> list[Published]:
    components, stddev = np.asarray(components), np.asarray(stddev).reshape(-1)
    mean = np.asarray(mean, np.float32).reshape(-1)
    if len(components) != len(stddev) or mean.size != components.shape[-1]:
        raise DirectionError(
            f"{os.fspath(path)}: components {components.shape}, deviations {stddev.shape} and mean {mean.shape} "
            "do not fit together"
        )
    return [
        Published(_rows(component, path), sigma=float(sigma), mean=mean)
        for component, sigma in zip(components, stddev, strict=True)
    ]
