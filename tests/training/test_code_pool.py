"""The pool of codes against the reference's rule, driven by the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsap_jax.training import code_pool

pytestmark = pytest.mark.fast


class ReferencePool:
    """A list of codes, as e4e has it, that is told what to draw."""

    def __init__(self, size):
        self.size, self.codes = size, []

    def query(self, codes, swaps, slots):
        returned = []
        for code, swap, slot in zip(codes, swaps, slots, strict=True):
            if len(self.codes) < self.size:
                self.codes.append(code)
                returned.append(code)
            elif swap:
                returned.append(self.codes[slot])
                self.codes[slot] = code
            else:
                returned.append(code)
        return np.stack(returned)


@pytest.mark.parametrize(("size", "batch"), [(5, 3), (4, 4), (2, 7)])
def test_follows_the_reference(size, batch):
    pool, reference = code_pool.empty(size, 6), ReferencePool(size)
    query = jax.jit(lambda *shown: code_pool.query(*shown))
    for step in range(12):
        key = jax.random.key(step)
        codes = jax.random.normal(jax.random.key(100 + step), (batch, 6))
        pool, returned = query(pool, key, codes)
        swaps, slots = code_pool.draws(key, batch, size)
        want = reference.query(np.asarray(codes), np.asarray(swaps), np.asarray(slots))
        np.testing.assert_array_equal(returned, want)
        assert int(pool.count) == len(reference.codes)
        np.testing.assert_array_equal(pool.codes[: int(pool.count)], np.stack(reference.codes))
    assert query._cache_size() == 1


def test_half_come_back_from_every_slot():
    swaps, slots = code_pool.draws(jax.random.key(0), 10_000, 50)
    assert abs(float(swaps.mean()) - 0.5) < 0.02
    assert np.bincount(slots, minlength=50).min() > 130


def test_size_zero_hands_through():
    codes = jax.random.normal(jax.random.key(0), (3, 6))
    pool, returned = jax.jit(code_pool.query)(code_pool.empty(0, 6), jax.random.key(1), codes)
    np.testing.assert_array_equal(returned, codes)
    assert pool.codes.shape == (0, 6)


def test_rows_are_picked_up_to_the_stage():
    ws = jnp.broadcast_to(jnp.arange(8.0)[None, :, None], (500, 8, 2))
    pick = jax.jit(lambda *shown: code_pool.pick_rows(*shown))
    assert sorted(set(np.asarray(code_pool.pick_rows(jax.random.key(0), ws))[:, 0])) == list(range(8))
    for stage in (0, 3, 7):
        assert set(np.asarray(pick(jax.random.key(1), ws, jnp.int32(stage)))[:, 0]) == set(range(stage + 1))
    assert pick._cache_size() == 1
