import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lsap_jax.latent import spaces

pytestmark = pytest.mark.fast


def test_statistics_are_those_of_the_samples(own_cache):
    G = tiny.generator()
    S = spaces.w_statistics(G, num_samples=4500)
    w = np.concatenate([np.asarray(w)[np.asarray(m) > 0] for w, m in spaces.sample_w(G, 4500, 0)])
    assert w.shape == (4500, 16)
    np.testing.assert_allclose(S.mean, w.mean(0), atol=1e-5)
    covariance = np.cov(w.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(S.covariance, covariance, atol=2e-5 * np.abs(covariance).max())
    np.testing.assert_allclose(S.components @ S.components.T, np.eye(16), atol=1e-5)
    projected = (w - w.mean(0)) @ np.asarray(S.components).T
    np.testing.assert_allclose(S.stddev, projected.std(0), rtol=2e-3)
    assert np.all(np.diff(S.stddev) <= 0)
    np.testing.assert_allclose(S.spread, np.sqrt(((w - w.mean(0)) ** 2).sum(1).mean()), rtol=1e-3)


def test_statistics_are_cached_by_fingerprint_and_survive_damage(own_cache):
    G, other = tiny.generator(0), tiny.generator(1)
    first = spaces.w_statistics(G, num_samples=2000)
    (entry,) = (own_cache / "statistics").iterdir()
    assert G.fingerprint in entry.name
    assert not np.allclose(first.mean, spaces.w_statistics(other, num_samples=2000).mean)
    entry.write_bytes(entry.read_bytes()[:100])
    np.testing.assert_array_equal(first.mean, spaces.w_statistics(G, num_samples=2000).mean)


def test_conditional_generators_are_sampled_over_classes(own_cache):
    G = tiny.generator(0, label_dim=3)
    assert np.isfinite(spaces.w_statistics(G, num_samples=2000).stddev).all()


def test_truncation_mixing_interpolation():
    G = tiny.generator()
    a, b = G.broadcast(G.map(jax.random.normal(jax.random.key(1), (2, 16))))[:, None]
    np.testing.assert_array_equal(spaces.truncate(a, G.w_avg, 1.0), a)
    half = spaces.truncate(a, G.w_avg, 0.5, cutoff=3)
    np.testing.assert_allclose(half[:, :3], (a[:, :3] + G.w_avg[None, None]) / 2, atol=1e-6)
    np.testing.assert_array_equal(half[:, 3:], a[:, 3:])
    z = jax.random.normal(jax.random.key(1), (2, 16))
    np.testing.assert_allclose(
        G.broadcast(G.map(z, truncation=0.3)), spaces.truncate(G.broadcast(G.map(z)), G.w_avg, 0.3), atol=1e-5
    )
    mixed = spaces.mix(a, b, 4)
    np.testing.assert_array_equal(mixed[:, :4], a[:, :4])
    np.testing.assert_array_equal(mixed[:, 4:], b[:, 4:])
    np.testing.assert_array_equal(spaces.mix(a, b, (0, 2))[:, jnp.array([0, 2])], b[:, jnp.array([0, 2])])
    path = spaces.interpolate(a, b, jnp.linspace(0, 1, 5))
    assert path.shape == (5, *a.shape)
    np.testing.assert_array_equal(path[0], a)
    np.testing.assert_array_equal(path[-1], b)


def test_normalised_styles_have_unit_length_and_a_gradient_at_zero():
    G = tiny.generator()
    ws = jax.random.normal(jax.random.key(2), (3, G.num_ws, 16))
    for s in spaces.normalized_styles(G.styles(ws)):
        np.testing.assert_allclose(jnp.linalg.norm(s, axis=-1), 1, atol=1e-6)
    gradient = jax.grad(lambda s: spaces.normalized_styles((s,))[0].sum())(jnp.zeros((1, 4)))
    assert np.isfinite(gradient).all()
