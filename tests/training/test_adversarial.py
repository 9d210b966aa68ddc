"""Losses against critics, of codes and of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsap_jax.networks import discriminators
from lsap_jax.training.adversarial import critic_loss, encoder_adversarial, r1


@pytest.mark.fast
def test_values_by_hand():
    np.testing.assert_allclose(
        critic_loss(jnp.array([0.0, 2.0]), jnp.array([-1.0])), (0.693147 + 0.126928) / 2 + 0.313262, rtol=1e-5
    )
    np.testing.assert_allclose(encoder_adversarial(jnp.array([0.0, 2.0])), (0.693147 + 0.126928) / 2, rtol=1e-5)


def test_locked_rows_count_only_where_asked():
    logits = jax.random.normal(jax.random.key(0), (3, 5))
    rows = jnp.array([1.0, 1.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(encoder_adversarial(logits, rows), encoder_adversarial(logits[:, :2]), rtol=1e-6)
    np.testing.assert_allclose(encoder_adversarial(logits, rows > 0), encoder_adversarial(logits[:, :2]), rtol=1e-6)
    np.testing.assert_allclose(encoder_adversarial(logits, jnp.ones(5)), encoder_adversarial(logits), rtol=1e-6)
    gradient = jax.grad(encoder_adversarial)(logits, rows)
    assert np.abs(gradient[:, :2]).min() > 0
    np.testing.assert_array_equal(gradient[:, 2:], 0)


@pytest.mark.fast
def test_r1_of_a_quadratic():
    real = jax.random.normal(jax.random.key(0), (7, 4))
    penalty = r1(lambda x: (3 * x**2).sum(-1), real)
    np.testing.assert_allclose(penalty, (36 * real**2).sum(1).mean(), rtol=1e-5)


def test_an_image_critic_learns_to_tell_and_an_encoder_to_deceive():
    sizes = discriminators.sizes_for(8, finest=8, widest=8)
    D = discriminators.init(jax.random.key(0), sizes)
    real, fake = (0.5 * jax.random.normal(jax.random.key(i), (4, 8, 8, 3)) + i for i in (0, 1))

    @jax.jit
    @jax.value_and_grad
    def step(D):
        return critic_loss(D(real), D(fake)) + 0.5 * r1(D, real)

    losses = []
    for _ in range(10):
        loss, gradient = step(D)
        losses.append(float(loss))
        D = jax.tree.map(lambda p, g: p - 0.2 * g, D, gradient)
    assert losses[-1] < 0.9 * losses[0]

    deceiving = jax.jit(jax.value_and_grad(lambda images: encoder_adversarial(D(images))))
    loss, towards = deceiving(fake)
    assert float(deceiving(fake - 0.1 * towards)[0]) < float(loss)
