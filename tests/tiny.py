"""A generator small enough for tests: StyleGAN2 at 32 pixels, 16 channels, random weights with live noise."""

import functools

import jax
import jax.numpy as jnp

from lsap_jax.generators import stylegan2
from lsap_jax.generators.base import Generator


@functools.cache
def generator(seed: int = 0, label_dim: int = 0) -> Generator:
    arch = stylegan2.StyleGAN2(
        resolution=32,
        channels=((4, 16), (8, 16), (16, 16), (32, 8)),
        z_dim=16,
        w_dim=16,
        mapping_layers=2,
        label_dim=label_dim,
    )
    G = stylegan2.init(jax.random.key(seed), arch)
    strengths = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.full_like(x, 0.1) if path[-1].key == "noise_strength" else x, G.params
    )
    return G.replace(params=strengths, name=f"tiny-{seed}")


def photos(G: Generator, count: int, seed: int = 7) -> jax.Array:
    """Renders of random codes, as (count, H, W, 3) targets that can be reached."""
    return jnp.clip(G.synthesize(G.broadcast(G.map(jax.random.normal(jax.random.key(seed), (count, G.z_dim))))), -1, 1)
