"""S_Disen and S_Div on fixed matrices, and the response of scenes with known factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from lsap_jax.edit.directions import Direction, in_unit
from lsap_jax.errors import ConfigError
from lsap_jax.metrics import disentanglement
from lsap_jax.metrics.disentanglement import s_disen, s_div

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("module_cache")]
_factors = jax.jit(scenes.factors)


class Factors:
    names = scenes.NAMES

    def __call__(self, images):
        return np.asarray(_factors(images))


def factor(name):
    G = scenes.generator()
    return in_unit(Direction(name, scenes.axis(name), None, 1.0, "w", "w", G.fingerprint, "known", {}), "sigma", G)


def test_golden_scores():
    matrix = np.array([[4.0, 1, 2], [1, 10, 1], [0.3, 0.2, 0.1], [5, 5, 0]])
    # 1 - 1/2, 1 - 1/10, 1 - 2/3, 1 - 1; attributes 0 and 1.
    assert s_disen(matrix) == pytest.approx((0.5 + 0.9 + 1 / 3 + 0) / 4)
    assert s_div(matrix) == 2
    assert s_disen(matrix * [[3], [0.1], [7], [1]]) == pytest.approx(s_disen(matrix))
    assert (s_disen(np.eye(4)), s_div(np.eye(4))) == (1.0, 4)
    assert (s_disen(np.ones((4, 5))), s_div(np.ones((4, 5)))) == (0.0, 1)


def test_rows_of_zeros_and_of_nan_are_said():
    matrix = np.array([[1, 0.5, 0], [0, 0, 0], [np.nan, 1, 0]])
    message = "of 3 directions 1 could not be measured and are left out, and 1 change nothing and count 0"
    with pytest.warns(UserWarning, match=message):
        assert s_disen(matrix) == pytest.approx(0.25)
    with pytest.warns(UserWarning, match=message):
        assert s_div(matrix) == 1
    with pytest.warns(UserWarning, match="1 could not"):
        assert np.isnan(s_disen([[np.nan, 1]]))
    with pytest.warns(UserWarning, match="1 change nothing"):
        assert s_div([[0, 0]]) == 0


@pytest.mark.parametrize("matrix", [np.ones(3), np.ones((3, 1)), -np.ones((2, 2)), [[np.inf, 1]]])
def test_bad_matrices_are_refused(matrix):
    with pytest.raises(ConfigError, match="response matrix"):
        s_disen(matrix)


def test_known_factors_respond_one_by_one():
    G, told = scenes.generator(), []
    bank = [factor(name) for name in ("hue", "position")]
    found = disentanglement.response(
        G, bank, Factors(), count=6, strength=0.5, truncation=0.7, batch=4, progress=lambda *at: told.append(at)
    )
    assert told == [(4, 6), (6, 6)]
    matrix = found.matrix()
    assert matrix.shape == (2, 5)
    assert matrix.argmax(1).tolist() == [4, 0]
    assert s_div(matrix) == 2
    assert s_disen(matrix) > 0.8
    assert (found.change[[0, 1], [4, 0]] > 0).all()
    np.testing.assert_array_equal(found.count, np.full((2, 5), 6))
    # By hand for the first direction: the factor itself is a sigmoid of the coordinate.
    np.testing.assert_allclose(found.matrix(in_spreads=False), np.abs(found.change))
    assert found.change[0, 4] == pytest.approx(2.4 * 1.5 * 2 * 0.5 / 4, rel=0.3)


def test_what_cannot_be_measured_is_left_out_and_counted():
    class Blind(Factors):
        names = ("a", "b")

        def __call__(self, images):
            values = np.stack([np.asarray(images).mean((1, 2, 3)), np.asarray(images)[:, 0, 0, 0]], axis=1)
            values[0, 0] = np.nan
            return values

    found = disentanglement.response(scenes.generator(), [factor("hue")], Blind(), count=4, batch=4)
    np.testing.assert_array_equal(found.count, [[3, 4]])
    assert np.isfinite(found.matrix()).all()


def test_over_seeds():
    matrices = {0: np.eye(2), 1: np.array([[1, 0.5], [1, 0.5]])}

    def measure(seed):
        change = matrices[seed]
        return disentanglement.Response(change, change, change, np.ones(2))

    found = disentanglement.over_seeds(measure, [0, 1])
    assert found["s_disen"].mean == pytest.approx(0.75)
    assert found["s_div"].mean == 1.5
    assert found["s_div"].deviation == pytest.approx(np.sqrt(0.5))


def test_bad_requests_are_refused():
    with pytest.raises(ConfigError, match="0 directions"):
        disentanglement.response(scenes.generator(), [], Factors())
    with pytest.raises(ConfigError, match="strength 0"):
        disentanglement.response(scenes.generator(), [factor("hue")], Factors(), strength=0)
    assert jnp.isfinite(factor("hue").scale)
