import golden
import numpy as np
import pytest

from lsap_jax.edit import low_rank
from lsap_jax.edit.robust_pca import robust_pca
from lsap_jax.errors import ConfigError

pytestmark = pytest.mark.fast

# LowRankGAN's lambda = 1/60 on matrices of 64 rows; and its fallback 1/sqrt(64).
CASES = {"f": ("f", "f", 8 / 60, 350, 3), "b": ("b", "b", 8 / 60, 381, 4), "fallback": ("f", "f_lamb0", 1.0, 715, 31)}


def objective(result, c):
    lam = c / len(result.low_rank) ** 0.5
    return np.abs(np.linalg.eigvalsh(result.low_rank)).sum() + lam * np.abs(result.sparse).sum()


def reference(case, **options):
    matrix, _, c, _, _ = CASES[case]
    M = golden.expected("h_rpca")[f"M_{matrix}_f64"]
    return M, robust_pca(M, c, mu=M.size / (4 * np.linalg.norm(M, 1)), adaptive=False, tolerance=1e-7, **options)


@pytest.mark.parametrize("case", CASES)
def test_the_reference_iteration_gives_its_numbers(case):
    _, result = reference(case)
    expected = golden.expected("h_rpca")
    _, name, _, iterations, rank = CASES[case]
    assert (result.iterations, result.rank) == (iterations, rank)
    np.testing.assert_allclose(result.low_rank, expected[f"L_{name}_f64"], atol=1e-12)
    np.testing.assert_allclose(result.sparse, expected[f"S_{name}_f64"], atol=1e-12)


@pytest.mark.parametrize("case", ["f", "b"])
def test_ours_goes_on_to_the_optimum_where_the_reference_stops_early(case):
    M, early = reference(case)
    c = CASES[case][2]
    ours = robust_pca(M, c)
    assert max(ours.primal, ours.dual) <= 1e-6
    assert objective(ours, c) < 0.85 * objective(early, c)
    assert ours.rank == 0


def test_ours_agrees_with_the_reference_where_it_reached_the_optimum():
    M, reached = reference("fallback")
    ours = robust_pca(M, 1.0, tolerance=1e-5)
    np.testing.assert_allclose(ours.low_rank, reached.low_rank, atol=2e-4 * np.abs(reached.low_rank).max())


@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_the_split_scales_with_the_matrix(scale):
    M = golden.expected("h_rpca")["M_f_f64"]
    plain, scaled = (robust_pca(m, 0.5, tolerance=1e-4) for m in (M, scale * M))
    assert plain.rank == scaled.rank
    np.testing.assert_allclose(scaled.low_rank, scale * plain.low_rank, atol=1e-3 * scale * np.abs(M).max())


def test_a_planted_split_is_found():
    random = np.random.RandomState(0)
    axes = np.linalg.qr(random.randn(60, 3))[0]
    low = axes @ np.diag([30.0, 20, 15]) @ axes.T
    sparse = np.triu((random.rand(60, 60) < 0.03) * random.randn(60, 60))
    sparse = sparse + sparse.T
    found = robust_pca(low + sparse, 1.0)
    assert found.rank == 3
    assert np.abs(found.low_rank - low).max() < 1e-4


def test_the_projection_is_the_reference_s():
    expected = golden.expected("h_rpca")
    _, inside = reference("f")
    _, outside = reference("b")
    F = low_rank.axes_of(inside.low_rank, rank=3)
    np.testing.assert_allclose(F.T @ F, expected["principal_projector_f64"], atol=1e-8)
    for relax in (0, 2):
        away = low_rank.axes_of(outside.low_rank, rank=outside.rank - relax)
        null = np.eye(64) - away.T @ away
        np.testing.assert_allclose(null, expected[f"null_projector_relax{relax}_f64"], atol=1e-8)
        projected = F @ null
        direction = projected[0] / np.linalg.norm(projected[0])
        np.testing.assert_allclose(
            np.outer(direction, direction), expected[f"proj_direction0_outer_relax{relax}_f64"], atol=1e-8
        )
        cosines = np.abs(np.sum(F * projected, 1)) / np.linalg.norm(projected, axis=1)
        np.testing.assert_allclose(cosines, expected[f"proj_direction_absdot_with_F_relax{relax}_f64"], atol=1e-8)


def test_nothing_splits_into_nothing():
    assert robust_pca(np.zeros((5, 5))).rank == 0


@pytest.mark.parametrize(
    ("matrix", "c", "message"),
    [
        (np.ones((3, 4)), 1.0, "square"),
        (np.full((3, 3), np.nan), 1.0, "finite"),
        (np.triu(np.ones((3, 3))), 1.0, "symmetric"),
        (np.eye(3), 0.0, "positive"),
    ],
)
def test_what_cannot_be_split_is_refused(matrix, c, message):
    with pytest.raises(ConfigError, match=message):
        robust_pca(matrix, c)
