import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsap_jax.networks import layers

pytestmark = pytest.mark.fast

conv = jax.jit(layers.conv, static_argnames=("stride", "padding"))
max_pool = jax.jit(layers.max_pool, static_argnums=(1, 2, 3))


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("size", [4, 7])
def test_max_pool_takes_the_maximum_of_every_window(size, window, ceil):
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, size, size + 1, 3)))
    # Without `ceil` windows end inside; with it a window begins wherever pixels are left over.
    starts = [[i for i in range(0, n, 2) if i + window <= n or (ceil and i + window < n + 2)] for n in x.shape[1:3]]
    want = [[x[:, i : i + window, j : j + window].max((1, 2)) for j in starts[1]] for i in starts[0]]
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), window, 2, ceil), np.moveaxis(np.array(want), 2, 0))


def test_gradient_of_max_pool_goes_to_the_maximum():
    x = jax.random.permutation(jax.random.key(0), jnp.arange(36.0)).reshape(1, 6, 6, 1)
    grad = jax.grad(lambda x: max_pool(x, 2, 2).sum())(x)
    largest = max_pool(x, 2, 2).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(grad, x == largest)


def test_conv_pads_evenly_and_adds_bias():
    x = jax.random.normal(jax.random.key(0), (1, 7, 6, 2))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 4))
    got = conv({"kernel": kernel, "bias": jnp.arange(4.0)}, x, stride=2, padding=1)
    padded = np.pad(np.asarray(x), [(0, 0), (1, 1), (1, 1), (0, 0)])
    want = [
        [np.einsum("bhwi,hwio->bo", padded[:, i : i + 3, j : j + 3], kernel) for j in range(0, 6, 2)]
        for i in range(0, 7, 2)
    ]
    np.testing.assert_allclose(got, np.moveaxis(np.array(want), 2, 0) + np.arange(4), atol=1e-5)
