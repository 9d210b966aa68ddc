"""Encoders small enough for tests: every trunk with few channels, weights drawn by numpy."""

import functools

import jax.numpy as jnp
import numpy as np
import tiny_ir_se

from lsap_jax.networks.encoders import Encoder, EncoderArch, module
from lsap_jax.networks.ir_se import Stage

STAGES = {
    "ir-se": tiny_ir_se.STAGES,
    "dlib": (Stage(4, 1), Stage(6, 1), Stage(8, 2)),
    "resnet": (Stage(4, 1), Stage(6, 1), Stage(8, 2)),
    "idinvert": (Stage(4, 1), Stage(6, 1), Stage(8, 2)),
}


def arch(trunk: str = "ir-se", **fields) -> EncoderArch:
    """A description with 32 pixels, 9 rows (so that all levels of the pyramid are used) of 8 numbers."""
    sizes = {"stages": STAGES[trunk], "resolution": 32, "num_ws": 9, "w_dim": 8, "width": 6}
    return EncoderArch(trunk, **{**sizes, **fields})


@functools.cache
def encoder(trunk: str = "ir-se", **fields) -> Encoder:
    """An encoder with random weights and start."""
    description = arch(trunk, **fields)
    variables = tiny_ir_se.variables(module(description), description.resolution, description.channels)
    start = np.random.RandomState(1).randn(description.num_ws, description.w_dim)
    return Encoder(variables, jnp.asarray(start, jnp.float32), description, name="tiny")


def images(count: int = 2, size: int = 32, channels: int = 3, seed: int = 3):
    """Noise in [-1, 1], (count, size, size, channels)."""
    return jnp.asarray(np.random.RandomState(seed).uniform(-1, 1, (count, size, size, channels)), jnp.float32)
