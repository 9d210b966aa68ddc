"""The tables of progressive training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsap_jax.errors import ConfigError
from lsap_jax.training.progressive import open_rows, stage_at, steps_table

pytestmark = pytest.mark.fast


def by_the_reference(table, steps):
    """Its rule: at every step, each entry that equals the step sets the stage; a later entry wins."""
    stage, seen = 0, []
    for step in range(steps):
        for i, at in enumerate(table):
            if step == at:
                stage = i
        seen.append(stage)
    return seen


@pytest.mark.parametrize(("every", "last"), [(2000, 52_000), (100, 21_600)], ids=["e4e", "lsap"])
def test_last_stage_of_the_published_recipes(every, last):
    table = steps_table(18, 20_000, every)
    assert len(table) == 18
    assert table[-1] == last
    steps = [0, 19_999, 20_000, 20_000 + every - 1, 20_000 + every, last - 1, last, 10**6]
    assert [int(stage_at(table, s)) for s in steps] == [0, 0, 1, 1, 2, 16, 17, 17]


def test_zeros_open_everything_at_once():
    assert int(stage_at(steps_table(18, 0, 0), 0)) == 17
    assert int(stage_at(steps_table(18, 5, 0), 4)) == 0
    assert int(stage_at(steps_table(18, 5, 0), 5)) == 17
    assert int(stage_at(steps_table(1, 0, 0), 0)) == 0


@pytest.mark.parametrize("recipe", [(5, 3), (0, 4), (7, 0), (0, 0)])
def test_every_step_is_that_of_the_reference_in_one_compilation(recipe):
    table = steps_table(7, *recipe)
    stage = jax.jit(lambda step: stage_at(table, step))
    assert [int(stage(jnp.int32(step))) for step in range(40)] == by_the_reference(table, 40)
    assert stage._cache_size() == 1
    assert stage(jnp.int32(3)).dtype == jnp.int32


def test_rows_up_to_the_stage_are_open():
    np.testing.assert_array_equal(open_rows(4, jnp.int32(1)), [1, 1, 0, 0])
    np.testing.assert_array_equal(open_rows(4, 3), np.ones(4))


@pytest.mark.parametrize("bad", [(0, 1, 1), (18, -1, 1), (18, 1, -1)])
def test_impossible_tables_are_refused(bad):
    with pytest.raises(ConfigError, match="progressive training"):
        steps_table(*bad)
