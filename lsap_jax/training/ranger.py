"""Ranger, the optimiser of the pSp family: RAdam, gradient centralisation and Lookahead in one.

Rectified Adam (Liu et al. 2020, arXiv 1908.03265), gradients centralised over each output (Yong et al. 2020,
arXiv 2004.01461), and a slow copy of the weights that the fast ones return to (Zhang et al. 2019, arXiv 1907.08610),
with the constants and the order of L. Wright's PyTorch code, which pSp, e4e and GANInverter train with.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class RangerState(NamedTuple):
    """What Ranger remembers.

    Attributes:
      count: () int32, updates done.
      mu: running mean of centralised gradients.
      nu: running mean of their squares.
      slow: Lookahead's slow weights; the weights that are trained with are the fast ones.
    """

    count: jax.Array
    mu: optax.Params
    nu: optax.Params
    slow: optax.Params


def ranger(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.95,
    b2: float = 0.999,
    eps: float = 1e-5,
    weight_decay: float = 0.0,
    alpha: float = 0.5,
    every: int = 6,
    threshold: float = 5,
) -> optax.GradientTransformation:
    """Ranger as one transformation; its `update` needs the params.

    Update t = 1, 2, ... with gradient g, lr the rate and m, v the running means of g and g^2:

    1. every g of two axes or more loses its mean over all axes but the output's. Kernels here are (..., in, out), so
       that is the last axis: the same numbers as in PyTorch, whose kernels have it first. Biases, PReLU slopes and
       norms have one axis and are left alone.
    2. p -= lr weight_decay p;
    3. p -= lr r_t / (1 - b1^t) m / (sqrt(v) + eps) once N_t > threshold (with b2 = 0.999 from update 6 on), and
       p -= lr / (1 - b1^t) m before; N_t and r_t by `rectification`;
    4. at every multiple of `every`: slow += alpha (p - slow), p = slow.

    Args:
      learning_rate: a number, or a schedule of the number of updates done.
      b1: decay of the mean of gradients.
      b2: decay of the mean of squares.
      eps: added to the root.
      weight_decay: decoupled, as a share of the rate.
      alpha: Lookahead's step of the slow weights.
      every: updates between Lookahead's steps.
      threshold: of N_t, below which the adaptive rate is not trusted.
    """

    def init(params):
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        # A copy: the slow weights must not share buffers with params that a training step donates.
        slow = jax.tree.map(jnp.array, params)
        return RangerState(jnp.zeros((), jnp.int32), mu, nu, slow)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("ranger moves weights towards their slow copy: call update(gradients, state, params)")
        count = state.count + 1
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        trusted, factor = rectification(count, b2, threshold)
        step = rate * factor / -jnp.expm1(count * math.log(b1))
        synced = count % every == 0

        grads = jax.tree.map(centralised, updates)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)

        def move(p, m, v):
            return -(step * jnp.where(trusted, m / (jnp.sqrt(v) + eps), m) + rate * weight_decay * p).astype(p.dtype)

        moves = jax.tree.map(move, params, mu, nu)
        slow = jax.tree.map(
            lambda s, p, u: jnp.where(synced, s + alpha * (p + u - s), s).astype(p.dtype), state.slow, params, moves
        )
        moves = jax.tree.map(lambda s, p, u: jnp.where(synced, s - p, u), slow, params, moves)
        return moves, RangerState(count, mu, nu, slow)

    return optax.GradientTransformation(init, update)


def centralised(gradient: jax.Array) -> jax.Array:
    """The gradient minus its mean over all axes but the last, the output's; of one axis: unchanged."""
    if gradient.ndim < 2:
        return gradient
    return gradient - gradient.mean(range(gradient.ndim - 1), keepdims=True)


def rectification(count: jax.Array, b2: float, threshold: float = 5) -> tuple[jax.Array, jax.Array]:
    """RAdam's judgement of update t = `count`: is the adaptive rate to be trusted, and the factor on the step.

    N_t = N - 2 t b2^t / (1 - b2^t), N = 2 / (1 - b2) - 1, is the number of gradients that the mean of squares is worth.

    Args:
      count: () updates done, this one included.
      b2: decay of the mean of squares.
      threshold: of N_t.

    Returns:
      N_t > threshold, and r_t = sqrt((1 - b2^t) (N_t - 4) (N_t - 2) N / ((N - 4) (N - 2) N_t)), which includes Adam's
      correction of the mean of squares; 1 where N_t is not trusted.
    """
    a, longest = -math.log(b2), 2 / (1 - b2) - 1
    t = count.astype(jnp.float32)
    q = a * t
    # As written, N_t is the difference of two numbers near 2,000, and float32 would put the first rectified steps off
    # by half a percent. With coth(y / 2) = 2 / y + odd(y) the large parts cancel: N_t = t - t odd(a t) + odd(a).
    early = t - t * _odd(jnp.minimum(q, 1)) + _odd(a)
    n = jnp.where(q < 1, early, longest - 2 * t / jnp.expm1(q))
    trusted = n > threshold
    n = jnp.where(trusted, n, longest)
    squared = -jnp.expm1(-q) * (n - 4) * (n - 2) / n * (longest / ((longest - 4) * (longest - 2)))
    return trusted, jnp.where(trusted, jnp.sqrt(squared), 1.0)


def _odd(y):
    """Coth(y / 2) - 2 / y for 0 <= y <= 1, by its power series; its first term left out is below 1e-8 y."""
    return y / 6 - y**3 / 360 + y**5 / 15120 - y**7 / 604800 + y**9 / 23950080
