"""dlib's serialisation of a shape predictor (dlib/image_processing/shape_predictor.h), read without dlib.

A file holds, one after the other: the integer 1; the mean shape, a matrix of x and y by turns; the cascade, a vector of
forests, each a vector of trees, each a vector of splits (two pixel numbers and a threshold) and a vector of leaves (a
matrix like the mean shape); for every forest, a vector of the landmarks its pixels belong to; and for every forest, a
vector of the pixels' offsets x, y from those.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from lsap_jax.checkpoints.dlib_stream import FormatError, Stream, as_floats
from lsap_jax.checkpoints.store import Tree
from lsap_jax.errors import CheckpointError

LANDMARKS = 68


def convert(members: Mapping[str, bytes]) -> tuple[Tree, dict[str, Any]]:
    """`shape_predictor_68_face_landmarks.dat` -> (params of `networks.dlib_landmarks`, description).

    Args:
      members: the file's contents under its name.

    Raises:
      CheckpointError: if it is damaged, or finds other landmarks than iBUG's 68.
    """
    if len(members) != 1:
        raise CheckpointError(f"one dlib file is converted at a time, not {sorted(members)}")
    ((name, data),) = members.items()
    params = load(data)
    if len(params["mean"]) != LANDMARKS:
        raise CheckpointError(f"{name}: a predictor of {len(params['mean'])} landmarks, not of {LANDMARKS}")
    return params, {"kind": "dlib-landmarks"}


def load(source: str | os.PathLike | bytes) -> Tree:
    """Read a shape predictor of any size.

    Args:
      source: path or contents of the file.

    Returns:
      {"mean": (P, 2) x, y in units of the face's box, "anchors": (C, F) int32 landmark of each of F pixels in each of C
      forests, "deltas": (C, F, 2) its offset, "pixels": (C, T, S, 2) int32 the two that each of S splits in each of T
      trees compares, "thresholds": (C, T, S), "leaves": (C, T, S + 1, P, 2)}, all float32 but those two.

    Raises:
      CheckpointError: if the file is missing, truncated, or no shape predictor with complete trees of one depth.
    """
    name = "the shape predictor" if isinstance(source, bytes) else os.fspath(source)
    try:
        stream = Stream(source if isinstance(source, bytes) else pathlib.Path(source).read_bytes())
        return _predictor(stream)
    except OSError as error:
        raise CheckpointError(f"{name}: cannot be read ({error.strerror})") from error
    except (FormatError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{name}: not a shape predictor of dlib's, or damaged ({error}); fetch it again"
        ) from error


def _predictor(stream: Stream) -> Tree:
    if stream.integer() != 1:
        raise FormatError("it does not begin with version 1")
    mean = stream.matrix().reshape(-1, 2)
    if not len(mean):
        raise FormatError("a mean shape without landmarks")

    forests = [[_tree(stream, mean.size) for _ in range(stream.length(4))] for _ in range(stream.length(2))]
    trees = [tree for forest in forests for tree in forest]
    if not trees or len({len(forest) for forest in forests}) > 1 or len({len(pixels) for pixels, _, _ in trees}) > 1:
        raise FormatError("no forests of equally many trees of one depth")
    pixels, thresholds, leaves = (np.stack(values) for values in zip(*trees, strict=True))
    lead = (len(forests), len(forests[0]))

    anchors = [[stream.integer() for _ in range(stream.length(2))] for _ in range(stream.length(2))]
    deltas = []
    for _ in range(stream.length(2)):
        n = stream.length(8)
        deltas.append(as_floats(stream.pairs(2 * n)).reshape(n, 2))
    if stream.at != len(stream.data):
        raise FormatError(f"{len(stream.data) - stream.at} bytes too many")
    if {len(forests)} != {len(anchors), len(deltas)} or len({len(values) for values in [*anchors, *deltas]}) > 1:
        raise FormatError("not as many pixels in every forest")
    anchors, deltas = np.array(anchors), np.stack(deltas)
    _check_below(anchors, len(mean), "landmark")
    _check_below(pixels, anchors.shape[1], "pixel")
    return {
        "mean": mean,
        "anchors": anchors.astype(np.int32),
        "deltas": deltas,
        "pixels": pixels.reshape(*lead, -1, 2).astype(np.int32),
        "thresholds": thresholds.reshape(*lead, -1),
        "leaves": leaves.reshape(*lead, -1, *mean.shape),
    }


def _tree(stream: Stream, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixel numbers (S, 2), thresholds (S,) and leaves (S + 1, size) of one tree."""
    splits = stream.length(8)
    fields = stream.pairs(2 * splits).reshape(splits, 2, 2)  # a pair of pixels, and a float
    count = stream.length(4 * size)
    if count != splits + 1 or count & splits:
        raise FormatError(f"a tree of {splits} splits and {count} leaves")
    leaves = stream.pairs(count * (1 + size)).reshape(count, 1 + size, 2)  # the sizes of a matrix, and its floats
    if (leaves[:, 0] != (-size, -1)).any():
        raise FormatError(f"a leaf of another size than the mean shape's {size}")
    return fields[:, 0], as_floats(fields[:, 1]), as_floats(leaves[:, 1:])


def _check_below(numbers: np.ndarray, end: int, what: str) -> None:
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= end:
        raise FormatError(f"a {what} number outside of 0..{end - 1}")
