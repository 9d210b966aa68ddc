import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lsap_jax.data import resize
from lsap_jax.edit import jacobian as jacobians
from lsap_jax.errors import ConfigError

GRID = 16


@pytest.fixture(scope="module")
def setup():
    G = tiny.generator()
    ws = G.broadcast(G.map(jnp.asarray(np.random.RandomState(3).randn(1, G.z_dim), jnp.float32)))[0]
    return G, ws, jacobians.jacobian(G, ws, grid=GRID, block=5, keep=False)


def small(G, ws, vector, rows):
    moved = ws.at[jnp.asarray(rows)].add(vector)
    return resize.area(G.synthesize(moved[None]), GRID)[0].mean(-1)


def test_columns_are_finite_differences(setup):
    G, ws, J = setup
    with jax.default_matmul_precision("highest"):
        for column in (0, 7, 15):
            step = 1e-2 * jnp.eye(G.w_dim)[column]
            all_rows = range(G.num_ws)
            numeric = (small(G, ws, step, all_rows) - small(G, ws, -step, all_rows)) / 2e-2
            exact = J.values[..., 0, column]
            # Leaky ReLUs make single pixels differ; the picture as a whole agrees.
            assert np.linalg.norm(numeric - exact) < 0.03 * np.linalg.norm(exact)


def test_forward_and_reverse_mode_agree(setup):
    G, ws, J = setup
    picture = jnp.asarray(np.random.RandomState(5).randn(GRID, GRID), jnp.float32)
    rows = range(G.num_ws)
    reverse = jax.grad(lambda v: jnp.vdot(small(G, ws, v, rows), picture))(jnp.zeros(G.w_dim))
    forward = np.tensordot(np.asarray(picture), J.values[:, :, 0], 2)
    np.testing.assert_allclose(forward, reverse, rtol=0, atol=2e-4 * np.abs(reverse).max())


def test_rows_of_their_own_add_up_to_the_shared_ones(setup):
    G, ws, J = setup
    apart = jacobians.jacobian(G, ws, tied=False, grid=GRID, keep=False)
    assert apart.columns == G.num_ws * G.w_dim
    summed = apart.values.reshape(GRID, GRID, 1, G.num_ws, G.w_dim).sum(3)
    np.testing.assert_allclose(summed, J.values, atol=1e-4 * np.abs(J.values).max())
    some = jacobians.jacobian(G, ws, (1, 3), grid=GRID, keep=False)
    expected = apart.values.reshape(GRID, GRID, 1, G.num_ws, G.w_dim)[..., [1, 3], :].sum(3)
    np.testing.assert_allclose(some.values, expected, atol=1e-4 * np.abs(J.values).max())


def test_colours(setup):
    G, ws, J = setup
    every = jacobians.jacobian(G, ws, grid=GRID, colour="all", keep=False)
    np.testing.assert_allclose(every.values.mean(2, keepdims=True), J.values, atol=1e-5 * np.abs(J.values).max())
    total = jacobians.jacobian(G, ws, grid=GRID, colour="sum", keep=False)
    np.testing.assert_allclose(total.values, 3 * J.values, atol=1e-5 * np.abs(total.values).max())
    assert every.gram(np.ones((GRID, GRID))).shape == (G.w_dim, G.w_dim)


@pytest.mark.parametrize("colour", ["mean", "all"])
def test_gram_matrices_are_weighted_means_of_squares(setup, colour, monkeypatch):
    G, ws, _ = setup
    J = jacobians.jacobian(G, ws, grid=GRID, colour=colour, keep=False)
    monkeypatch.setattr(jacobians, "_PIXELS_AT_ONCE", 32)
    mask = np.random.RandomState(1).rand(GRID, GRID) * (np.arange(GRID)[:, None] > 4)
    wide = J.values.astype(np.float64)
    expected = np.einsum("hw,hwci,hwcj->ij", mask, wide, wide) / mask.sum()
    np.testing.assert_allclose(J.gram(mask), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    whole, inside, outside = (J.gram(m) * m.sum() for m in (np.ones((GRID, GRID)), mask, 1 - mask))
    np.testing.assert_allclose(inside + outside, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


def test_the_sketch_finds_the_leading_axes(setup):
    G, ws, J = setup
    mask = np.zeros((GRID, GRID), np.float32)
    mask[4:9, 3:12] = 1
    values, vectors = jacobians.leading(G, ws, mask, 4, samples=12)
    exact_values, exact = np.linalg.eigh(J.gram(mask))
    subspace = exact[:, ::-1][:, :4]
    cosines = np.linalg.norm(vectors @ subspace, axis=1)
    assert cosines.min() > 0.99
    np.testing.assert_allclose(values, exact_values[::-1][:4], rtol=0.05)


def test_a_jacobian_is_computed_once(setup, tmp_path, monkeypatch):
    G, ws, J = setup
    monkeypatch.setenv("LSAP_JAX_CACHE", str(tmp_path))
    first = jacobians.jacobian(G, ws, grid=GRID)
    monkeypatch.setattr(jacobians, "columns", None)
    again = jacobians.jacobian(G, ws, grid=GRID)
    np.testing.assert_array_equal(first.values, again.values)
    with pytest.raises(TypeError):  # another code is another file
        jacobians.jacobian(G, ws + 1, grid=GRID)
    np.testing.assert_allclose(first.values, J.values, atol=1e-5 * np.abs(J.values).max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 7}, "does not divide"),
        ({"rows": (0, 99), "grid": GRID}, "0 to"),
        ({"rows": (), "grid": GRID}, "rows"),
        ({"colour": "hue", "grid": GRID}, "colour"),
    ],
)
def test_what_does_not_fit_is_refused(setup, options, message):
    G, ws, _ = setup
    with pytest.raises(ConfigError, match=message):
        jacobians.jacobian(G, ws, keep=False, **options)


def test_codes_and_regions_must_fit(setup):
    G, ws, J = setup
    with pytest.raises(ConfigError, match="one code"):
        jacobians.jacobian(G, ws[None], keep=False)
    with pytest.raises(ConfigError, match="resize the region"):
        J.gram(np.ones((4, 4)))
    with pytest.raises(ConfigError, match="empty"):
        J.gram(np.zeros((GRID, GRID)))
