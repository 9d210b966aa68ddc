"""Generators small enough for tests: a StyleGAN2 of 32 pixels, and one that hardly computes anything."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.generators import stylegan2
from lsap_jax.generators.base import Features, Generator


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


@dataclasses.dataclass(frozen=True)
class Shallow:
    """An architecture that compiles in no time: pixels are linear in the tanh of three styles, plus noise."""

    resolution: int = 32
    z_dim: int = 8
    w_dim: int = 8
    num_ws: int = 3

    kind: ClassVar[str] = "shallow"
    label_dim: ClassVar[int] = 0
    num_blocks: ClassVar[int] = 3
    noise_of_block: ClassVar[tuple] = ((0,), (1,), ())

    @property
    def noise_shapes(self):
        return ((8, 8), (32, 32))

    def map(self, params, z, labels):
        return jnp.tanh(z @ params["mapping"]) + 0.3 * z

    def styles(self, params, ws):
        return tuple(ws[:, l] @ params["affine"][str(l)] + 1 for l in range(self.num_ws))

    def alignment_styles(self, styles):
        return styles

    @property
    def alignment_rows(self):
        return tuple(range(self.num_ws))

    def initial_features(self, params, batch):
        return Features(jnp.zeros((batch, self.resolution, self.resolution, 3)))

    def run_block(self, params, index, features, styles, noise):
        x = features.x + jnp.einsum("bc,chwd->bhwd", jnp.tanh(styles[index]), params["basis"][str(index)])
        if noise and noise[0] is not None:
            factor = self.resolution // noise[0].shape[1]
            x = x + 0.05 * jnp.repeat(jnp.repeat(noise[0], factor, 1), factor, 2)
        return Features(x)

    def to_image(self, params, features):
        return features.x

    def preview_blocks(self, previews):
        return {}


@functools.cache
def shallow(seed: int = 0) -> Generator:
    arch = Shallow()
    random = np.random.RandomState(seed)

    def normal(*shape, scale=1.0):
        return jnp.asarray(scale * random.randn(*shape), jnp.float32)

    # Smooth basis pictures, so that a smaller working resolution keeps something to see.
    basis = {str(l): jnp.repeat(jnp.repeat(normal(8, 8, 8, 3, scale=0.15), 4, 1), 4, 2) for l in range(3)}
    params = {"mapping": normal(8, 8), "affine": {str(l): normal(8, 8, scale=0.5) for l in range(3)}, "basis": basis}
    noise = tuple(normal(*shape) for shape in arch.noise_shapes)
    G = Generator(params, jnp.zeros(8), noise, arch, name=f"shallow-{seed}")
    return G.replace(w_avg=G.map(normal(10_000, 8)).mean(0))
