"""e4e's latent critic: does a code come from the mapping network (real), or from an encoder (fake)?"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


class LatentCritic(nn.Module):
    """Linear layers as wide as a code with leaky ReLU of slope 0.2 between, then one number.

    With 4 layers and codes of 512 numbers, e4e's, 788,481 parameters. They start as PyTorch's linear layers do: weights
    and biases uniform within 1 / sqrt(inputs).

    Attributes:
      layers: linear layers, the last included.
    """

    layers: int = 4

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        """Judge codes one by one: (..., w_dim) -> (...,) logits, larger for real."""
        width = codes.shape[-1]
        bound = 1 / math.sqrt(width)

        def uniform(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        x = codes
        for layer in range(self.layers - 1):
            x = nn.leaky_relu(nn.Dense(width, kernel_init=uniform, bias_init=uniform, name=f"dense{layer}")(x), 0.2)
        x = nn.Dense(1, kernel_init=uniform, bias_init=uniform, name=f"dense{self.layers - 1}")(x)
        return x[..., 0]
