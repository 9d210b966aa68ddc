"""Every file of configs/: it loads, its encoder can be built, its losses and schedule are what the papers say."""

import types

import config_files
import jax
import jax.numpy as jnp
import pytest

from lsap_jax import objectives, train
from lsap_jax.networks import encoders
from lsap_jax.training import progressive, state

NAMES = sorted(path.stem for path in config_files.FOLDER.glob("*.py"))


@pytest.mark.fast
@pytest.mark.parametrize("name", NAMES)
def test_it_describes_an_encoder_and_an_optimiser(name):
    options = config_files.load(name).train
    num_ws = 18 if name.startswith("ffhq") and name != "ffhq_mobile" else 16
    arch = train.describe(options, types.SimpleNamespace(num_ws=num_ws, w_dim=512))
    image = jax.ShapeDtypeStruct((1, arch.resolution, arch.resolution, arch.channels), jnp.float32)
    variables = jax.eval_shape(encoders.module(arch).init, jax.random.key(0), image)
    jax.eval_shape(state.optimizer(options).init, variables["params"])
    for term in ("l2", "lpips_alex", "id", "delta", "sncd"):
        assert term in objectives.TERMS
    train._check(options, devices=1)


def test_parameters_and_stages_of_the_published_recipes():
    generator = types.SimpleNamespace(num_ws=18, w_dim=512)
    counts = {"ffhq": 267_136_704, "ffhq_e4e": 267_136_704, "ffhq_psp": 267_136_704, "ffhq_restyle": 205_585_792}
    opened = {"ffhq": 21_600, "ffhq_e4e": 52_000, "ffhq_psp": 0, "ffhq_restyle": 52_000}
    for name, count in counts.items():
        options = config_files.load(name).train
        arch = train.describe(options, generator)
        image = jax.ShapeDtypeStruct((1, 256, 256, arch.channels), jnp.float32)
        params = jax.eval_shape(encoders.module(arch).init, jax.random.key(0), image)["params"]
        assert sum(x.size for x in jax.tree.leaves(params)) == count, name
        table = progressive.steps_table(18, options.progressive_start, options.progressive_every)
        assert table[-1] == opened[name], name
