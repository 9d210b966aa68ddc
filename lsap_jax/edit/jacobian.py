"""The generator's Jacobian: what every pixel does when the code moves a little.

One forward-mode sweep gives J once; any region, its complement and any solver then cost a small matrix product
(LowRankGAN, Zhu et al., arXiv:2106.04488; ReSeFa, Zhu et al., ICML 2022). Downsampling and the sum over colours are
part of what is differentiated, so J is all that is ever held: 134 MB for 512 columns on a grid of 256.

The tangents lie in the rows of W+ that will be edited and in no others: a direction found for rows 4 to 7 keeps its
promise when it is applied to rows 4 to 7. The reference differentiates all rows and edits four of them.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax import cache
from lsap_jax.checkpoints import store
from lsap_jax.data import resize
from lsap_jax.errors import ConfigError
from lsap_jax.generators.base import Generator

COLOURS = ("mean", "sum", "all")  # what becomes of the three channels of a pixel
_PIXELS_AT_ONCE = 8192  # of a Gram matrix: float32 products of that many rows, added up in float64


class Jacobian(flax.struct.PyTreeNode):
    """d(image) / d(code) around one code.

    Attributes:
      values: (grid, grid, channels, columns) float32, images in [-1, 1] per unit of W. Column i is the response to
        component i of a vector that is added to all of `rows` at once; if not `tied`, column r * w_dim + i to
        component i of row `rows[r]` alone.
      ws: (num_ws, w_dim) the code.
      rows: of W+ that move.
      tied: whether they move together.
      colour: "mean", "sum" or "all" of the channels.
      fingerprint: of the generator.
    """

    values: np.ndarray
    ws: np.ndarray
    rows: tuple[int, ...] = flax.struct.field(pytree_node=False)
    tied: bool = flax.struct.field(pytree_node=False)
    colour: str = flax.struct.field(pytree_node=False)
    fingerprint: str = flax.struct.field(pytree_node=False)

    @property
    def grid(self) -> int:
        """Side of the images, in pixels."""
        return self.values.shape[0]

    @property
    def columns(self) -> int:
        """Length of the vectors that it takes."""
        return self.values.shape[-1]

    def gram(self, region: np.ndarray) -> np.ndarray:
        """J^T diag(m) J / sum(m): the mean squared change of the region's pixels, as a quadratic form.

        Args:
          region: (grid, grid) soft mask m in [0, 1].

        Returns:
          (columns, columns) float64, symmetric.
        """
        mask = np.asarray(region, np.float32)
        if mask.shape != self.values.shape[:2]:
            raise ConfigError(f"the region is {mask.shape}, this Jacobian {self.values.shape[:2]}: resize the region")
        total = float(mask.sum(dtype=np.float64))
        if not total:
            raise ConfigError("the region is empty: no pixel of it is above 0")
        inside = mask.reshape(-1) > 0
        # A pixel of weight m counts m times in the squares, so its rows carry the root of m.
        weight = np.repeat(np.sqrt(mask.reshape(-1)[inside]), self.values.shape[2])
        found = np.zeros((self.columns, self.columns))
        pixels = self.values.reshape(mask.size, -1, self.columns)
        chosen = np.flatnonzero(inside)
        step = _PIXELS_AT_ONCE // self.values.shape[2]
        for at in range(0, len(chosen), step):
            block = pixels[chosen[at : at + step]].reshape(-1, self.columns)
            block = block * weight[at * self.values.shape[2] :][: len(block), None]
            found += block.T @ block
        return found / total

    def change(self, vector: np.ndarray) -> np.ndarray:
        """What the image does, to first order, along a vector (columns,): (grid, grid, channels)."""
        return self.values @ np.asarray(vector, np.float32)


def jacobian(
    G: Generator,
    ws: jax.Array,
    rows: tuple[int, ...] | None = None,
    *,
    tied: bool = True,
    grid: int = 256,
    colour: str = "mean",
    block: int = 64,
    keep: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Jacobian:
    """The Jacobian at one code, from the cache if it has been computed before.

    Args:
      G: the generator; its stored noise is used.
      ws: (num_ws, w_dim).
      rows: that move; None for all, which is the derivative to W.
      tied: one vector for all of them, or a vector each.
      grid: side in pixels of the area-averaged image; must divide the generator's resolution.
      colour: "mean" (the reference's: blind to changes of hue at equal mean), "sum" (ReSeFa's), or "all" channels.
      block: columns of one call, between two reports of progress.
      keep: whether to look into the cache and to write there.
      progress: called with (columns done, columns) after each block.

    Raises:
      ConfigError: if an argument does not fit the generator.
    """
    rows, ws = _checked(G, ws, rows, grid, colour)
    about = {
        "kind": "jacobian",
        "fingerprint": G.fingerprint,
        "code": store.fingerprint({"ws": np.asarray(ws)}),
        "rows": list(rows),
        "tied": tied,
        "grid": grid,
        "colour": colour,
    }

    def compute():
        parts, done = [], 0
        for part in columns(G, ws, rows, tied=tied, grid=grid, colour=colour, block=block):
            parts.append(np.asarray(part))
            done += part.shape[-1]
            if progress is not None:
                progress(done, G.w_dim * (1 if tied else len(rows)))
        return {"values": np.concatenate(parts, -1)}

    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8).hexdigest()
    name = f"{about['fingerprint']}-jacobian-{digest}"
    tree = cache.remember(name, compute, about) if keep else compute()
    return Jacobian(np.asarray(tree["values"]), np.asarray(ws), rows, tied, colour, about["fingerprint"])


def columns(
    G: Generator,
    ws: jax.Array,
    rows: tuple[int, ...] | None = None,
    *,
    tied: bool = True,
    grid: int = 256,
    colour: str = "mean",
    block: int = 64,
) -> Iterator[jax.Array]:
    """The Jacobian's columns, a block at a time: (grid, grid, channels, block or what is left) each; see `jacobian`."""
    rows, ws = _checked(G, ws, rows, grid, colour)
    count = G.w_dim * (1 if tied else len(rows))
    for at in range(0, count, block):
        basis = np.eye(count, dtype=np.float32)[at : at + block]
        filled = np.pad(basis, ((0, block - len(basis)), (0, 0)))  # one shape, one compilation
        yield push(G, ws, rows, tied, grid, colour, jnp.asarray(filled))[..., : len(basis)]


