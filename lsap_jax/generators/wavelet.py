"""One level of the two-dimensional Haar wavelet transform, as adds and reshapes.

Bands are channel blocks [LL, LH, HL, HH] of C each: LL the local mean, LH the change over rows, HL over columns, HH the
diagonal. The transform is orthonormal, so `haar` and `inverse_haar` are each other's inverse and transpose.
MobileStyleGAN (arXiv 2104.04767) upsamples by `inverse_haar`.
"""

import jax
import jax.numpy as jnp

from lsap_jax.generators.ops import interleave


def inverse_haar(x: jax.Array) -> jax.Array:
    """(B, h, w, 4C) bands -> (B, 2h, 2w, C).

    y[2i+a, 2j+b] = (LL + (-1)^a LH + (-1)^b HL + (-1)^(a+b) HH) / 2 at (i, j).
    """
    ll, lh, hl, hh = jnp.split(0.5 * x, 4, axis=-1)
    top = interleave([ll + lh + hl + hh, ll + lh - hl - hh], axis=2)
    bottom = interleave([ll - lh + hl - hh, ll - lh - hl + hh], axis=2)
    return interleave([top, bottom], axis=1)


def haar(y: jax.Array) -> jax.Array:
    """(B, 2h, 2w, C) -> (B, h, w, 4C) bands: the inverse of `inverse_haar`."""
    y = 0.5 * y
    p, q, r, s = y[:, 0::2, 0::2], y[:, 0::2, 1::2], y[:, 1::2, 0::2], y[:, 1::2, 1::2]
    return jnp.concatenate([p + q + r + s, p + q - r - s, p - q + r - s, p - q - r + s], axis=-1)
