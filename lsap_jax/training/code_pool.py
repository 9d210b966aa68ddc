"""Pools of earlier codes, so that a critic does not forget what it has seen (Shrivastava et al., arXiv 1612.07828).

A pool is a pytree that `query` maps to the next one; it belongs into the training state.
"""

import flax.struct
import jax
import jax.numpy as jnp


class CodePool(flax.struct.PyTreeNode):
    """Codes seen earlier.

    Attributes:
      codes: (size, w_dim); the first `count` are codes.
      count: () int32, how many there are.
    """

    codes: jax.Array
    count: jax.Array


def empty(size: int, w_dim: int) -> CodePool:
    """A pool without codes yet; of size 0 it hands every code through."""
    return CodePool(jnp.zeros((size, w_dim)), jnp.int32(0))


def query(pool: CodePool, key: jax.Array, codes: jax.Array) -> tuple[CodePool, jax.Array]:
    """Show codes to the pool one after the other, and get as many back.

    While the pool has room a code is stored and returned. Afterwards, with probability one half, it is returned and
    forgotten; else it takes the place of a random stored one, which is returned.

    Args:
      pool: as it was.
      key: of the draws.
      codes: (n, w_dim).

    Returns:
      the pool afterwards, and (n, w_dim) codes.
    """
    size = pool.codes.shape[0]
    if not size:
        return pool, codes
    swaps, slots = draws(key, codes.shape[0], size)

    def show(pool, shown):
        code, swap, slot = shown
        filling = pool.count < size
        slot = jnp.where(filling, pool.count, slot)
        stored = pool.codes[slot]
        returned = jnp.where(~filling & swap, stored, code)
        kept = jnp.where(filling | swap, code, stored)
        count = jnp.minimum(pool.count + 1, size)
        return CodePool(pool.codes.at[slot].set(kept), count), returned

    return jax.lax.scan(show, pool, (codes, swaps, slots))


def draws(key: jax.Array, n: int, size: int) -> tuple[jax.Array, jax.Array]:
    """What `query` draws for n codes: (n,) whether to swap with a stored one, and (n,) with which."""
    swap_key, slot_key = jax.random.split(key)
    return jax.random.bernoulli(swap_key, 0.5, (n,)), jax.random.randint(slot_key, (n,), 0, size)


def pick_rows(key: jax.Array, ws: jax.Array, stage: jax.Array | int | None = None) -> jax.Array:
    """One random row of each code, as the reference gives codes of W+ to its pool.

    Args:
      key: of the draw.
      ws: (B, num_ws, w_dim).
      stage: the last row to pick from, which may be traced (progressive training); None for all.

    Returns:
      (B, w_dim).
    """
    rows = ws.shape[1] if stage is None else stage + 1
    row = jax.random.randint(key, (ws.shape[0],), 0, rows)
    return jnp.take_along_axis(ws, row[:, None, None], axis=1)[:, 0]
