import numpy as np
import pytest

from lsap_jax.metrics.spread import spread

pytestmark = pytest.mark.fast


def test_by_hand():
    found = spread([1, 2, 3, 4, np.nan, np.inf])
    assert found.mean == 2.5
    assert found.deviation == pytest.approx(np.sqrt(5 / 3))
    assert (found.count, found.left_out) == (4, 2)


def test_too_few_values():
    assert spread([3]).mean == 3
    assert np.isnan(spread([3]).deviation)
    assert np.isnan(spread([np.nan]).mean)
    assert spread([[1, 1], [3, 3]]).mean == 2
