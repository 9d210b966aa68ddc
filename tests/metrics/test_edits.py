"""Monotonicity, identity and entanglement on numbers whose answers are known."""

import numpy as np
import pytest

from lsap_jax.errors import ConfigError
from lsap_jax.metrics import edits

pytestmark = pytest.mark.fast


def test_monotonicity_by_hand():
    values = [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [1, 1, 1, 1], [0, np.nan, 2, 3]]
    found = edits.monotonicity(values, [-1, 0, 1, 2])
    np.testing.assert_allclose(found.steps, [1, 0, 2 / 3, 0, np.nan])
    np.testing.assert_allclose(found.rank, [1, -1, 0.8, np.nan, np.nan])
    np.testing.assert_allclose(found.change, [3, -3, 3, 0, 3])
    down = edits.monotonicity(values[:2], [-1, 0, 1, 2], sign=-1)
    np.testing.assert_allclose(down.steps, [0, 1])
    np.testing.assert_allclose(down.rank, [-1, 1])


def test_rank_correlation_with_ties():
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    assert edits.rank_correlation([10, 20, 20, 90], [1, 2, 3, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_identity_kept():
    def identity(a, b):
        return (a * b).sum((1, 2, 3))

    photo, inversion, edited = (np.full((2, 1, 1, 1), value) for value in (1.0, 0.5, 0.4))
    np.testing.assert_allclose(edits.identity_kept(identity, inversion, edited), 0.2)
    np.testing.assert_allclose(edits.identity_kept(identity, inversion, edited, photo), 0.8)


def test_entanglement_by_hand():
    before = np.array([[0.0, 10], [1, 20], [2, np.nan]])
    after = before[None] + [[[2, 0]] * 3, [[0, -5], [0, -15], [0, 0]]]
    found = edits.entanglement(before, after, own=[1, 10], strength=2)
    np.testing.assert_allclose(found.mean, [[1, 0], [0, -0.5]])
    np.testing.assert_allclose(found.deviation, [[0, 0], [0, np.sqrt(0.125)]])
    np.testing.assert_array_equal(found.count, [[3, 2], [3, 2]])


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match="must ascend"):
        edits.monotonicity([[1, 2]], [1, 0])
    with pytest.raises(ConfigError, match=r"give \(B, T\)"):
        edits.monotonicity([1, 2], [0, 1])
    with pytest.raises(ConfigError, match=r"\(D, B, K\)"):
        edits.entanglement(np.ones((2, 3)), np.ones((2, 3)), np.ones(3))
    with pytest.raises(ConfigError, match="spreads above 0"):
        edits.entanglement(np.ones((2, 3)), np.ones((1, 2, 3)), np.zeros(3))
