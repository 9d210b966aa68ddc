"""S_Disen and S_Div of a set of directions (ContraFeat, arXiv:2212.07277), for any measure of attributes.

    a_ij = | mean over samples of D_j(G(w + s d_i)) - D_j(G(w - s d_i)) |,  every row divided by its largest entry

    S_Disen = mean over rows of (largest - second largest entry)      each direction changes one attribute only
    S_Div   = number of attributes that are the largest of some row   together they change many

Both depend on which attributes are measured, and in which units: by default every attribute is divided by its own
spread over samples first, as degrees of yaw and shares of red cannot be compared otherwise. (The authors' predictor
gives all its outputs one scale, so they do not divide.)
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from lsap_jax.data import samples
from lsap_jax.edit.directions import Direction, apply_direction
from lsap_jax.edit.scored_samples import Attributes
from lsap_jax.errors import ConfigError
from lsap_jax.generators.base import Generator
from lsap_jax.metrics.spread import Spread, spread


class Response(NamedTuple):
    """How attributes respond to directions.

    Attributes:
      change: (D, K) mean of D(w + s d) - D(w - s d), with its sign, in the attributes' units.
      deviation: (D, K) standard deviation of that difference over samples.
      count: (D, K) samples on which it could be measured; NaN is left out.
      own: (K,) standard deviation of each attribute over the unedited samples.
    """

    change: np.ndarray
    deviation: np.ndarray
    count: np.ndarray
    own: np.ndarray

    def matrix(self, in_spreads: bool = True) -> np.ndarray:
        """|change| (D, K), by default in units of `own`."""
        if not in_spreads:
            return np.abs(self.change)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.change == 0, 0, np.abs(self.change) / self.own)


def response(
    G: Generator,
    directions: Sequence[Direction],
    attributes: Attributes,
    count: int = 500,
    strength: float = 1.0,
    truncation: float = 0.5,
    seed: int = 0,
    batch: int = 8,
    *,
    resolution: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Response:
    """Measure the response of attributes to directions: count x (2 D + 1) renders.

    Args:
      G: the generator; its stored noise is used.
      directions: D of them.
      attributes: images (B, H, W, 3) -> (B, K).
      count: of samples, the same for all directions.
      strength: s, in the directions' unit; sigma makes them comparable.
      truncation: psi of the samples, ContraFeat's 0.5.
      seed: of the samples.
      batch: images rendered together.
      resolution: side of the images in pixels; all of the generator's by default.
      progress: called with (samples done, count).

    Raises:
      ConfigError: if there are no directions, or count is below 2.
      DirectionError: if a direction does not fit the generator.
    """
    if not directions or count < 2 or not strength:
        raise ConfigError(
            f"{len(directions)} directions, {count} samples, strength {strength}: at least 1, 2, and not 0"
        )
    side = resolution or G.resolution
    settings, plain, moved = samples.Settings((truncation, truncation), 0.0), [], []

    def measured(ws, here):
        return np.asarray(attributes(samples.render(G, ws, side, exact=side == G.resolution)), np.float64)[:here]

    for at in range(0, count, batch):
        here = min(batch, count - at)
        ws = samples.numbered(G, jax.random.key(seed), jnp.arange(at, at + batch), settings)
        plain.append(measured(ws, here))
        moved.append(
            [
                measured(apply_direction(ws, d, strength), here) - measured(apply_direction(ws, d, -strength), here)
                for d in directions
            ]
        )
        if progress:
            progress(at + here, count)
    change = np.concatenate(moved, axis=1)
    known = np.isfinite(change)
    number = known.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, change, 0).sum(1) / number
        square = np.where(known, np.square(change - mean[:, None]), 0).sum(1)
        deviation = np.where(number > 1, np.sqrt(square / (number - 1)), np.nan)
    own = np.array([spread(column).deviation for column in np.concatenate(plain).T])
    return Response(mean, deviation, number, own)


def s_disen(matrix: npt.ArrayLike) -> float:
    """S_Disen of a response matrix (D, K), from 0 to 1.

    A direction that changes nothing counts 0, as it disentangles nothing; one that could not be measured (NaN) is left
    out. Both are told by a warning. NaN if no row is left.

    Raises:
      ConfigError: if the matrix is not (D, K) with K at least 2, or has negative or infinite entries.
    """
    rows, _ = _rows(matrix)
    if not len(rows):
        return float("nan")
    top = np.sort(rows, axis=1)
    return float((top[:, -1] - top[:, -2]).mean())


def s_div(matrix: npt.ArrayLike) -> int:
    """S_Div of a response matrix (D, K): from 1 to the smaller of D and K, 0 if nothing changes.

    Rows of zeros and of NaN count for no attribute; a tie counts for the first.

    Raises:
      ConfigError: as `s_disen`.
    """
    rows, alive = _rows(matrix)
    return len(set(rows[alive].argmax(1).tolist()))


def over_seeds(measure: Callable[[int], Response], seeds: Sequence[int], in_spreads: bool = True) -> dict[str, Spread]:
    """{"s_disen", "s_div"} with their spread over seeds: ContraFeat's differ from run to run by as much as variants do.

    Args:
      measure: seed -> Response; may train the directions anew as well.
      seeds: of the runs.
      in_spreads: as in `Response.matrix`.
    """
    matrices = [measure(seed).matrix(in_spreads) for seed in seeds]
    return {"s_disen": spread([s_disen(m) for m in matrices]), "s_div": spread([s_div(m) for m in matrices])}


def _rows(matrix: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Rows without NaN divided by their maxima, rows of zeros as they are, and which are not zero."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[1] < 2 or np.isinf(matrix).any() or (matrix < 0).any():
        raise ConfigError(f"a response matrix is (D, K) of numbers from 0, K at least 2; given: {matrix.shape}")
    unknown = np.isnan(matrix).any(1)
    rows = matrix[~unknown]
    largest = rows.max(1, initial=0)
    alive = largest > 0
    if unknown.any() or not alive.all():
        warnings.warn(
            f"of {len(matrix)} directions {int(unknown.sum())} could not be measured and are left out, and "
            f"{int((~alive).sum())} change nothing and count 0",
            stacklevel=3,
        )
    return rows / np.where(alive, largest, 1)[:, None], alive
