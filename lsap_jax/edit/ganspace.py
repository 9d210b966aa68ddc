"""GANSpace (Harkonen et al., arXiv:2004.02546): principal components as editing directions.

Of W itself, whose axes need nothing but statistics of samples; or of the activations of a block. Those are transferred
to W as the paper does: with x the coordinates of an activation along the components, the directions are the columns of
U in the least squares problem  min sum_j |U x_j - (w_j - mean w)|^2.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.data import samples
from lsap_jax.edit import directions
from lsap_jax.edit.directions import Direction
from lsap_jax.errors import ConfigError, DirectionError
from lsap_jax.generators.base import Generator

_COLUMNS = 16384  # of a block of activations that is brought to float64 at once


class Components(NamedTuple):
    """Principal components of vectors that were seen batch by batch.

    Attributes:
      mean: (D,) float32.
      rows: (k, D) float32, orthonormal, largest variance first.
      stddev: (k,) standard deviation along each.
      total: variance of all D numbers together.
      seen: how many vectors.
    """

    mean: np.ndarray
    rows: np.ndarray
    stddev: np.ndarray
    total: float
    seen: int


def from_w(G: Generator, count: int, layers: str | Sequence[int] | None = None) -> list[Direction]:
    """The first principal axes of W, strengths in sigma: `directions.w_pca`.

    Raises:
      DirectionError: if W has fewer axes, or layers are not the generator's.
    """
    return directions.w_axes(G, range(count), layers)


def from_activations(
    G: Generator,
    block: int,
    count: int,
    layers: str | Sequence[int] | None = None,
    *,
    num_samples: int = 4000,
    batch: int = 16,
    extra: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Direction]:
    """Directions of W that go with the principal components of a block's activations; strengths in sigma.

    Two passes over the same samples: incremental PCA, then the regression. Memory is about three times
    (count + extra + batch) x (h * w * channels) numbers, however many samples there are.

    Args:
      G: the generator; its stored noise is used.
      block: whose output is analysed, from 0.
      count: of components.
      layers: rows of W+ that the directions edit; all by default.
      num_samples: how many codes are drawn, without truncation.
      batch: of them rendered together.
      extra: components carried along beyond `count`, so that the last ones asked for are exact too.
      seed: of the draw.
      progress: called with (samples done, samples to do), both passes counted.

    Returns:
      Directions named act{block}c0, ... The sign makes the entry of largest magnitude positive. Statistics: "share" of
      the activations' variance, and "r2", the part of the component's variance that a linear map of W explains.

    Raises:
      ConfigError: if there is no such block, or fewer samples than components.
      DirectionError: if activations do not vary along so many components, or layers are not the generator's.
    """
    if not 0 <= block < G.num_blocks:
        raise ConfigError(f"block {block}: those of {G.name or 'this generator'} are 0 to {G.num_blocks - 1}")
    if not 1 <= count < num_samples or batch < 1 or extra < 0:
        raise ConfigError(
            f"{count} components of {num_samples} samples in batches of {batch}: take more samples than that"
        )
    tell = progress or (lambda done, total: None)
    found, done = None, 0
    for _, activations in _activations(G, block, num_samples, batch, seed):
        found = update(found, activations, count + extra)
        done += len(activations)
        tell(done, 2 * num_samples)
    assert found is not None  # there is at least one batch
    found = found._replace(rows=found.rows[:count], stddev=found.stddev[:count])
    if len(found.rows) < count or not (found.stddev > 1e-5 * np.sqrt(found.total)).all():
        rank = int((found.stddev > 1e-5 * np.sqrt(found.total)).sum())
        raise DirectionError(f"the activations of block {block} vary along {rank} components only: ask for no more")
    sums = _Sums(count, G.w_dim)
    for w, activations in _activations(G, block, num_samples, batch, seed):
        sums.add((activations - found.mean) @ found.rows.T / found.stddev, w - np.asarray(G.w_avg))
        done += len(activations)
        tell(done, 2 * num_samples)
    U, r2 = sums.solve()
    fingerprint, made = G.fingerprint, []
    for index, column in enumerate(U):
        vector = column * np.sign(column[np.abs(column).argmax()])
        length = np.linalg.norm(vector)
        if not length > 0:
            raise DirectionError(f"component {index} of block {block} does not depend on W linearly: no direction")
        origin = f"principal component {index} of block {block}'s activations, {num_samples} samples, regressed on W"
        d = Direction(
            f"act{block}c{index}",
            jnp.asarray(vector / length, jnp.float32),
            None,
            1.0,
            "w",
            "w",
            fingerprint,
            origin,
            {},
        )
        d = directions.fitted(d if layers is None else directions.restrict(d, layers), G)
        d = directions.in_unit(d, "sigma", G)
        share = jnp.float32(found.stddev[index] ** 2 / found.total)
        made.append(d.replace(statistics=d.statistics | {"share": share, "r2": jnp.float32(r2[index])}))
    return made


def update(found: Components | None, batch: np.ndarray, keep: int) -> Components:
    """Incremental PCA: the components of all vectors so far, after one more batch.

    The SVD of [old components times their singular values; the batch less its mean; the shift of the mean] (Ross, Lim,
    Lin and Yang, IJCV 2008), by the eigenvalues of the rows' Gram matrix in float64, since the rows are few and long.
    What falls off beyond `keep` components is lost; with as many as the data's rank the result is that of one PCA.

    Args:
      found: what the last call returned, None at first.
      batch: (b, D) float32.
      keep: components to hold.
    """
    batch = np.asarray(batch, np.float32)
    b, mean = len(batch), batch.mean(0, dtype=np.float64)
    if found is None:
        rows, seen = batch - mean.astype(np.float32), b
        total = float(np.square(rows, dtype=np.float64).sum())
    else:
        seen = found.seen + b
        shift = (found.mean - mean) * np.sqrt(found.seen * b / seen)
        centred = batch - mean.astype(np.float32)
        singular = found.stddev * np.sqrt(max(found.seen - 1, 1))
        rows = np.concatenate(
            [found.rows * singular[:, None], centred, shift[None]], dtype=np.float32, casting="same_kind"
        )
        total = found.total * max(found.seen - 1, 1)
        total += float(np.square(centred, dtype=np.float64).sum() + np.square(shift).sum())
        mean = (found.mean * found.seen + mean * b) / seen
    gram = np.zeros((len(rows), len(rows)))
    for at in range(0, rows.shape[1], _COLUMNS):
        part = rows[:, at : at + _COLUMNS].astype(np.float64)
        gram += part @ part.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:keep], vectors[:, ::-1][:, :keep]
    real = values > 1e-12 * max(values[0], 1e-300)
    values, vectors = values[real], vectors[:, real]
    components = (vectors / np.sqrt(values)).astype(np.float32).T @ rows
    freedom = max(seen - 1, 1)
    return Components(np.asarray(mean, np.float32), components, np.sqrt(values / freedom), total / freedom, seen)


class _Sums:
    """The normal equations of the regression, collected batch by batch in float64."""

    def __init__(self, count: int, w_dim: int):
        self.n, self.x, self.w = 0, np.zeros(count), np.zeros(w_dim)
        self.xx, self.xw, self.ww = np.zeros((count, count)), np.zeros((count, w_dim)), np.zeros((w_dim, w_dim))

    def add(self, x: np.ndarray, w: np.ndarray) -> None:
        """Coordinates (b, count) and codes (b, w_dim)."""
        x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
        self.n += len(x)
        self.x += x.sum(0)
        self.w += w.sum(0)
        self.xx += x.T @ x
        self.xw += x.T @ w
        self.ww += w.T @ w

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """U's columns as rows (count, w_dim), and the share of each coordinate's variance linear in w (count,)."""
        xx, xw, ww = (
            s - np.outer(a, b) / self.n
            for s, a, b in ((self.xx, self.x, self.x), (self.xw, self.x, self.w), (self.ww, self.w, self.w))
        )
        U = np.linalg.solve(xx, xw)
        ridge = 1e-9 * np.trace(ww) / len(ww) * np.eye(len(ww))
        explained = np.einsum("kd,dk->k", xw, np.linalg.solve(ww + ridge, xw.T))
        return U, explained / np.diag(xx)


def _activations(
    G: Generator, block: int, count: int, batch: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Codes (b, w_dim) and the block's activations (b, D), batch by batch; the same ones on every call."""
    settings = samples.Settings((1.0, 1.0), 0.0)
    for at in range(0, count, batch):
        ws = samples.numbered(G, jax.random.key(seed), jnp.arange(at, at + batch), settings)
        x = G.run_blocks(G.initial_features(batch), ws, stop=block + 1).x
        here = min(batch, count - at)
        yield np.asarray(ws[:here, 0]), np.asarray(x[:here].reshape(here, -1), np.float32)
