"""Ranger against a float64 transcription of the reference's rule, and as a citizen of optax."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lsap_jax.training.ranger import centralised, ranger, rectification

SHAPES = {"kernel": (3, 3, 4, 5), "dense": (6, 7), "bias": (5,), "slope": (4,)}


def transcription(start, grads, lr, b1=0.95, b2=0.999, eps=1e-5, decay=0.0, alpha=0.5, every=6, threshold=5):
    """The PyTorch code line by line, in float64 and in its own layout: the output's axis first. Yields each update."""
    p = np.moveaxis(np.asarray(start, np.float64), -1, 0)
    slow, m, v = p.copy(), np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        g = np.moveaxis(np.asarray(g, np.float64), -1, 0)
        if g.ndim > 1:
            g = g - g.mean(tuple(range(1, g.ndim)), keepdims=True)
        v = b2 * v + (1 - b2) * g * g
        m = b1 * m + (1 - b1) * g
        n_max = 2 / (1 - b2) - 1
        n = n_max - 2 * t * b2**t / (1 - b2**t)
        p = p - decay * lr(t - 1) * p
        if n > threshold:
            ratio = (n - 4) / (n_max - 4) * (n - 2) / n * n_max / (n_max - 2)
            p = p - lr(t - 1) * math.sqrt((1 - b2**t) * ratio) / (1 - b1**t) * m / (np.sqrt(v) + eps)
        else:
            p = p - lr(t - 1) / (1 - b1**t) * m
        if t % every == 0:
            slow = slow + alpha * (p - slow)
            p = slow.copy()
        yield np.moveaxis(p, 0, -1)


def problem(steps=20):
    rng = np.random.default_rng(0)
    start = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    grads = [{k: rng.normal(0.3, 1, s).astype(np.float32) for k, s in SHAPES.items()} for _ in range(steps)]
    return start, grads


def run(optimizer, start, grads):
    params = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grad):
        updates, state = optimizer.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    seen = []
    for grad in grads:
        params, state = step(params, state, grad)
        seen.append(jax.device_get(params))
    return seen, state, step._cache_size()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("scheduled", [False, True])
def test_twenty_updates_are_those_of_the_reference(scheduled, decay):
    start, grads = problem()
    rate = (lambda count: 1e-2 / (1 + count)) if scheduled else 1e-2
    seen, _, compiled = run(ranger(rate, weight_decay=decay), start, grads)
    assert compiled == 1
    for name in SHAPES:
        lr = rate if scheduled else lambda _: 1e-2
        want = list(transcription(start[name], [g[name] for g in grads], lr, decay=decay))
        for t in range(20):
            np.testing.assert_allclose(seen[t][name], want[t], rtol=1e-6, atol=1e-6)
        # The way gone, not only where it ends: what float32 keeps of differences of numbers near 1.
        np.testing.assert_allclose(seen[-1][name] - start[name], want[-1] - start[name], rtol=1e-4, atol=1e-6)


def test_moves_alone_to_one_part_in_100000():
    """From zero, where nothing is lost to the size of the weights."""
    start, grads = problem()
    start = jax.tree.map(np.zeros_like, start)
    seen, _, _ = run(ranger(1e-2), start, grads)
    for name in SHAPES:
        for got, want in zip(seen, transcription(start[name], [g[name] for g in grads], lambda _: 1e-2), strict=False):
            np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_five_updates_of_momentum_then_rectified():
    trusted = [bool(rectification(jnp.int32(t), 0.999)[0]) for t in range(1, 12)]
    assert trusted == [False] * 5 + [True] * 6
    start, grads = problem(5)
    seen, _, _ = run(ranger(1e-2), start, grads)
    m, p = 0.0, start["bias"].astype(np.float64)
    for t, grad in enumerate(grads, 1):
        m = 0.95 * m + 0.05 * grad["bias"]
        p = p - 1e-2 * m / (1 - 0.95**t)
    np.testing.assert_allclose(seen[-1]["bias"], p, rtol=1e-6)


@pytest.mark.parametrize("b2", [0.9, 0.99, 0.999, 0.9999])
def test_rectification_keeps_float32_precision(b2):
    counts = np.unique(np.geomspace(1, 1e6, 400).astype(int))
    trusted, factor = jax.vmap(lambda t: rectification(t, b2))(jnp.asarray(counts, jnp.int32))
    power, n_max = np.exp(counts * math.log(b2)), 2 / (1 - b2) - 1
    n = n_max - 2 * counts * power / (1 - power)
    np.testing.assert_array_equal(trusted, n > 5)
    n = n[n > 5]
    want = np.sqrt((1 - power[-len(n) :]) * (n - 4) / (n_max - 4) * (n - 2) / n * n_max / (n_max - 2))
    np.testing.assert_allclose(factor[-len(n) :], want, rtol=3e-6)


def test_slow_weights_are_met_at_every_sixth_update():
    start, grads = problem(13)
    seen, _, _ = run(ranger(1e-2), start, grads)
    free, _, _ = run(ranger(1e-2, every=10_000), start, grads)
    for t in range(5):
        jax.tree.map(np.testing.assert_array_equal, seen[t], free[t])
    halfway = jax.tree.map(lambda a, b: a + 0.5 * (b - a), start, free[5])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), seen[5], halfway)
    _, at_12, _ = run(ranger(1e-2), start, grads[:12])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), at_12.slow, seen[11])
    _, at_13, _ = run(ranger(1e-2), start, grads)
    jax.tree.map(np.testing.assert_array_equal, at_13.slow, at_12.slow)
    assert not np.allclose(at_13.slow["dense"], seen[12]["dense"], atol=1e-5)


def test_only_tensors_with_an_input_are_centralised():
    _, (grad,) = problem(1)
    for name, shape in SHAPES.items():
        out = np.asarray(centralised(jnp.asarray(grad[name])))
        if len(shape) == 1:
            np.testing.assert_array_equal(out, grad[name])
        else:
            np.testing.assert_allclose(out.reshape(-1, shape[-1]).mean(0), 0, atol=1e-6)


def test_accumulated_halves_are_one_update():
    start, grads = problem(8)
    halves = [jax.tree.map(lambda g, s=s: g + s * 0.1, grad) for grad in grads for s in (-1, 1)]
    want, _, _ = run(ranger(1e-2), start, grads)
    optimizer = optax.MultiSteps(ranger(1e-2), every_k_schedule=2)
    got, _, compiled = run(optimizer, start, halves)
    assert compiled == 1
    for t in range(8):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got[2 * t + 1], want[t])


def test_params_and_state_may_both_be_donated():
    start, (grad,) = problem(1)
    params = jax.tree.map(jnp.asarray, start)
    optimizer = ranger(1e-2)
    state = optimizer.init(params)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, state))]
    assert len(set(pointers)) == len(pointers)
    step = jax.jit(lambda p, s, g: optimizer.update(g, s, p), donate_argnums=(1,))
    updates, _ = step(params, state, grad)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


def test_needs_the_params():
    optimizer = ranger(1e-2)
    params = {"a": jnp.zeros(3)}
    with pytest.raises(ValueError, match="params"):
        optimizer.update(params, optimizer.init(params))
