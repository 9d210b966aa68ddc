"""Losses of critics and of those they judge, the same for codes (e4e) and images (IDInvert, StyleGAN2).

A critic gives logits, larger for real; the losses are the non-saturating ones of Goodfellow et al. (arXiv 1406.2661)
with the gradient penalty R1 of Mescheder et al. (arXiv 1801.04406).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def critic_loss(real: jax.Array, fake: jax.Array) -> jax.Array:
    """What a critic minimises: mean softplus(-real) + mean softplus(fake), over logits of any shape."""
    return jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()


def encoder_adversarial(logits: jax.Array, open_rows: jax.Array | None = None) -> jax.Array:
    """What an encoder minimises against a critic: the mean of softplus(-logits).

    Rows that only repeat row 0 would count it over and over; original e4e leaves them out, GANInverter takes all.

    Args:
      logits: of its codes (B, num_ws), or of the images (B,) that they render to.
      open_rows: (num_ws,) 1 for the rows that count (original e4e: the free ones); None for all.
    """
    loss = jax.nn.softplus(-logits)
    if open_rows is None:
        return loss.mean()
    weight = open_rows.astype(loss.dtype)
    return (loss.mean(0) * weight).sum() / weight.sum()


def r1(critic: Callable[[jax.Array], jax.Array], real: jax.Array) -> jax.Array:
    """Mean over a batch of the squared length of the critic's gradient at real data.

    As a penalty it is weighed by gamma / 2, and by n more where it is only taken at every n-th step.

    Args:
      critic: (B, ...) -> (B,) logits.
      real: codes (B, w_dim) or images (B, H, W, 3).
    """
    gradient = jax.grad(lambda x: critic(x).sum())(real)
    return jnp.square(gradient).sum() / real.shape[0]
