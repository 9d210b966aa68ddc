"""Robust PCA: a symmetric matrix as low rank plus sparse.

Principal component pursuit (Candes et al., arXiv:0912.3599) by alternating directions. LowRankGAN's code takes
lambda = 1/60 at d = 512, which is c = 0.377, a penalty mu that stays at d^2 / (4 |M|) with the operator 1-norm, and
stops on the primal residual alone; so it can stop at a point that is no optimum. Here mu begins with the sum of
magnitudes in the place of that norm, follows the larger of the two residuals, and both have to be small.
"""

from typing import NamedTuple

import numpy as np

from lsap_jax.errors import ConfigError

_REVIEW = 10  # iterations between two adjustments of mu


class LowRank(NamedTuple):
    """M = low_rank + sparse, as far as the iteration came.

    Attributes:
      low_rank: (d, d) symmetric.
      sparse: (d, d) symmetric.
      iterations: that were made.
      primal: |M - low_rank - sparse| / |M|.
      dual: mu |last change of sparse| / |multiplier|.
      rank: of `low_rank`: what the thresholding left above 0.
    """

    low_rank: np.ndarray
    sparse: np.ndarray
    iterations: int
    primal: float
    dual: float
    rank: int


def robust_pca(
    matrix: np.ndarray,
    c: float = 0.377,
    *,
    mu: float | None = None,
    adaptive: bool = True,
    tolerance: float = 1e-6,
    iterations: int = 10_000,
) -> LowRank:
    """Minimise |L|_* + lambda |S|_1 with L + S = M and lambda = c / sqrt(d), by ADMM.

    Args:
      matrix: (d, d), symmetric.
      c: smaller gives lower rank.
      mu: to begin with.
      adaptive: False keeps mu, and stops on the primal residual alone.
      tolerance: of the residuals, each relative to its own scale.
      iterations: at most.

    Raises:
      ConfigError: if the matrix is not square, symmetric and finite, or `c` is not positive.
    """
    M = np.asarray(matrix, np.float64)
    if M.ndim != 2 or M.shape[0] != M.shape[1] or not np.isfinite(M).all():
        raise ConfigError(f"robust PCA takes a finite square matrix; this one is {M.shape}")
    norm = float(np.linalg.norm(M))
    if not np.allclose(M, M.T, 0, 1e-6 * norm):
        raise ConfigError("robust PCA takes a symmetric matrix; this one is not")
    if not c > 0:
        raise ConfigError(f"c = {c}: lambda = c / sqrt(d) must be positive")
    if not norm:
        return LowRank(M, M, 0, 0.0, 0.0, 0)
    lam = c / len(M) ** 0.5
    mu = M.size / (4 * np.abs(M).sum()) if mu is None else mu
    sparse, multiplier = np.zeros_like(M), np.zeros_like(M)
    for count in range(1, iterations + 1):
        values, axes = np.linalg.eigh(M - sparse + multiplier / mu)
        # The singular values of a symmetric matrix are the magnitudes of its eigenvalues.
        shrunk = np.sign(values) * np.maximum(np.abs(values) - 1 / mu, 0)
        left = np.flatnonzero(shrunk)
        low_rank = (axes[:, left] * shrunk[left]) @ axes[:, left].T
        before, given = sparse, M - low_rank + multiplier / mu
        sparse = np.sign(given) * np.maximum(np.abs(given) - lam / mu, 0)
        gap = M - low_rank - sparse
        multiplier = multiplier + mu * gap
        primal = float(np.linalg.norm(gap)) / norm
        dual = mu * float(np.linalg.norm(sparse - before)) / max(float(np.linalg.norm(multiplier)), 1e-300)
        if primal <= tolerance and (dual <= tolerance or not adaptive):
            break
        if adaptive and count % _REVIEW == 0:
            mu *= min(max((primal / max(dual, 1e-300)) ** 0.5, 0.5), 2.0)
    return LowRank(low_rank, sparse, count, primal, dual, len(left))
