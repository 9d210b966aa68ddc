"""Directions by name: those that are shipped, principal axes of W, and files, as a command line writes them.

    smile            of the bank that is shipped for this generator, if there is one
    pca3             principal axis 3 of its W
    age.pt           a file, FILE#COMPONENT if it holds several

each of them with :LAYERS behind it, or not.
"""

import functools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from lsap_jax.checkpoints import store
from lsap_jax.edit import directions
from lsap_jax.edit.directions import Direction
from lsap_jax.errors import DirectionError
from lsap_jax.generators.base import Generator

# {fingerprint of a generator: the bank in this folder that was found in it}
_SHIPPED = {"907ab133a0188dee": "bank_ffhq_mobile.npz"}
_SPEC = re.compile(r"(?P<source>.+?)(?:#(?P<component>[^#:/\\]+))?(?::(?P<layers>all|[\d,-]+))?")


def shipped(G: Generator) -> dict[str, Direction]:
    """{name: direction} of the bank that comes with this package for G; empty if there is none."""
    path = _path(G)
    return {} if path is None else {d.name: d for d in directions.load_bank(path, G)}


def found_by(G: Generator) -> Mapping[str, Any]:
    """{name: {"settings", "measures"}} of the shipped bank: how each was found, and what it measured then."""
    path = _path(G)
    return {} if path is None else _description(path)["found_by"]


def resolve(spec: str, G: Generator, unit: str | None = None, force: bool = False) -> Direction:
    """A direction as the command line writes it.

    A file of that name wins over a shipped direction.

    Args:
      spec: `smile`, `pca3`, `FILE` or `FILE#COMPONENT`; each may end in `:LAYERS`, as in `pca3:0-7`.
      G: the generator to use it with.
      unit: as in `load_direction`.
      force: as in `load_direction`.

    Raises:
      DirectionError: if there is no direction of this name, or it does not fit.
      CheckpointError: if the file is damaged or hostile.
    """
    match = None if os.path.isfile(spec) else _SPEC.fullmatch(spec)
    source, component, layers = match.group("source", "component", "layers") if match else (spec, None, None)
    axis = re.fullmatch(r"pca(\d+)", source)
    if os.path.isfile(source):
        which = int(component) if component and component.isdecimal() else component
        d = directions.load_direction(source, G, layers, which, unit, force)
    elif component is None and (axis or source in shipped(G)):
        if axis:
            d = directions.w_pca(G, int(axis[1]), layers)
        else:
            d = shipped(G)[source]
            d = d if layers is None else directions.restrict(d, layers, G)
        d = d if unit is None else directions.in_unit(d, unit, G)
    else:
        names = ", ".join(shipped(G))
        raise DirectionError(
            f"{source}: no such direction and no such file; use {names + ', ' if names else ''}"
            f"pca0 to pca{G.w_dim - 1}, or a file of directions"
        )
    return d.replace(name=f"{d.name}:{layers}") if layers else d


def _path(G: Generator) -> pathlib.Path | None:
    name = _SHIPPED.get(G.fingerprint)
    return pathlib.Path(__file__).parent / name if name else None


@functools.cache
def _description(path: pathlib.Path) -> Mapping[str, Any]:
    return store.load(path)[1]
