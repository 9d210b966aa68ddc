"""Batch normalisation with PyTorch's statistics."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Normalises each channel over the batch and all positions: (..., C) -> (..., C).

    As in PyTorch the batch is normalised by its biased variance while the running variance moves by the unbiased
    one, n / (n - 1) times that; `flax.linen.BatchNorm`, whose names for variables these are, keeps the biased one.

    Attributes:
      use_running_average: evaluation; otherwise normalise by the batch, and update the collection `batch_stats`.
      dtype: of the result; statistics are computed in float32.
      momentum: share of the running statistics that a step keeps (PyTorch calls 1 - momentum the momentum).
      epsilon: added to the variance.
    """

    use_running_average: bool
    dtype: Any = jnp.float32
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., C) -> (..., C)."""
        size = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (size,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (size,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (size,))
        bias = self.param("bias", nn.initializers.zeros, (size,))
        if self.use_running_average:
            centre, spread = mean.value, var.value
        else:
            wide, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
            centre, spread = wide.mean(axes), wide.var(axes)
            if not self.is_initializing():
                count = x.size // size
                keep, unbiased = self.momentum, spread * (count / max(count - 1, 1))
                mean.value = keep * mean.value + (1 - keep) * centre
                var.value = keep * var.value + (1 - keep) * unbiased
        factor = scale * jax.lax.rsqrt(spread + self.epsilon)
        # Centre first: x * factor - mean * factor would cancel badly in float32.
        shape = (1,) * (x.ndim - 1) + (-1,)
        y = (x - centre.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)
        return y.astype(self.dtype)
