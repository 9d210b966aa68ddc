"""The fast forms of the operations against their definitions, written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_close, assert_close_l2
from jax import lax

from lsap_jax.generators import ops

FILTERS = [(1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 5.0, 3.0), (1.0, 1.0), (1.0, 2.0, 1.0), (1.0, 5.0, 10.0, 10.0, 5.0, 1.0)]


def random(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


def upfirdn(x, taps, up=1, down=1, pad=(0, 0), gain=1.0):
    """Zeros between samples, pad (or crop), true convolution with outer(taps, taps), every down-th sample; float64."""
    b, h, w, c = x.shape
    spread = np.zeros((b, h * up, w * up, c))
    spread[:, ::up, ::up] = x
    before, after = pad
    spread = np.pad(spread, ((0, 0), *[(max(before, 0), max(after, 0))] * 2, (0, 0)))
    f = np.asarray(taps) / np.sum(taps) * gain
    n = len(f)
    size = [s - n + 1 for s in spread.shape[1:3]]
    kernel = np.outer(f, f)[::-1, ::-1]
    out = sum(kernel[i, j] * spread[:, i : i + size[0], j : j + size[1]] for i in range(n) for j in range(n))
    return out[:, ::down, ::down]


def transposed(x, kernel):
    """z[2i + k] += x[i] w[k], float64."""
    b, h, w, _ = x.shape
    z = np.zeros((b, 2 * h + 1, 2 * w + 1, kernel.shape[-1]))
    for i in range(3):
        for j in range(3):
            z[:, i : i + 2 * h : 2, j : j + 2 * w : 2] += x.astype(np.float64) @ kernel[i, j]
    return z


@pytest.mark.parametrize("taps", FILTERS)
def test_upsampling_a_convolution_is_the_transposed_convolution_then_the_filter(taps):
    x, kernel = random(2, 5, 6, 3), random(3, 3, 3, 4, seed=1)
    n = len(taps)
    want = upfirdn(transposed(x, kernel), taps, pad=((n - 1) // 2, (n - 2) // 2), gain=2.0)
    assert_close(ops.upsample_conv(x, kernel, taps), want, 2e-6)


def test_derivatives_of_the_upsampling_convolution_are_those_of_the_dilated_form():
    taps = FILTERS[0]
    x, kernel, dx, dk = (
        random(2, 5, 6, 3),
        random(3, 3, 3, 4, seed=1),
        random(2, 5, 6, 3, seed=2),
        random(3, 3, 3, 4, seed=3),
    )

    def plain(x, kernel):
        z = lax.conv_general_dilated(
            x, kernel[::-1, ::-1], (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2), dimension_numbers=ops.DIMENSIONS
        )
        z = jnp.pad(z, ((0, 0), (1, 1), (1, 1), (0, 0)))
        f = [2 * t / sum(taps) for t in taps]
        return sum(f[i] * f[j] * z[:, i : i + 10, j : j + 12] for i in range(4) for j in range(4))

    def fast(x, kernel):
        return ops.upsample_conv(x, kernel, taps)

    def penalty(f, x):  # a gradient of a gradient, as path-length regularisation takes
        return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(f(x, kernel)) * cotangent))(x) ** 2)

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(f):
        forward = jax.jvp(f, (x, kernel), (dx, dk))[1]
        return forward, *jax.vjp(f, x, kernel)[1](cotangent), jax.grad(lambda x: penalty(f, x))(x)

    cotangent = random(2, 10, 12, 4, seed=4)
    for got, want in zip(derivatives(fast), derivatives(plain), strict=True):
        assert_close(got, want, 1e-5)


@pytest.mark.parametrize("taps", FILTERS)
def test_up_and_downsampling(taps):
    x, n = random(2, 6, 8, 3), len(taps)
    want = upfirdn(x, taps, up=2, pad=((n + 1) // 2, (n - 2) // 2), gain=2.0)
    assert_close(ops.upsample2d(x, taps), want, 2e-6)
    want = upfirdn(x, taps, down=2, pad=((n - 1) // 2, (n - 2) // 2))
    assert_close(ops.downsample2d(x, taps), want, 2e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_downsampling_convolution_is_the_filter_then_a_strided_convolution(size):
    x, kernel, taps = random(2, 6, 8, 3), random(size, size, 3, 4, seed=1), (1.0, 3.0, 3.0, 1.0)
    filtered = upfirdn(x, taps, pad=(1 + size // 2, 1 + size // 2))
    want = sum(
        filtered[:, i : i + 5 : 2, j : j + 7 : 2].astype(np.float64) @ kernel[i, j]
        for i in range(size)
        for j in range(size)
    )
    assert_close(ops.downsample_conv(x, kernel, taps), want, 2e-6)


def test_constant_image_stays_constant_inside():
    x = jnp.full((1, 8, 8, 2), 3.0)
    assert_close(ops.upsample2d(x, (1.0, 3.0, 3.0, 1.0))[:, 2:-2, 2:-2], np.full((1, 12, 12, 2), 3.0), 1e-6)
    assert_close(ops.downsample2d(x, (1.0, 3.0, 3.0, 1.0))[:, 1:-1, 1:-1], np.full((1, 2, 2, 2), 3.0), 1e-6)


def test_modulation_outside_the_convolution_equals_one_kernel_an_image():
    x, kernel, style = random(3, 5, 5, 4), random(3, 3, 4, 6, seed=1), random(3, 4, seed=2)
    got = ops.conv(x * ops.per_channel(style), kernel) * ops.per_channel(ops.demodulation(kernel, style))
    for i in range(3):
        own = kernel.astype(np.float64) / np.sqrt(9 * 4) * style[i][:, None]
        own = own / np.sqrt((own**2).sum((0, 1, 2)) + 1e-8)
        assert_close(got[i], ops.conv(jnp.asarray(x[i : i + 1]), jnp.asarray(own, jnp.float32))[0], 2e-6)


def test_leaky_relu_and_second_moment():
    x = jnp.asarray([-2.0, 0.0, 3.0])
    assert_close(ops.leaky_relu(x), np.array([-0.4, 0.0, 3.0]) * np.sqrt(2), 1e-6)
    v = ops.normalize_second_moment(jnp.asarray(random(4, 7)))
    assert_close(jnp.mean(v**2, -1), np.ones(4), 1e-5)


def test_equalised_linear_layer():
    params = {"weight": jnp.asarray(random(4, 3)), "bias": jnp.asarray(random(3, seed=1))}
    x = jnp.asarray(random(2, 4, seed=2))
    assert_close(ops.dense(params, x, 0.01), x @ (params["weight"] * 0.005) + 0.01 * params["bias"][None], 1e-6)


def test_gradient_of_filters_is_exact():
    x = jnp.asarray(random(1, 6, 6, 2))
    cotangent = jnp.asarray(random(1, 12, 12, 2, seed=1))
    _, pull = jax.vjp(lambda x: ops.upsample2d(x, FILTERS[1]), x)
    direction = jnp.asarray(random(1, 6, 6, 2, seed=2))
    lhs = jnp.vdot(cotangent, ops.upsample2d(direction, FILTERS[1]))
    assert_close_l2(lhs, jnp.vdot(pull(cotangent)[0], direction), 1e-5)
