"""Progressive training of e4e heads: which rows of W+ are free at which step.

An e4e encoder gives row 0 and the differences of the other rows to it. At first every row repeats row 0; then the
differences open one by one, coarse rows first. Stage s means that rows 0..s are free.

GANInverter's encoder enters a stage one step before its losses do. That lag is not copied: encoder, losses and critic
take the stage of the same step.
"""

import jax
import jax.numpy as jnp

from lsap_jax.errors import ConfigError


def steps_table(num_ws: int, start: int, every: int) -> tuple[int, ...]:
    """The step at which each row opens.

    Row 0 is open from the beginning, row 1 opens at `start`, each next row `every` steps later. With 18 rows, e4e
    (20000, 2000) is open wholly at step 52,000, LSAP (20000, 100) at 21,600, and (0, 0) from the beginning.

    Args:
      num_ws: rows of W+.
      start: step at which row 1 opens.
      every: steps between the rows after it.

    Returns:
      num_ws steps, in ascending order.

    Raises:
      ConfigError: if a number is negative, or there is no row.
    """
    if num_ws < 1 or start < 0 or every < 0:
        raise ConfigError(
            f"progressive training of {num_ws} rows from step {start} every {every} steps: give steps of 0 or more"
        )
    return (0, *(start + every * row for row in range(num_ws - 1)))


def stage_at(table: tuple[int, ...], step: jax.Array | int) -> jax.Array:
    """The last open row: () int32 in 0..num_ws - 1, for a step that may be traced."""
    return (step >= jnp.array(table, jnp.int32)).sum(dtype=jnp.int32) - 1


def open_rows(num_ws: int, stage: jax.Array | int) -> jax.Array:
    """(num_ws,) float32: 1 for the rows that are free at this stage, 0 for those that repeat row 0."""
    return (jnp.arange(num_ws) <= stage).astype(jnp.float32)
