"""Directions that change one region and, to first order, nothing else: LowRankGAN and ReSeFa.

Both read a direction off two quadratic forms of one Jacobian, `M_A` inside the region and `M_B` outside, each the mean
squared change of its pixels. Three solvers, one signature:

| solver     | candidates                                      | what keeps them away from the outside   |
| ---------- | ----------------------------------------------- | --------------------------------------- |
| `rpca`     | leading axes of the low-rank part of M_A (ADMM) | projection off the leading axes of M_B  |
| `pca`      | leading axes of M_A                             | the same projection                     |
| `rayleigh` | of the pencil (M_A, M_B + tau tr(M_B) I)        | the quotient itself; no projection      |

How many axes of M_B count as "the outside" is the user's one choice, since its spectrum is smooth and has no null space
proper: more of them leak less and keep less. Every direction says what it kept and what it leaks.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lsap_jax.edit import directions, regions
from lsap_jax.edit.directions import Direction
from lsap_jax.edit.jacobian import Jacobian
from lsap_jax.edit.robust_pca import LowRank, robust_pca
from lsap_jax.errors import ConfigError, DirectionError
from lsap_jax.generators.base import Generator

SOLVERS = ("rpca", "rayleigh", "pca")
_TOLERANCE, _ITERATIONS = 1e-5, 2000


class Found(NamedTuple):
    """Unit directions of one region.

    Attributes:
      vectors: (n, columns) float64 of unit length, strongest first.
      kept: (n,) length that was left of each by the projection, 1 without one.
      inside: (n,) root mean squared first-order change of the region's pixels, per unit length.
      leak: (n,) the same outside, divided by `inside`.
      outside_rank: axes of M_B that were projected off.
      notes: what a user should know, such as an empty low-rank part.
    """

    vectors: np.ndarray
    kept: np.ndarray
    inside: np.ndarray
    leak: np.ndarray
    outside_rank: int
    notes: tuple[str, ...]


def axes_of(matrix: np.ndarray, rank: int | None = None, energy: float | None = None) -> np.ndarray:
    """Leading eigenvectors of a form, as orthonormal rows (r, d).

    Args:
      matrix: (d, d) symmetric, positive semidefinite.
      rank: how many; or
      energy: as many as hold this share of the trace, below 1.

    Raises:
      ConfigError: if both or none are given, or they are out of range.
    """
    values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
    values, vectors = np.maximum(values[::-1], 0), vectors.T[::-1]
    if (rank is None) == (energy is None):
        raise ConfigError("say how many axes by rank or by energy, one of them")
    if energy is not None:
        if not 0 <= energy < 1:
            raise ConfigError(f"energy {energy}: a share of the whole, from 0 to below 1")
        rank = int(np.searchsorted(np.cumsum(values) / max(values.sum(), 1e-300), energy) + 1) if energy else 0
    if rank is None or not 0 <= rank < len(values):
        raise ConfigError(f"rank {rank}: from 0 to {len(values) - 1}, one axis has to be left")
    return vectors[:rank]


def solve(
    inside: np.ndarray,
    outside: np.ndarray,
    solver: str = "rpca",
    count: int = 4,
    *,
    outside_rank: int | None = None,
    outside_energy: float | None = None,
    c: float = 0.377,
    tau: float = 1e-3,
    relax: int = 0,
) -> Found:
    """Unit vectors that change the inside and not the outside.

    Args:
      inside: (d, d) M_A, as `Jacobian.gram` gives it.
      outside: (d, d) M_B.
      solver: "rpca", "rayleigh" or "pca".
      count: at most so many.
      outside_rank: axes of M_B to project off. By default the rank that robust PCA finds in M_B, less `relax`, for
        "rpca"; as many as hold 95 % of the trace for "pca"; none for "rayleigh".
      outside_energy: the same, as a share of the trace.
      c: of robust PCA.
      tau: of the pencil (ReSeFa's 1e-3).
      relax: axes of M_B to leave in, LowRankGAN's num_relax.

    Raises:
      ConfigError: if the forms do not fit together, or an argument is out of range.
      DirectionError: if nothing inside can move, or nothing of it is left by the projection.
    """
    A, B = (np.asarray(m, np.float64) for m in (inside, outside))
    square = A.ndim == 2 and A.shape[0] == A.shape[1] and A.shape == B.shape
    if not square or not np.isfinite(A).all() or not np.isfinite(B).all():
        raise ConfigError(f"the forms of inside {A.shape} and outside {B.shape} must be finite squares of one size")
    if solver not in SOLVERS or count < 1:
        raise ConfigError(f"solver {solver!r}, count {count}: solvers are {', '.join(SOLVERS)}, count is at least 1")
    if not np.trace(A) > 0:
        raise DirectionError("no pixel of the region moves with these rows: choose another region or more rows")
    candidates, notes = _candidates(A, B, solver, count, c, tau)
    away, more = _outside(B, solver, outside_rank, outside_energy, c, relax)
    notes += more
    projected = candidates - (candidates @ away.T) @ away
    kept = np.linalg.norm(projected, axis=1)
    usable = kept > 1e-6
    if not usable.any():
        raise DirectionError(
            f"nothing is left of the region's directions off {len(away)} axes of the outside: ask for fewer by "
            "outside_rank or outside_energy"
        )
    vectors = projected[usable] / kept[usable, None]
    moved, leaked = (np.sqrt(np.maximum(np.einsum("nd,de,ne->n", vectors, m, vectors), 0)) for m in (A, B))
    return Found(vectors, kept[usable], moved, leaked / np.maximum(moved, 1e-300), len(away), tuple(notes))


def region_directions(
    G: Generator,
    J: Jacobian,
    region: np.ndarray,
    solver: str = "rpca",
    count: int = 4,
    *,
    outside: np.ndarray | None = None,
    name: str = "region",
    **options: Any,
) -> list[Direction]:
    """Directions for one region of one image, to be applied to any other; strengths in sigma.

    The sign makes the largest change of a pixel inside, in the mean of its colours, a brightening: repeatable, and
    without meaning.

    Args:
      G: the generator of J.
      J: its Jacobian.
      region: (grid, grid) soft mask in [0, 1].
      solver: as in `solve`.
      count: at most so many.
      outside: (grid, grid) what must not change; the rest of the image by default.
      name: the directions are called name0, name1, ...
      **options: of `solve`.

    Returns:
      Directions with statistics "kept", "leak", "inside" (per sigma, images in [-1, 1]) and "outside_rank".

    Raises:
      RegionError: if the region is empty or the whole image.
      DirectionError: if J is of another generator, or as in `solve`.
      ConfigError: as in `solve`.
    """
    if J.fingerprint != G.fingerprint:
        raise DirectionError(f"this Jacobian is of generator {J.fingerprint}, not of {G.name or G.fingerprint}")
    mask = regions.check(region, name)
    outside = 1 - mask if outside is None else regions.check(outside, f"what {name} must not change")
    found = solve(J.gram(mask), J.gram(outside), solver, count, **options)
    weights = np.zeros(G.num_ws, np.float32)
    weights[list(J.rows)] = 1
    made = []
    for index, vector in enumerate(found.vectors):
        change = J.change(vector).mean(-1) * (mask > 0)
        vector = vector * np.sign(change.reshape(-1)[np.abs(change).argmax()])
        if J.tied:
            rows = vector
        else:
            rows = np.zeros((G.num_ws, G.w_dim))
            rows[list(J.rows)] = vector.reshape(len(J.rows), G.w_dim)
        d = Direction(
            name=f"{name}{index}",
            vector=jnp.asarray(rows, jnp.float32),
            layer_weights=jnp.asarray(weights),
            scale=1.0,
            unit="w",
            space="w" if J.tied else "w+",
            fingerprint=G.fingerprint,
            origin=_origin(J, solver, found),
            statistics={},
        )
        d = directions.in_unit(d, "sigma", G)
        known = {"kept": found.kept[index], "leak": found.leak[index], "inside": found.inside[index] * float(d.scale)}
        known = {key: jnp.float32(value) for key, value in known.items()}
        made.append(d.replace(statistics=d.statistics | known | {"outside_rank": jnp.float32(found.outside_rank)}))
    return made


def _candidates(A, B, solver, count, c, tau):
    """Unit rows that move the inside, strongest first, and notes."""
    most = min(count, len(A) - 1)
    if solver == "rayleigh":
        shifted = B + tau * max(np.trace(B), 1e-12 * np.trace(A)) * np.eye(len(A))
        lower = np.linalg.cholesky(shifted)
        half = np.linalg.solve(lower, np.linalg.solve(lower, A).T)
        rows = np.linalg.solve(lower.T, axes_of((half + half.T) / 2, rank=most).T).T
        return rows / np.linalg.norm(rows, axis=1, keepdims=True), []
    if solver == "pca":
        return axes_of(A, rank=most), []
    part = robust_pca(A, c, tolerance=_TOLERANCE, iterations=_ITERATIONS)
    notes = _notes("inside", part, c)
    return axes_of(part.low_rank if part.rank else A, rank=min(most, part.rank or most)), notes


def _outside(B, solver, rank, energy, c, relax):
    """Axes of the outside to project off, and notes."""
    if rank is not None or energy is not None:
        return axes_of(B, rank, energy), []
    if solver == "rayleigh":
        return axes_of(B, rank=0), []
    if solver == "pca":
        return axes_of(B, energy=0.95), []
    part = robust_pca(B, c, tolerance=_TOLERANCE, iterations=_ITERATIONS)
    rank = min(max(1, part.rank - relax), len(B) - 1)
    return axes_of(part.low_rank if part.rank else B, rank), _notes("outside", part, c)


def _notes(where: str, part: LowRank, c: float) -> list[str]:
    if not part.rank:
        return [
            f"robust PCA leaves no low-rank part of the {where} at c = {c:g}: its leading axes are taken as they are"
        ]
    if max(part.primal, part.dual) > _TOLERANCE:
        return [f"robust PCA of the {where} stopped after {part.iterations} iterations at residual {part.primal:.1g}"]
    return []


def _origin(J: Jacobian, solver: str, found: Found) -> str:
    moving = f"rows {J.rows[0]}-{J.rows[-1]}" if len(J.rows) > 1 else f"row {J.rows[0]}"
    told = f"; {'; '.join(found.notes)}" if found.notes else ""
    return f"Jacobian of {moving} on {J.grid} pixels, {solver}, {found.outside_rank} axes projected off{told}"
