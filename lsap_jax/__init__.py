"""GAN inversion and editing of real photos in JAX: LSAP and the methods around it.

import lsap_jax as lj

G = lj.load_generator("ffhq-mobile")
inversion = lj.invert(G, photos, preset="lsap-calibrated", steps=100)
older = inversion.render(lj.apply_direction(inversion.ws, direction, 2.0))
"""

from lsap_jax import errors, pretrained
from lsap_jax.edit.directions import Direction, apply_direction, load_direction
from lsap_jax.embed.inversion import Inversion, invert
from lsap_jax.errors import LsapError
from lsap_jax.generators.base import Features, Generator
from lsap_jax.latent import alignment, spaces
from lsap_jax.networks.encoders import Encoder
from lsap_jax.networks.identity import identity
from lsap_jax.networks.lpips import load as lpips
from lsap_jax.pretrained import load_encoder, load_generator

__version__ = "0.1.0"

__all__ = [
    "Direction",
    "Encoder",
    "Features",
    "Generator",
    "Inversion",
    "LsapError",
    "alignment",
    "apply_direction",
    "errors",
    "identity",
    "invert",
    "load_direction",
    "load_encoder",
    "load_generator",
    "lpips",
    "pretrained",
    "spaces",
]
