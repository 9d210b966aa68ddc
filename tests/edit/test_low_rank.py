import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lsap_jax.data import resize
from lsap_jax.edit import jacobian as jacobians
from lsap_jax.edit import low_rank
from lsap_jax.edit.directions import apply_direction
from lsap_jax.errors import ConfigError, DirectionError, RegionError

GRID = 16


@pytest.fixture(scope="module")
def setup():
    G = tiny.generator()
    ws = G.broadcast(G.map(jnp.asarray(np.random.RandomState(3).randn(1, G.z_dim), jnp.float32)))[0]
    mask = np.zeros((GRID, GRID), np.float32)
    mask[5:10, 4:12] = 1
    return G, ws, jacobians.jacobian(G, ws, (2, 3, 4), grid=GRID, keep=False), mask


@pytest.mark.parametrize("solver", low_rank.SOLVERS)
def test_what_is_reported_is_what_the_forms_say(setup, solver):
    _, _, J, mask = setup
    A, B = J.gram(mask), J.gram(1 - mask)
    found = low_rank.solve(A, B, solver, 3, c=1.0)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1)
    for vector, inside, leak in zip(found.vectors, found.inside, found.leak, strict=True):
        assert inside == pytest.approx(np.sqrt(vector @ A @ vector), rel=1e-9)
        assert leak == pytest.approx(np.sqrt(vector @ B @ vector) / inside, rel=1e-9)


def test_first_order_change_outside_is_the_reported_leak(setup):
    G, ws, J, mask = setup
    for d in low_rank.region_directions(G, J, mask, "rayleigh", 2):
        step = 0.02
        there, back = (apply_direction(ws[None], d, strength) for strength in (step, -step))
        change = (resize.area(G.synthesize(there), GRID) - resize.area(G.synthesize(back), GRID))[0].mean(-1)
        change = np.asarray(change) / (2 * step)
        inside = np.sqrt((change**2 * mask).sum() / mask.sum())
        outside = np.sqrt((change**2 * (1 - mask)).sum() / (1 - mask).sum())
        assert inside == pytest.approx(float(d.statistics["inside"]), rel=0.02)
        assert outside <= 1.02 * float(d.statistics["leak"]) * inside


def test_rayleigh_is_the_best_quotient(setup):
    _, _, J, mask = setup
    A, B = J.gram(mask), J.gram(1 - mask)
    best = low_rank.solve(A, B, "rayleigh", 3)
    shifted = B + 1e-3 * np.trace(B) * np.eye(len(B))
    quotients = [v @ A @ v / (v @ shifted @ v) for v in best.vectors]
    assert quotients == sorted(quotients, reverse=True)
    random = np.random.RandomState(0).randn(2000, len(A))
    tried = np.einsum("nd,de,ne->n", random, A, random) / np.einsum("nd,de,ne->n", random, shifted, random)
    assert quotients[0] >= tried.max()
    exact = np.linalg.eigvals(np.linalg.solve(shifted, A)).real.max()
    assert quotients[0] == pytest.approx(exact, rel=1e-8)


def test_more_axes_leak_less_and_keep_less(setup):
    _, _, J, mask = setup
    A, B = J.gram(mask), J.gram(1 - mask)
    results = [low_rank.solve(A, B, "pca", 1, outside_rank=rank) for rank in (0, 4, 12)]
    kept = [r.kept[0] for r in results]
    outside = [r.leak[0] * r.inside[0] * r.kept[0] for r in results]  # of what is left of the one candidate
    assert kept[0] == pytest.approx(1)
    assert kept == sorted(kept, reverse=True)
    assert outside == sorted(outside, reverse=True)


def test_rank_zero_is_handled_and_said():
    # Diagonal forms are sparse, so all of them goes to the sparse part.
    found = low_rank.solve(np.diag(np.linspace(1, 2, 64)), np.diag(np.r_[3.0, np.ones(63)]), "rpca", 2)
    assert len(found.vectors) == 2
    assert [("inside" in note, "outside" in note) for note in found.notes] == [(True, False), (False, True)]


def test_a_known_local_direction_is_found():
    # Axis 0 moves the inside alone, axis 1 both, axis 2 the outside.
    A, B = np.diag([1.0, 4, 0, 0.01]), np.diag([0.001, 9.0, 25, 0.02])
    for solver, options in (("rayleigh", {}), ("pca", {"outside_rank": 2})):
        found = low_rank.solve(A, B, solver, 2, **options)
        assert max(abs(found.vectors[:, 0])) > 0.999, solver


def test_directions_move_their_rows_alone_and_have_a_sign(setup):
    G, ws, J, mask = setup
    for d in low_rank.region_directions(G, J, mask, "pca", 3, outside_rank=4, name="patch"):
        assert d.name.startswith("patch")
        assert np.flatnonzero(d.layer_weights).tolist() == [2, 3, 4]
        change = J.change(d.vector).mean(-1) * mask
        assert change.reshape(-1)[np.abs(change).argmax()] > 0
        assert d.unit == "sigma"
        assert float(d.scale) > 0
    apart = jacobians.jacobian(G, ws, (2, 3), tied=False, grid=GRID, keep=False)
    d = low_rank.region_directions(G, apart, mask, "rayleigh", 1)[0]
    assert d.vector.shape == (G.num_ws, G.w_dim)
    moved = apply_direction(ws[None], d, 1.0)[0] != ws
    assert np.flatnonzero(moved.any(1)).tolist() == [2, 3]


def test_a_region_must_have_an_inside_and_an_outside(setup):
    G, _, J, mask = setup
    with pytest.raises(RegionError, match="empty"):
        low_rank.region_directions(G, J, 0 * mask)
    with pytest.raises(RegionError, match="whole image"):
        low_rank.region_directions(G, J, 0 * mask + 1)
    with pytest.raises(DirectionError, match="is of generator"):
        low_rank.region_directions(tiny.generator(1), J, mask)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"solver": "svd"}, ConfigError, "solvers are"),
        ({"count": 0}, ConfigError, "at least 1"),
        ({"outside_rank": 64}, ConfigError, "one axis has to be left"),
        ({"outside_energy": 1.0}, ConfigError, "energy"),
        ({"outside_rank": 3, "outside_energy": 0.5}, ConfigError, "one of them"),
    ],
)
def test_options_out_of_range_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        low_rank.solve(np.eye(64), np.eye(64), **{"solver": "pca", **options})


def test_forms_must_fit():
    with pytest.raises(ConfigError, match="one size"):
        low_rank.solve(np.eye(3), np.eye(4))
    with pytest.raises(DirectionError, match="no pixel"):
        low_rank.solve(np.zeros((3, 3)), np.eye(3))
    with pytest.raises(DirectionError, match="nothing is left"):
        low_rank.solve(np.diag([1.0, 0, 0]), np.diag([5.0, 1, 1]), "pca", 1, outside_rank=1)
