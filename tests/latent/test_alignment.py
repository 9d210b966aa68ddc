"""The invariants of S^N and SNCD, and parity with the reference toolbox."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lsap_jax.checkpoints import convert_stylegan2
from lsap_jax.latent import alignment, spaces


@pytest.fixture
def fitted(own_cache):
    G = tiny.generator()
    return G, alignment.fit(G, num_samples=20_000)


def lengths(A):
    return np.array([np.linalg.norm(a) for a in A.anchors])


def test_set_form_equals_anchor_form(own_cache):
    """By linearity: the mean cosine to a set of samples is the product with the mean of their unit vectors."""
    G = tiny.generator()
    A = alignment.fit(G, num_samples=3000)
    samples = jnp.concatenate([w[: int(m.sum())] for w, m in spaces.sample_w(G, 3000, 0)])
    ws = jax.random.normal(jax.random.key(5), (4, G.num_ws, 16))
    codes, own = (spaces.normalized_styles(G.styles(c)) for c in (ws, G.broadcast(samples)))
    as_set = np.stack(
        [np.asarray(c, np.float64) @ np.asarray(s, np.float64).T for c, s in zip(codes, own, strict=True)]
    )
    np.testing.assert_allclose(alignment.sncd(G, A, ws), 1 - as_set.mean(-1).T, atol=1e-5)


@pytest.mark.fast
def test_bounds_and_scale_invariance(fitted):
    G, A = fitted
    ws = 3 * jax.random.normal(jax.random.key(5), (50, G.num_ws, 16))
    values = np.asarray(alignment.sncd(G, A, ws))
    assert values.shape == (50, G.num_ws)
    assert (values >= 1 - lengths(A) - 1e-6).all()
    assert (values <= 1 + lengths(A) + 1e-6).all()
    unit = spaces.normalized_styles(G.styles(ws))
    scaled = spaces.normalized_styles(tuple(2.5 * s for s in G.styles(ws)))
    for a, b in zip(unit, scaled, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.fast
def test_generator_samples_stand_at_one_minus_anchor_length_squared(fitted):
    G, A = fitted
    fresh = G.broadcast(G.map(jax.random.normal(jax.random.key(99), (4000, 16))))
    values = np.asarray(alignment.sncd(G, A, fresh))
    error = values.std(0) / np.sqrt(4000)
    assert (np.abs(values.mean(0) - (1 - lengths(A) ** 2)) < 5 * error).all()
    z = np.asarray(alignment.calibrated(G, A, fresh))
    np.testing.assert_allclose(z.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(z.std(0), 1, atol=0.1)


@pytest.mark.fast
def test_truncation_lowers_sncd_and_scattered_rows_keep_it(fitted):
    G, A = fitted
    w = G.map(jax.random.normal(jax.random.key(3), (2000, 16)))
    means = [
        float(alignment.sncd(G, A, spaces.truncate(G.broadcast(w), G.w_avg, psi)).mean())
        for psi in (1.0, 0.7, 0.4, 0.1)
    ]
    assert means == sorted(means, reverse=True)
    # SNCD sees each row alone: rows of unrelated true codes are as aligned as a true code.
    scattered = jnp.stack([jnp.roll(w, 37 * row, axis=0) for row in range(G.num_ws)], axis=1)
    together = np.asarray(alignment.sncd(G, A, G.broadcast(w))).mean(0)
    np.testing.assert_allclose(np.asarray(alignment.sncd(G, A, scattered)).mean(0), together, atol=1e-5)


@pytest.mark.fast
def test_fit_is_cached_and_independent_draws_agree(fitted):
    G, A = fitted
    again = alignment.fit(G, num_samples=20_000)
    assert again.fingerprint == A.fingerprint == G.fingerprint
    jax.tree.map(np.testing.assert_array_equal, again, A)
    other = alignment.fit(G, num_samples=20_000, seed=1)
    for a, b in zip(A.anchors, other.anchors, strict=True):
        assert not np.array_equal(a, b)
        np.testing.assert_allclose(a, b, atol=0.02)


def test_parity_with_the_reference_toolbox():
    """Styles, anchors from 64 codes, the summed loss and its gradient, as GANInverter computes them."""
    want = golden.expected("c_sncd1024")
    state = golden.state_dict("c_sncd1024", "keys_generator.json")
    G = convert_stylegan2.generator_from_checkpoint({"g_ema": state, "latent_avg": np.zeros(512, np.float32)}, "golden")
    ws = jnp.asarray(golden.normal("input:sncd_wplus", (4, 18, 512)))
    styles = G.styles(ws)
    assert [s.shape[1] for s in styles] == [512] * 10 + [256, 256, 128, 128, 64, 64, 32, 32]
    golden.assert_close(jnp.concatenate(styles, axis=1), want["styles_wplus_cat"], 1e-5)

    samples = G.broadcast(jnp.asarray(golden.normal("input:sncd_w64", (64, 512))))
    anchors = tuple(s.mean(0) for s in spaces.normalized_styles(G.styles(samples)))
    golden.assert_close(np.concatenate(anchors)[None], want["anchor_cat"], 1e-5)
    golden.assert_close([np.linalg.norm(a) for a in anchors], want["anchor_norms"], 1e-5)
    A = alignment.Alignment(anchors, jnp.zeros(18), jnp.ones(18))

    def reference_loss(ws, rows=18):
        """0.5 x sum over rows of minus the batch mean of the cosine."""
        return 0.5 * (alignment.sncd(G, A, ws)[:, :rows] - 1).mean(0).sum()

    golden.assert_close(reference_loss(ws), want["loss_sncd_all18"], 1e-5)
    golden.assert_close(reference_loss(ws, 6), want["loss_sncd_stage5"], 1e-5)
    golden.assert_close_l2(jax.grad(reference_loss)(ws)[:1], want["grad_sncd_all18"], 1e-4)
