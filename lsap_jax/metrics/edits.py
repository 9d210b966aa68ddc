"""What edits do to attributes and to identity: pure functions of measured numbers.

A measured number that is NaN (no face was found) makes the result of its image NaN, never a guess; `spread.spread`
tells how many were left out.
"""

from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from lsap_jax.errors import ConfigError
from lsap_jax.networks.identity import Identity


class Monotonicity(NamedTuple):
    """How steadily an attribute follows the strength.

    Attributes:
      steps: (B,) share of consecutive steps by which the attribute moves in the right sense; 1 is monotone.
      rank: (B,) Spearman's correlation of attribute and strength; 1 is monotone, 0 unrelated.
      change: (B,) attribute at the last strength less attribute at the first.
    """

    steps: np.ndarray
    rank: np.ndarray
    change: np.ndarray


class Entanglement(NamedTuple):
    """What else changes when a direction is followed.

    Attributes:
      mean: (D, K) mean change of attribute k along direction d, in units of the attribute's own spread.
      deviation: (D, K) standard deviation of that change over images.
      count: (D, K) images on which it could be measured.
    """

    mean: np.ndarray
    deviation: np.ndarray
    count: np.ndarray


def monotonicity(values: npt.ArrayLike, strengths: npt.ArrayLike, sign: int = 1) -> Monotonicity:
    """Of an attribute along strengths.

    A step that changes nothing is no step in the right sense.

    Args:
      values: (B, T) the attribute of every image at every strength.
      strengths: (T,) ascending.
      sign: 1 if the attribute is to grow with the strength, -1 if it is to fall.

    Raises:
      ConfigError: if shapes do not fit, or the strengths do not ascend.
    """
    values, strengths = np.asarray(values, np.float64), np.asarray(strengths, np.float64)
    if values.ndim != 2 or strengths.shape != values.shape[1:] or len(strengths) < 2 or sign not in (1, -1):
        raise ConfigError(f"values {values.shape} at strengths {strengths.shape}: give (B, T) and (T,), T at least 2")
    if not (np.diff(strengths) > 0).all():
        raise ConfigError(f"strengths {strengths.tolist()} must ascend")
    unknown = np.isnan(values).any(1)
    steps = np.where(unknown, np.nan, (np.diff(values, axis=1) * sign > 0).mean(1))
    rank = [np.nan if np.isnan(row).any() else sign * rank_correlation(row, strengths) for row in values]
    return Monotonicity(steps, np.array(rank), values[:, -1] - values[:, 0])


def rank_correlation(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Spearman's correlation of two rows of numbers; equal numbers share the mean of their ranks. NaN of a constant."""
    a, b = (_ranks(np.asarray(x, np.float64)) for x in (a, b))
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else float("nan")


def identity_kept(
    identity: Identity, inversion: jax.Array, edited: jax.Array, photo: jax.Array | None = None
) -> np.ndarray:
    """Is it still the same person? Cosine similarity (B,) of edited images to the unedited inversion.

    Args:
      identity: a recogniser, `networks.identity`.
      inversion: (B, S, S, 3) in [-1, 1].
      edited: the same shape.
      photo: (B, S, S, 3) what was inverted. With it the similarity of edit and photo is divided by that of inversion
        and photo: 1 means that the edit cost nothing that inversion had not lost already.
    """
    if photo is None:
        return np.asarray(identity(inversion, edited))
    return np.asarray(identity(photo, edited)) / np.asarray(identity(photo, inversion))


def entanglement(
    before: npt.ArrayLike, after: npt.ArrayLike, own: npt.ArrayLike, strength: float = 1.0
) -> Entanglement:
    """Change of every attribute along every direction, per unit of strength and of the attribute's own spread.

    The diagonal of directions made for the attributes should be large, everything else 0; as a direction's row is in
    common units, it can be read across.

    Args:
      before: (B, K) attributes of unedited images.
      after: (D, B, K) of the same images edited by every direction.
      own: (K,) standard deviation of each attribute over the generator's samples.
      strength: at which they were edited.

    Raises:
      ConfigError: if shapes do not fit, a spread is not above 0, or the strength is 0.
    """
    before, after, own = (np.asarray(x, np.float64) for x in (before, after, own))
    if before.ndim != 2 or after.shape != (len(after), *before.shape) or own.shape != before.shape[1:]:
        raise ConfigError(
            f"before {before.shape}, after {after.shape}, spread {own.shape}: give (B, K), (D, B, K), (K,)"
        )
    if not (own > 0).all() or not strength:
        raise ConfigError(
            f"spreads {own.tolist()}, strength {strength}: all spreads above 0, and a strength other than 0"
        )
    moved = (after - before) / own / strength
    known = np.isfinite(moved)
    count = known.sum(1)
    total = np.where(known, moved, 0).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        square = np.where(known, np.square(moved - mean[:, None]), 0).sum(1)
        deviation = np.where(count > 1, np.sqrt(square / (count - 1)), np.nan)
    return Entanglement(mean, deviation, count)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[group]
