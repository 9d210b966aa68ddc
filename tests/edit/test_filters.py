"""Filters: algebra of the projections, composition, sigma after a change, what is refused."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lsap_jax.edit import low_rank
from lsap_jax.edit.directions import Direction, apply_direction, in_unit, w_pca
from lsap_jax.edit.filters import attend, conditional, normalise, null_space, restrict
from lsap_jax.errors import DirectionError
from lsap_jax.latent import spaces

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def G(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSAP_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        spaces.w_statistics(tiny.generator())
        yield tiny.generator()


def direction(vector, weights=None, unit="w", name="d", **known):
    vector = jnp.asarray(vector, jnp.float32)
    weights = None if weights is None else jnp.asarray(weights, jnp.float32)
    space = "w" if vector.ndim == 1 else "w+"
    return Direction(
        name, vector, weights, 1.0, unit, space, "", "a test", {k: jnp.float32(v) for k, v in known.items()}
    )


def random(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape)


def orthonormal(r, d, seed=5):
    return np.linalg.qr(random(d, r, seed=seed))[0].T


def test_normalise_keeps_every_edit_in_sigma(G):
    d = in_unit(direction(3 * random(16)), "sigma", G)
    unit = normalise(d)
    assert np.linalg.norm(unit.vector) == pytest.approx(1, abs=1e-6)
    ws = jnp.asarray(random(2, 8, 16, seed=1), jnp.float32)
    np.testing.assert_allclose(apply_direction(ws, unit, 1.5), apply_direction(ws, d, 1.5), atol=1e-5)
    fresh = in_unit(unit.replace(statistics={}), "sigma", G)
    assert float(unit.scale) == pytest.approx(float(fresh.scale), rel=1e-5)
    assert float(unit.statistics["sigma"]) == pytest.approx(float(fresh.scale), rel=1e-5)


def test_normalise_in_w_makes_a_strength_a_length(G):
    d = normalise(direction(random(8, 16), np.r_[np.ones(3), np.zeros(5)]))
    assert np.sqrt(np.square(d.vector[:3]).sum(1).mean()) == pytest.approx(1, abs=1e-6)
    assert d.scale == 1.0


def test_conditional_by_hand():
    # InterFaceGAN's formula for two conditions, v = (1, 1, 1), c = (1, 0, 0) and (0.6, 0.8, 0): what is left is e3.
    d = direction([1, 1, 1])
    out = conditional(d, [direction([1, 0, 0]), direction([0.6, 0.8, 0])])
    np.testing.assert_allclose(out.vector, [0, 0, np.sqrt(3)], atol=1e-6)
    assert float(out.statistics["kept"]) == pytest.approx(1 / np.sqrt(3))
    one = conditional(direction([3, 4]), [direction([0, 2])])
    np.testing.assert_allclose(one.vector, [5, 0], atol=1e-6)
    assert float(one.statistics["kept"]) == pytest.approx(0.6)


def test_conditional_is_orthogonal_idempotent_and_composes(G):
    d, a, b, c = (in_unit(direction(random(16, seed=s)), "sigma", G) for s in range(4))
    out = conditional(d, [a, b, c], G)
    for other in (a, b, c):
        assert abs(np.asarray(out.vector, np.float64) @ np.asarray(other.vector)) < 1e-6 * 16
    again = conditional(out, [a, b, c], G)
    np.testing.assert_allclose(again.vector, out.vector, atol=1e-6)
    assert float(again.statistics["kept"]) == pytest.approx(float(out.statistics["kept"]), rel=1e-6)
    # Off b in the complement of a is off both.
    both, b_less_a = conditional(d, [a, b], G), conditional(b, [a], G)
    in_turn = conditional(conditional(d, [a], G), [b_less_a], G)
    np.testing.assert_allclose(in_turn.vector, both.vector, atol=1e-5)
    assert float(in_turn.statistics["kept"]) == pytest.approx(float(both.statistics["kept"]), rel=1e-5)


def test_sigma_is_measured_anew(G):
    out = conditional(w_pca(G, 0), [direction(random(16))], G)
    w = np.asarray(G.map(jnp.asarray(np.random.RandomState(5).randn(20_000, G.z_dim), jnp.float32)))
    v = np.asarray(out.vector)
    assert float(out.scale) * float(v @ v) == pytest.approx((w @ v).std(), rel=0.03)
    assert out.unit == "sigma"
    assert "0." in out.origin
    with pytest.raises(DirectionError, match="give the generator"):
        conditional(w_pca(G, 0), [direction(random(16))])


def test_measures_of_the_unchanged_direction_are_dropped():
    out = conditional(direction([3, 4], leak=0.1, kept=0.5), [direction([0, 2])])
    assert out.statistics.keys() == {"kept"}
    assert float(out.statistics["kept"]) == pytest.approx(0.3)


def test_conditional_row_by_row():
    d, other = direction(random(16), np.r_[0, np.ones(7)]), direction(random(8, 16, seed=1))
    out = conditional(d, [other, direction(random(16, seed=2))])
    assert out.vector.shape == (8, 16)
    assert out.space == "w+"
    assert np.abs(np.einsum("ld,ld->l", out.vector, other.vector)).max() < 2e-5
    flat = conditional(d, [direction(np.tile(random(16, seed=2), (8, 1)))])
    np.testing.assert_allclose(flat.vector[3], conditional(d, [direction(random(16, seed=2))]).vector, atol=1e-5)


def test_nothing_left_or_no_match_is_refused():
    a, b = random(16, seed=1), random(16, seed=2)
    with pytest.raises(DirectionError, match="nothing is left"):
        conditional(direction(2 * a - 0.5 * b), [direction(a), direction(b), direction(a + b)])
    with pytest.raises(DirectionError, match="zero or not finite"):
        conditional(direction(np.zeros(16)), [direction(a)])
    with pytest.raises(DirectionError, match="zero or not finite"):
        conditional(direction(a), [direction(np.zeros(16))])
    with pytest.raises(DirectionError, match="do not fit together"):
        conditional(direction(a), [direction(random(8))])
    with pytest.raises(DirectionError, match="no other direction"):
        conditional(direction(a), [])
    with pytest.raises(DirectionError, match="share no W"):
        conditional(direction(a).replace(fingerprint="a"), [direction(b).replace(fingerprint="b")])
    with pytest.raises(DirectionError, match="zero or not finite"):
        normalise(direction(np.full(16, np.nan)))


def test_null_space_of_a_form(G):
    A = random(40, 16)
    basis = low_rank.axes_of(A.T @ A, rank=6)
    d = in_unit(direction(random(16, seed=3)), "sigma", G)
    out = null_space(d, basis, G, "the background")
    v = np.asarray(out.vector, np.float64)
    assert np.abs(basis @ v).max() < 1e-6 * np.linalg.norm(v)
    projected = np.asarray(d.vector) - basis.T @ (basis @ np.asarray(d.vector))
    assert float(out.statistics["kept"]) == pytest.approx(
        np.linalg.norm(projected) / np.linalg.norm(d.vector), rel=1e-5
    )
    assert np.linalg.norm(v) == pytest.approx(np.linalg.norm(d.vector), rel=1e-6)
    np.testing.assert_allclose(null_space(out, basis, G).vector, v, atol=1e-6)
    assert "off 6 axes of the background" in out.origin
    nothing = null_space(d, np.zeros((0, 16)), G)
    np.testing.assert_allclose(nothing.vector, d.vector, atol=1e-6)
    # Projections onto complements commute where the spaces are orthogonal.
    first, second = basis[:3], basis[3:]
    in_turn = null_space(null_space(d, second, G), first, G)
    np.testing.assert_allclose(in_turn.vector, v, atol=1e-5)
    assert float(in_turn.statistics["kept"]) == pytest.approx(float(out.statistics["kept"]), rel=1e-5)


def test_null_space_of_rows_that_move_on_their_own():
    weights = np.array([0, 0.5, 1, 1, 0, 0, 0, 0])
    basis = orthonormal(4, 48)
    d = direction(random(16), weights)
    out = null_space(d, basis)
    step = np.asarray(apply_direction(jnp.zeros((1, 8, 16)), out, 1.0))[0]
    assert np.abs(basis @ step[1:4].reshape(-1)).max() < 1e-5
    assert not step[[0, 4, 5, 6, 7]].any()
    np.testing.assert_array_equal(out.layer_weights, [0, 1, 1, 1, 0, 0, 0, 0])
    before = (weights[:, None] * np.asarray(d.vector)).reshape(-1)[16:64]
    left = before - basis.T @ (basis @ before)
    assert float(out.statistics["kept"]) == pytest.approx(np.linalg.norm(left) / np.linalg.norm(before), rel=1e-5)
    each = np.stack([orthonormal(2, 16, seed) for seed in range(8)])
    rows = null_space(direction(random(8, 16)), each)
    assert np.abs(np.einsum("lri,li->lr", each, rows.vector)).max() < 1e-5
    everywhere = null_space(direction(random(8, 16)), orthonormal(3, 128))
    assert np.abs(orthonormal(3, 128) @ np.asarray(everywhere.vector).reshape(-1)).max() < 1e-5


@pytest.mark.parametrize(
    ("basis", "message"),
    [
        (np.ones((2, 16)), "not orthonormal"),
        (orthonormal(2, 20), "fit neither one row"),
        (np.full((1, 16), np.nan), "finite rows"),
        (np.ones(16), "finite rows"),
        (np.eye(16), "nothing is left"),
    ],
)
def test_bad_axes_are_refused(basis, message):
    with pytest.raises(DirectionError, match=message):
        null_space(direction(random(16), np.ones(8)), basis)


def test_restrict_and_attend(G):
    d = w_pca(G, 1)
    for out in (restrict(d, "2-3"), attend(d, [0, 0, 1, 1], G)):
        np.testing.assert_array_equal(
            np.pad(out.layer_weights, (0, 8 - len(out.layer_weights))), [0, 0, 1, 1, 0, 0, 0, 0]
        )
        assert float(out.scale) == float(d.scale)
    soft = np.linspace(0, 1, 8)
    ws = jnp.zeros((1, 8, 16))
    step = apply_direction(ws, attend(d, soft), 1.0)[0]
    np.testing.assert_allclose(step, soft[:, None] * float(d.scale) * np.asarray(d.vector), atol=1e-6)


def test_other_rows_have_another_sigma(G):
    statistics = spaces.w_statistics(G)
    rows = np.concatenate([np.tile(statistics.components[0], (4, 1)), np.tile(statistics.components[9], (4, 1))])
    d = in_unit(direction(rows, np.ones(8)), "sigma", G)
    assert restrict(d, "0-3", G).scale == pytest.approx(float(statistics.stddev[0]), rel=1e-3)
    assert attend(d, [0, 0, 0, 0, 0.2, 1, 1, 1], G).scale == pytest.approx(float(statistics.stddev[9]), rel=1e-3)
    with pytest.raises(DirectionError, match="give the generator"):
        restrict(d, "0-3")


@pytest.mark.parametrize("weights", [np.zeros(8), [np.nan] * 8, np.ones((2, 8)), np.ones(7)])
def test_bad_layer_weights_are_refused(weights):
    with pytest.raises(DirectionError, match="layer weights"):
        attend(direction(random(8, 16)), weights)


def test_filters_leave_the_rest_alone(G):
    d = w_pca(G, 2, "0-4")
    out = null_space(conditional(normalise(d), [w_pca(G, 0), direction(random(16))], G), orthonormal(2, 16), G)
    changed = {field.name for field in dataclasses.fields(d)} - {"vector", "scale", "origin", "statistics"}
    assert all(np.array_equal(getattr(out, name), getattr(d, name)) for name in changed)
