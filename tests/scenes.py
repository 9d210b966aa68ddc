"""A generator whose factors are known: a grey disc and a white bar on a coloured ground.

Each factor is driven by one direction of W, in one layer of W+, so that every method of discovery can be told what it
should have found. Pixels are smooth in the code, and the factors can be read back from the pixels alone.

| factor     | layer | sigma of W | range of the picture's own unit           |
| ---------- | ----- | ---------- | ----------------------------------------- |
| position   | 0     | 1.2        | the disc's centre, 11 to 21 pixels        |
| size       | 1     | 1.0        | the disc's radius, 3 to 8 pixels          |
| length     | 1     | 0.7        | the bar's, 6 to 26 pixels                 |
| brightness | 2     | 0.85       | the disc's, 0.1 to 0.9                    |
| hue        | 3     | 1.5        | the ground's, -1.2 to 1.2 radians         |

The other eleven directions of W have sigma 0.15 and do nothing.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.generators.base import Features, Generator

NAMES = ("position", "size", "length", "brightness", "hue")
LAYERS = (0, 1, 1, 2, 3)
SIGMAS = (1.2, 1.0, 0.7, 0.85, 1.5)
LOW = (11.0, 3.0, 6.0, 0.1, -1.2)
HIGH = (21.0, 8.0, 26.0, 0.9, 1.2)
BAND = 25  # rows from here on belong to the bar
_NOTHING = 0.15
_GROUND, _BAR = 0.5, 0.8  # amplitude of the ground's colour; grey of the bar


@dataclasses.dataclass(frozen=True)
class Scenes:
    """The architecture: block l turns row l of the code into its factors, `to_image` draws them."""

    resolution: int = 32
    w_dim: int = 16

    kind: ClassVar[str] = "scenes"
    label_dim: ClassVar[int] = 0
    num_ws: ClassVar[int] = 4
    num_blocks: ClassVar[int] = 4
    noise_shapes: ClassVar[tuple] = ()
    noise_of_block: ClassVar[tuple] = ((), (), (), ())

    @property
    def z_dim(self):
        return self.w_dim

    def map(self, params, z, labels):
        return params["mapping"]["mean"][None] + z * params["mapping"]["sigma"][None] @ params["axes"]

    def styles(self, params, ws):
        return tuple((ws[:, l] - params["mapping"]["mean"][None]) @ params["axes"].T for l in range(self.num_ws))

    def alignment_styles(self, styles):
        return styles

    @property
    def alignment_rows(self):
        return tuple(range(self.num_ws))

    def initial_features(self, params, batch):
        return Features(jnp.zeros((batch, 1, 1, len(NAMES))))

    def run_block(self, params, index, features, styles, noise):
        here = jnp.asarray([layer == index for layer in LAYERS], jnp.float32)[None]
        found = _factors(styles[index][:, : len(NAMES)])
        return Features(features.x + (here * found)[:, None, None])

    def to_image(self, params, features):
        return draw(features.x[:, 0, 0], self.resolution)

    def preview_blocks(self, previews):
        return {}


def _factors(coordinates):
    """Coordinates along the factors' directions (B, 5) -> factors (B, 5)."""
    low, high, sigma = (jnp.asarray(x)[None] for x in (LOW, HIGH, SIGMAS))
    return low + (high - low) * jax.nn.sigmoid(1.5 * coordinates / sigma)


def draw(factors, resolution=32):
    """(B, 5) factors -> (B, resolution, resolution, 3) pictures in [-1, 1]."""
    position, size, length, brightness, hue = (factors[:, i, None, None] for i in range(5))
    at = (jnp.arange(resolution) + 0.5) * 32 / resolution
    y, x = at[None, :, None], at[None, None, :]
    edge = 0.7
    disc = jax.nn.sigmoid((size - jnp.sqrt(jnp.square(x - position) + jnp.square(y - 12) + 1e-2)) / edge)
    bar = jax.nn.sigmoid((length - x) / edge) * jax.nn.sigmoid((1.5 - jnp.abs(y - 28)) / (edge / 2))
    turn = jnp.asarray([0, 2 / 3, 4 / 3])[None, None, None] * jnp.pi
    ground = _GROUND * jnp.cos(hue[..., None] - turn)  # its three channels add up to 0
    grey = (disc * brightness + bar * _BAR)[..., None]
    return ground * (1 - disc - bar)[..., None] + grey


def factors(x):
    """Codes (B, 4, w_dim) or pictures (B, H, H, 3) -> (B, 5) factors in the order of `NAMES`.

    Of pictures they are measured: colour is what the ground alone has, so its absence is the disc or the bar.
    """
    if x.ndim == 3:
        G = generator()
        return G.run_blocks(G.initial_features(len(x)), x).x[:, 0, 0]
    pixel = 32 / x.shape[1]
    at = (jnp.arange(x.shape[1]) + 0.5) * pixel
    grey = x.mean(-1)
    turn = jnp.asarray([0, 2 / 3, 4 / 3])[None, None, None] * jnp.pi
    across, along = (x * jnp.cos(turn)).sum(-1) / 1.5, (x * jnp.sin(turn)).sum(-1) / 1.5
    covered = 1 - jnp.sqrt(jnp.square(across) + jnp.square(along)) / _GROUND
    upper = (at < BAND)[None, :, None]
    disc, bar = jnp.where(upper, covered, 0), jnp.where(upper, 0, covered)
    area = disc.sum((1, 2))
    return jnp.stack(
        [
            (disc * at[None, None]).sum((1, 2)) / area,
            jnp.sqrt(area / jnp.pi) * pixel,
            bar.sum((1, 2)) * pixel**2 / 3,
            jnp.where(upper, grey, 0).sum((1, 2)) / area,
            jnp.arctan2(along.sum((1, 2)), across.sum((1, 2))),
        ],
        axis=1,
    )


@functools.cache
def generator(seed: int = 0) -> Generator:
    arch = Scenes()
    random = np.random.RandomState(seed)
    axes = np.linalg.qr(random.randn(arch.w_dim, arch.w_dim))[0].T
    sigma = np.full(arch.w_dim, _NOTHING)
    sigma[: len(SIGMAS)] = SIGMAS
    mean = 0.3 * random.randn(arch.w_dim)
    mapping = {"mean": jnp.asarray(mean, jnp.float32), "sigma": jnp.asarray(sigma, jnp.float32)}
    params = {"mapping": mapping, "axes": jnp.asarray(axes, jnp.float32)}
    return Generator(params, mapping["mean"], (), arch, name=f"scenes-{seed}")


def axis(name: str, seed: int = 0) -> jax.Array:
    """The unit vector of W that drives a factor."""
    return generator(seed).params["axes"][NAMES.index(name)]


def codes(count: int, seed: int = 0) -> jax.Array:
    """Random codes of W+, the same w in each row."""
    G = generator()
    return G.broadcast(G.map(jnp.asarray(np.random.RandomState(seed).randn(count, G.z_dim), jnp.float32)))
