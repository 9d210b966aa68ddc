"""A generator small enough for tests: StyleGAN2 at 32 pixels, 16 channels, random weights with live noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

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
    random = np.random.RandomState(seed)  # numpy draws without a compilation for every shape

    def leaf(path, shape):
        names = [entry.key for entry in path]
        if names[-1] == "noise_strength":
            return np.full(shape, 0.1, np.float32)
        if names[-1] == "bias":
            return np.full(shape, float(names[-2] == "affine"), np.float32)
        scale = 100 if names[0] == "mapping" and "embed" not in names else 1
        return (scale * random.randn(*shape)).astype(np.float32)

    shapes = stylegan2.param_shapes(arch)
    params = jax.tree_util.tree_map_with_path(leaf, shapes, is_leaf=lambda x: isinstance(x, tuple))
    noise = tuple(jnp.asarray(random.randn(*shape), jnp.float32) for shape in arch.noise_shapes)
    G = Generator(jax.tree.map(jnp.asarray, params), jnp.zeros(16), noise, arch, name=f"tiny-{seed}")
    z = jnp.asarray(random.randn(10_000, 16), jnp.float32)
    labels = jnp.eye(label_dim)[random.randint(label_dim, size=10_000)] if label_dim else None
    return G.replace(w_avg=G.map(z, labels=labels).mean(0))


def photos(G: Generator, count: int, seed: int = 7) -> jax.Array:
    """Renders of random codes, as (count, H, W, 3) targets that can be reached."""
    z = jnp.asarray(np.random.RandomState(seed).randn(count, G.z_dim), jnp.float32)
    return jnp.clip(G.synthesize(G.broadcast(G.map(z))), -1, 1)
