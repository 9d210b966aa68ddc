"""SeFa: directions in closed form from the weights that turn codes into styles (Shen and Zhou, arXiv:2007.06600).

A style is an affine map of a row of W+, s = A w + b. Directions of W that change styles most, max |A v| over unit v,
are the leading eigenvectors of A^T A. As in the authors' code the maps of all chosen layers are stacked, one row for
each style channel, and every row is brought to unit length first, so that no channel counts more than another; without
it the largest channels alone decide.

Which styles there are, and which row of W+ each reads, is found by differentiating `G.arch.styles`, which is exact for
affine maps; no name of a weight is known here.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.edit import direction_files, directions
from lsap_jax.edit.directions import Direction
from lsap_jax.errors import DirectionError
from lsap_jax.generators.base import Generator


def sefa(G: Generator, count: int = 10, layers: str | Sequence[int] | None = None) -> list[Direction]:
    """The leading directions, strengths in sigma; the entry of largest magnitude is positive.

    Args:
      G: the generator.
      count: how many.
      layers: rows of W+ whose styles are to change, "0-7" or a sequence; the directions edit the same. All by default.

    Returns:
      Directions sefa0, sefa1, ... with statistics "eigenvalue" and "share", its part of all eigenvalues.

    Raises:
      DirectionError: if there are not so many directions, no such layers, or no style reads the chosen ones.
    """
    if not 1 <= count <= G.w_dim:
        raise DirectionError(f"{count} directions of SeFa: this generator's W has 1 to {G.w_dim}")
    values, vectors = factorise(style_weights(G, layers))
    chosen = direction_files.parse_layers(layers)
    words = "all rows" if chosen is None else f"rows {', '.join(map(str, chosen))}"
    fingerprint, found = G.fingerprint, []
    for index in range(count):
        origin = f"SeFa, eigenvector {index} of the style weights of {words} of {G.name or 'the generator'}"
        vector = jnp.asarray(vectors[index], jnp.float32)
        d = Direction(f"sefa{index}", vector, None, 1.0, "w", "w", fingerprint, origin, {})
        d = directions.fitted(d if chosen is None else directions.restrict(d, chosen), G)
        share = jnp.float32(values[index] / values.sum())
        d = directions.in_unit(d, "sigma", G)
        known = {"eigenvalue": jnp.float32(values[index]), "share": share}
        found.append(d.replace(statistics=d.statistics | known))
    return found


def factorise(weights: np.ndarray, normalise: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (w_dim,), largest first, and eigenvectors (w_dim, w_dim), in rows, of A^T A in float64.

    Args:
      weights: A, (channels, w_dim).
      normalise: every row of A to unit length, as the reference; rows of zeros stay.
    """
    A = np.asarray(weights, np.float64)
    if normalise:
        lengths = np.linalg.norm(A, axis=1, keepdims=True)
        A = A / np.where(lengths > 0, lengths, 1)
    values, vectors = np.linalg.eigh(A.T @ A)
    rows = vectors.T[::-1]
    peak = np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], axis=1)
    return np.maximum(values[::-1], 0), rows * np.sign(peak)


def style_weights(G: Generator, layers: str | Sequence[int] | None = None) -> np.ndarray:
    """A of every style channel that reads one of these rows of W+: (channels, w_dim) float32, in the order of use.

    The styles are those of S: of a StyleGAN2 every convolution's and the last toRGB's, which is SeFa's choice too.

    Raises:
      DirectionError: if there are no such rows, no style reads them, or the styles are not affine in the code.
    """
    chosen = direction_files.parse_layers(layers) or tuple(range(G.num_ws))
    if chosen[-1] >= G.num_ws:
        raise DirectionError(
            f"layer {chosen[-1]} is asked for, and the layers of {G.name or 'this generator'} are 0 to {G.num_ws - 1}"
        )
    blocks = [np.asarray(block) for row in chosen for block in _by_row(G, row) if np.any(block)]
    if not blocks:
        raise DirectionError(f"no style of {G.name or 'this generator'} reads layers {list(chosen)}")
    return np.concatenate(blocks)


def _by_row(G: Generator, row: int) -> tuple[jax.Array, ...]:
    """d(style) / d(ws[row]) of every style: (C_l, w_dim) each, zero where the style does not read the row."""
    derivatives, curvature = _derivatives(G, jnp.int32(row))
    if curvature > 1e-3:
        raise DirectionError(f"the styles of {G.name or 'this generator'} are not affine in its codes, as SeFa needs")
    return derivatives


@jax.jit
def _derivatives(G, row):
    """The derivatives at w_avg, and how much some of their columns differ at another code, relative to the largest."""
    basis = jnp.zeros((G.w_dim, G.num_ws, G.w_dim)).at[:, row].set(jnp.eye(G.w_dim))

    def styles(ws):
        return tuple(s[0] for s in G.arch.alignment_styles(G.arch.styles(G.params, ws[None])))

    def along(ws, tangents):
        return jax.vmap(lambda tangent: jax.jvp(styles, (ws,), (tangent,))[1], out_axes=-1)(tangents)

    def largest(arrays):
        return jnp.stack([jnp.abs(a).max() for a in arrays]).max()

    centre = jnp.broadcast_to(G.w_avg, (G.num_ws, G.w_dim))
    here, there = along(centre, basis), along(centre + 1, basis[:4])
    curvature = largest(a[:, :4] - b for a, b in zip(here, there, strict=True)) / jnp.maximum(largest(here), 1e-30)
    return here, curvature