@functools.partial(jax.jit, static_argnames=("rows", "tied", "grid", "colour"))
def push(G: Generator, ws: jax.Array, rows: tuple[int, ...], tied: bool, grid: int, colour: str, vectors: jax.Array):
    """J times each of some vectors, (count, columns) -> (grid, grid, channels, count), without J.

    The code is rendered once, and only the linear part of that runs for each vector: less than a forward pass.
    """
    _, along = jax.linearize(functools.partial(_render, G, ws, rows, tied, grid, colour), jnp.zeros(vectors.shape[1:]))
    return jnp.moveaxis(jax.lax.map(along, vectors, batch_size=_together()), 0, -1)


@functools.partial(jax.jit, static_argnames=("rows", "tied", "grid", "colour"))
def pull(G: Generator, ws: jax.Array, rows: tuple[int, ...], tied: bool, grid: int, colour: str, pictures: jax.Array):
    """J^T times each of some pictures, (grid, grid, channels, count) -> (count, columns), without J."""
    size = G.w_dim * (1 if tied else len(rows))
    _, back = jax.vjp(functools.partial(_render, G, ws, rows, tied, grid, colour), jnp.zeros(size))
    return jax.lax.map(lambda picture: back(picture)[0], jnp.moveaxis(pictures, -1, 0), batch_size=_together())


