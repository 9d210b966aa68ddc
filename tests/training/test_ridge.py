"""The closed-form start of a head: it finds a linear map, and its first layers are what the regression says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lsap_jax.errors import ConfigError
from lsap_jax.latent import spaces
from lsap_jax.networks import encoders
from lsap_jax.networks.encoders import EncoderArch, Stage
from lsap_jax.training import ridge

STAGES = (Stage(4, 1), Stage(8, 1), Stage(8, 1))


def arch(head="w+", width=8):
    G = tiny.shallow()
    return EncoderArch(
        trunk="dlib", stages=STAGES, head=head, resolution=64, num_ws=G.num_ws, w_dim=G.w_dim, width=width
    )


def test_codes_that_are_linear_in_the_features_are_found():
    G, described = tiny.shallow(), arch()
    net = encoders.module(described)
    images = jax.random.uniform(jax.random.key(1), (600, 64, 64, 3), minval=-1)
    variables = net.init(jax.random.key(0), images[:1])
    # Codes made from the features by a hidden linear map, the same in every row.
    trunk = encoders.TRUNKS["dlib"][0](STAGES)
    maps = trunk.apply({"params": variables["params"]["trunk"]}, images)[-1]
    flat = ((maps - maps.mean((0, 1, 2), keepdims=True)) / maps.std((0, 1, 2), keepdims=True)).mean((1, 2))
    secret = jax.random.normal(jax.random.key(2), (flat.shape[1], G.w_dim))
    start = jnp.broadcast_to(G.w_avg, (G.num_ws, G.w_dim))
    ws = start[None] + 0.3 * (flat @ secret)[:, None]
    batches = [(images[i : i + 50], ws[i : i + 50]) for i in range(0, 600, 50)]
    fitted, figures = ridge.fit(variables, described, batches, start, spaces.w_statistics(G, 2_000))
    assert figures["explained"] > 0.95
    got = start[None] + net.apply(fitted, images[:50])
    assert got.shape == ws[:50].shape
    error = jnp.square(got - ws[:50]).sum() / jnp.square(ws[:50] - ws.mean(0, keepdims=True)).sum()
    assert float(error) < 0.05
    np.testing.assert_allclose(got[:, 0], got[:, 2], atol=1e-6)  # one code for all rows
    jax.tree.map(np.testing.assert_array_equal, fitted["params"]["trunk"], variables["params"]["trunk"])


@pytest.mark.fast
@pytest.mark.parametrize("described", [arch(head="e4e"), arch(width=9)], ids=["head", "width"])
def test_other_heads_are_refused(described):
    with pytest.raises(ConfigError, match=r"encoder\.fit"):
        ridge.fit({}, described, [], jnp.zeros((3, 8)), None)


@pytest.mark.fast
def test_both_systems_have_one_solution():
    random = np.random.RandomState(0)
    x, y = random.randn(40, 30), random.randn(40, 3)
    wide = ridge._solve(x, y, 0.1)
    z = x - x.mean(0)
    dual = z.T @ np.linalg.solve(z @ z.T + 0.1 * 30 * np.eye(40), y - y.mean(0))
    np.testing.assert_allclose(wide[0], dual, rtol=1e-6, atol=1e-9)
