"""The Haar step: its formula, its inverse, its transpose."""

import jax
import numpy as np
import pytest
from golden import assert_close

from lsap_jax.generators.wavelet import haar, inverse_haar

pytestmark = pytest.mark.fast


def normal(*shape):
    return np.random.RandomState(0).randn(*shape).astype(np.float32)


def test_formula():
    x = normal(2, 3, 5, 8)
    y = np.asarray(inverse_haar(x))
    assert y.shape == (2, 6, 10, 2)
    ll, lh, hl, hh = np.split(x, 4, axis=-1)
    for a in (0, 1):
        for b in (0, 1):
            want = (ll + (-1) ** a * lh + (-1) ** b * hl + (-1) ** (a + b) * hh) / 2
            assert_close(y[:, a::2, b::2], want, 1e-6)


def test_round_trips():
    x, y = normal(2, 3, 5, 8), normal(2, 6, 10, 2)
    assert_close(haar(inverse_haar(x)), x, 1e-6)
    assert_close(inverse_haar(haar(y)), y, 1e-6)


def test_each_is_the_others_transpose():
    x, y = normal(2, 3, 5, 8), normal(2, 6, 10, 2)
    assert_close(jax.vjp(inverse_haar, x)[1](y)[0], haar(y), 1e-6)
    assert_close(jax.vjp(haar, y)[1](x)[0], inverse_haar(x), 1e-6)