def leading(
    G: Generator,
    ws: jax.Array,
    region: np.ndarray,
    count: int = 10,
    rows: tuple[int, ...] | None = None,
    *,
    tied: bool = True,
    colour: str = "mean",
    samples: int = 44,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The leading eigenvectors of a region's Gram matrix without its Jacobian: a randomised sketch.

    Y = M Q for `samples` random vectors Q costs a push and a pull each, and M is approximated by Y (Q^T Y)^-1 Y^T
    (Nystrom; Halko, Martinsson and Tropp, arXiv:0909.4061, algorithm 5.5; the shift that makes it stable is of Tropp et
    al., arXiv:1706.05736, algorithm 3).

    Args:
      G: the generator.
      ws: (num_ws, w_dim).
      region: (grid, grid) soft mask in [0, 1]; its side is the grid.
      count: of eigenvectors.
      rows: as in `jacobian`.
      tied: as in `jacobian`.
      colour: as in `jacobian`.
      samples: of the sketch; more are more exact, and dearer.
      seed: of Q.

    Returns:
      eigenvalues (count,) of `Jacobian.gram`'s matrix, largest first, and eigenvectors (count, columns) float64.
    """
    region = np.asarray(region, np.float32)
    rows, ws = _checked(G, ws, rows, len(region), colour)
    size = G.w_dim * (1 if tied else len(rows))
    if not count <= samples <= size:
        raise ConfigError(f"{samples} samples for {count} of {size} eigenvectors: choose a number between them")
    test = np.linalg.qr(np.random.RandomState(seed).randn(size, samples))[0].astype(np.float32)
    weight = jnp.asarray(region / region.sum(dtype=np.float64))[..., None, None]
    moved = push(G, ws, rows, tied, len(region), colour, jnp.asarray(test.T))
    pulled = pull(G, ws, rows, tied, len(region), colour, weight * moved)
    sketch, test = np.asarray(pulled).T.astype(np.float64), test.astype(np.float64)
    # Float32 noise makes Q^T Y slightly indefinite; the shift is far above that noise, and is taken off again.
    shift = 1e-6 * np.linalg.norm(sketch, 2)
    shifted = sketch + shift * test
    core = test.T @ shifted
    lower = np.linalg.cholesky((core + core.T) / 2)
    vectors, singular, _ = np.linalg.svd(np.linalg.solve(lower, shifted.T).T, full_matrices=False)
    return np.maximum(np.square(singular) - shift, 0)[:count], vectors.T[:count]


def _together() -> int | None:
    """Vectors that go through at once: on a CPU one by one is faster, its maps being larger than any cache."""
    return None if jax.default_backend() == "cpu" else 16


def _render(G, ws, rows, tied, grid, colour, vector):
    """What is differentiated: the small picture of the code with `vector` added to `rows`."""
    vector = vector.reshape(1 if tied else len(rows), G.w_dim)
    moved = ws.at[jnp.asarray(rows)].add(jnp.broadcast_to(vector, (len(rows), G.w_dim)))
    image = resize.area(G.synthesize(moved[None]), grid)[0]
    if colour == "all":
        return image
    return getattr(image, colour)(-1, keepdims=True)


def _checked(G, ws, rows, grid, colour):
    ws = jnp.asarray(ws, jnp.float32)
    if ws.shape != (G.num_ws, G.w_dim):
        raise ConfigError(f"a Jacobian is of one code ({G.num_ws}, {G.w_dim}), not of {ws.shape}")
    rows = tuple(range(G.num_ws)) if rows is None else tuple(sorted({int(row) for row in rows}))
    if not rows or rows[0] < 0 or rows[-1] >= G.num_ws:
        raise ConfigError(f"rows {list(rows)}: those of this generator are 0 to {G.num_ws - 1}")
    if grid < 1 or G.resolution % grid:
        raise ConfigError(f"grid {grid} does not divide the generator's {G.resolution} pixels")
    if colour not in COLOURS:
        raise ConfigError(f"colour {colour!r}: use one of {', '.join(COLOURS)}")
    return rows, ws
