"""The latent spaces of a style-based generator and their statistics.

| space | shape              | what                                                                     |
| ----- | ------------------ | ------------------------------------------------------------------------ |
| Z     | (B, z_dim)         | standard normal                                                          |
| W     | (B, w_dim)         | `G.map(z)`, one vector for all layers                                    |
| W+    | (B, num_ws, w_dim) | one w per layer; most codes of W+ are no codes of the generator's own    |
| S     | tuple of (B, C_l)  | `G.styles(ws)`, what each convolution is modulated by                    |
| S^N   | tuple of (B, C_l)  | S with every layer's vector at unit length (LSAP, arXiv:2209.12746)      |

Demodulation makes a convolution blind to the length of its style, so S^N keeps what the image depends on;
only the last toRGB, which is not demodulated, sees a length that S^N throws away.
"""

import flax.struct
import jax
import jax.numpy as jnp

from lsap_jax import cache
from lsap_jax.generators.base import Generator

_CHUNK = 2000


class WStatistics(flax.struct.PyTreeNode):
    """Mean, covariance and principal axes of W, estimated from samples of the generator.

    Attributes:
      mean: (w_dim,).
      covariance: (w_dim, w_dim).
      components: (w_dim, w_dim) orthonormal rows, largest variance first; the sign makes the entry of
        largest magnitude positive.
      stddev: (w_dim,) standard deviation along each row of `components`.
    """

    mean: jax.Array
    covariance: jax.Array
    components: jax.Array
    stddev: jax.Array

    @property
    def spread(self) -> jax.Array:
        """Root of the mean squared distance of w to its mean: the projector's scale of noise."""
        return jnp.sqrt(jnp.trace(self.covariance))


def w_statistics(G: Generator, num_samples: int = 100_000, seed: int = 0) -> WStatistics:
    """Statistics of W without truncation, cached by the generator's fingerprint.

    GANSpace's directions (Harkonen et al., arXiv:2004.02546) are the rows of `components`.

    Args:
      G: the generator; conditional ones are sampled with classes drawn uniformly.
      num_samples: how many w are drawn.
      seed: of the draw.
    """

    def compute():
        total = jnp.zeros((G.w_dim,))
        square = jnp.zeros((G.w_dim, G.w_dim))
        for w, weight in sample_w(G, num_samples, seed):
            # Around w_avg, a close guess of the mean, so that the subtraction below loses no digits.
            centred = w - G.w_avg[None]
            total, square = total + weight @ centred, square + centred.T @ (weight[:, None] * centred)
        offset = total / num_samples
        covariance = (square - num_samples * jnp.outer(offset, offset)) / (num_samples - 1)
        variance, vectors = jnp.linalg.eigh(covariance)
        rows = vectors.T[::-1]
        peak = jnp.take_along_axis(rows, jnp.abs(rows).argmax(1, keepdims=True), axis=1)
        return {
            "mean": G.w_avg + offset,
            "covariance": covariance,
            "components": rows * jnp.sign(peak),
            "stddev": jnp.sqrt(jnp.maximum(variance[::-1], 0)),
        }

    meta = {"kind": "w statistics", "fingerprint": G.fingerprint, "num_samples": num_samples, "seed": seed}
    tree = cache.remember(f"{meta['fingerprint']}-w-{num_samples}-{seed}", compute, meta)
    return WStatistics(**{name: jnp.asarray(value) for name, value in tree.items()})


def sample_w(G: Generator, num_samples: int, seed: int):
    """Yield (w (chunk, w_dim), weight (chunk,)) pairs; weight 0 marks the padding of the last chunk.

    Fixed chunks keep memory small and compile once; sample i depends on (seed, i // chunk, i % chunk) alone.
    """
    for index, start in enumerate(range(0, num_samples, _CHUNK)):
        key_z, key_label = jax.random.split(jax.random.fold_in(jax.random.key(seed), index))
        z = jax.random.normal(key_z, (_CHUNK, G.z_dim))
        labels = None
        if G.arch.label_dim:
            classes = jax.random.randint(key_label, (_CHUNK,), 0, G.arch.label_dim)
            labels = jax.nn.one_hot(classes, G.arch.label_dim)
        yield G.map(z, labels=labels), (jnp.arange(_CHUNK) < num_samples - start).astype(jnp.float32)


def truncate(ws: jax.Array, w_avg: jax.Array, psi: float, cutoff: int | None = None) -> jax.Array:
    """Pull the rows of a code towards the mean: ws' = w_avg + psi (ws - w_avg).

    Args:
      ws: (B, num_ws, w_dim).
      w_avg: (w_dim,).
      psi: 1 changes nothing, 0 gives the mean.
      cutoff: only the first `cutoff` rows; all by default.
    """
    rows = jnp.arange(ws.shape[1])[:, None] < (ws.shape[1] if cutoff is None else cutoff)
    return jnp.where(rows[None], w_avg[None, None] + psi * (ws - w_avg[None, None]), ws)


def mix(ws: jax.Array, other: jax.Array, crossover: int | tuple[int, ...]) -> jax.Array:
    """Style mixing: rows of `other` from row `crossover` on, or exactly the rows listed.

    Args:
      ws: (B, num_ws, w_dim), the code that gives the remaining rows.
      other: the same shape.
      crossover: a row index, or a tuple of row indices.
    """
    rows = jnp.arange(ws.shape[1])
    taken = rows >= crossover if isinstance(crossover, int) else jnp.isin(rows, jnp.asarray(crossover))
    return jnp.where(taken[None, :, None], other, ws)


def interpolate(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    """Linear interpolation of two codes of one shape: t = 0 gives a, t = 1 gives b; (T,) -> (T, *shape)."""
    t = jnp.reshape(jnp.asarray(t, jnp.float32), (-1,) + (1,) * a.ndim)
    return (1 - t) * a[None] + t * b[None]


def normalized_styles(styles: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """S -> S^N: every layer's vector at unit length, layer by layer; no mean is subtracted.

    The square is floored at 1e-24, so that an all-zero style gives zeros and a finite gradient.
    """
    return tuple(s * jax.lax.rsqrt(jnp.maximum(jnp.square(s).sum(-1, keepdims=True), 1e-24)) for s in styles)
