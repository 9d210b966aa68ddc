"""Latent editing consistency: values that can be worked out by hand."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lsap_jax.metrics import consistency


class Fake:
    """An "encoder" that makes codes by a given function."""

    def __init__(self, G, codes):
        self.arch = types.SimpleNamespace(num_ws=G.num_ws, w_dim=G.w_dim, input="rgb")
        self.name, self.codes = "fake", codes

    def __call__(self, images, mask=None):
        return self.codes(images)


@pytest.mark.fast
def test_an_encoder_that_looks_at_nothing_is_off_by_the_edit():
    G = tiny.shallow()
    E = Fake(G, lambda images: jnp.zeros((len(images), G.num_ws, G.w_dim)))
    edit = jnp.full((G.num_ws, G.w_dim), 0.5)
    got = consistency.latent_editing_consistency(E, G, tiny.photos(G, 2), edit)
    np.testing.assert_allclose(got, [0.5 * (G.num_ws * G.w_dim) ** 0.5] * 2, rtol=1e-6)


@pytest.mark.fast
def test_an_encoder_that_knows_the_true_codes_is_consistent():
    G = tiny.shallow()
    true = G.broadcast(jnp.asarray(np.random.RandomState(0).randn(1, G.w_dim), jnp.float32))
    edit = jnp.full((G.num_ws, G.w_dim), 0.1)
    seen = [true, true + edit[None]]

    E = Fake(G, lambda images: seen.pop(0))
    got = consistency.latent_editing_consistency(E, G, jnp.zeros((1, 32, 32, 3)), edit)
    np.testing.assert_allclose(got, [0.0], atol=1e-5)


@pytest.mark.fast
def test_the_trimmed_mean_leaves_out_the_outermost_hundredths():
    values = np.concatenate([np.full(98, 2.0), [1e6], [-1e6]])
    assert consistency.trimmed_mean(values) == 2.0
