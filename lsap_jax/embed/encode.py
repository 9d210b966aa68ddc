"""Codes by an encoder: one pass, or ReStyle's iterated residuals (arXiv 2104.02699)."""

import jax
import jax.numpy as jnp

from lsap_jax.data import resize
from lsap_jax.errors import ConfigError
from lsap_jax.generators.base import Generator
from lsap_jax.networks.encoders import Encoder


def encode(
    E: Encoder, G: Generator, images: jax.Array, iterations: int = 1, mask: jax.Array | None = None
) -> jax.Array:
    """Encode images.

    A ReStyle encoder (input "rgb+render") sees the image beside the render of the code so far, at first of
    `E.start`, and adds its output to that code, `iterations` times. Others make the code at once.

    Args:
      E: the encoder.
      G: the generator whose codes it makes (`check_fits` compares fingerprints; here only sizes are looked at).
      images: (B, S, S, 3) in [-1, 1], sized as `E` takes them.
      iterations: of a ReStyle encoder; 5 in its paper.
      mask: (B, S, S, 1) for encoders with that input.

    Returns:
      (B, num_ws, w_dim).

    Raises:
      ConfigError: if `E` does not fit `G`, or cannot iterate.
      ImageError: if the images have another size.
    """
    _check_sizes(E, G)
    if iterations < 1:
        raise ConfigError(f"iterations {iterations}: at least 1")
    if E.arch.input != "rgb+render":
        if iterations > 1:
            raise ConfigError(
                f"{iterations} iterations with an encoder of input {E.arch.input!r}: only ReStyle's iterate"
            )
        return E(images, mask=mask)
    if mask is not None:
        raise ConfigError("this encoder takes no `mask`; one with input 'rgb+mask' does")
    batch = images.shape[0]
    ws = jnp.broadcast_to(E.start[None], (batch, *E.start.shape))
    render = jnp.broadcast_to(_render(E, G, E.start[None]), (batch, E.arch.resolution, E.arch.resolution, 3))
    for i in range(iterations):
        ws = ws + E.offsets(images, render)
        if i + 1 < iterations:
            render = _render(E, G, ws)
    return ws


def check_fits(E: Encoder, G: Generator) -> None:
    """Make sure that an encoder makes codes of this generator.

    Raises:
      ConfigError: if sizes differ, or the encoder was made for a generator of another fingerprint.
    """
    _check_sizes(E, G)
    if E.generator and E.generator != G.fingerprint:
        raise ConfigError(
            f"encoder {E.name or 'without a name'} makes codes of generator {E.generator}, "
            f"and {G.name or 'this one'} is {G.fingerprint}: their codes mean different images"
        )


def _check_sizes(E: Encoder, G: Generator) -> None:
    if (E.arch.num_ws, E.arch.w_dim) != (G.num_ws, G.w_dim):
        raise ConfigError(
            f"the encoder makes codes of shape {(E.arch.num_ws, E.arch.w_dim)}, "
            f"and the generator takes {(G.num_ws, G.w_dim)}: they were not made for one another"
        )


def _render(E: Encoder, G: Generator, ws: jax.Array) -> jax.Array:
    return resize.area(G.synthesize(ws), E.arch.resolution)
