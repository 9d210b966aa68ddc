import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsap_jax.networks import halving

pytestmark = pytest.mark.fast


def plain(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def operands(*shape, seed=0):
    random = np.random.RandomState(seed)
    x = jnp.asarray(random.randn(*shape), jnp.float32)
    kernel = jnp.asarray(random.randn(3, 3, shape[-1], 5), jnp.float32)
    return x, kernel, jnp.asarray(random.randn(*jax.eval_shape(plain, x, kernel).shape), jnp.float32)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 2, 2, 4), (3, 4, 6, 2), (2, 7, 4, 3), (2, 1, 1, 3)])
def test_gradients_are_those_of_the_convolution(shape):
    x, kernel, gradient = operands(*shape)
    ours, back = jax.vjp(halving.halve, x, kernel)
    theirs, expected = jax.vjp(plain, x, kernel)
    np.testing.assert_array_equal(ours, theirs)
    for found, wanted in zip(back(gradient), expected(gradient), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_gradients_of_a_batch_of_problems():
    x, kernel, gradient = operands(8, 6, 6, 3)
    x, gradient = x.reshape(4, 2, 6, 6, 3), gradient.reshape(4, 2, 3, 3, 5)
    many = jax.vmap(lambda x, g: jax.vjp(halving.halve, x, kernel)[1](g))(x, gradient)
    for i in range(4):
        one = jax.vjp(plain, x[i], kernel)[1](gradient[i])
        for found, wanted in zip(many, one, strict=True):
            np.testing.assert_allclose(found[i], wanted, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 2, 8), (3, 2, 5), (1, 1, 8), (3, 1, 8)])
def test_a_linen_layer_computes_the_same(kernel, stride, side):
    pad = kernel // 2
    layer = nn.Conv(5, (kernel, kernel), (stride, stride), ((pad, pad), (pad, pad)))
    x = operands(2, side, side, 3)[0]
    variables = layer.init(jax.random.key(0), x)

    def loss(layer, variables):
        return jnp.square(layer.apply(variables, x)).sum()

    expected = jax.value_and_grad(loss, 1)(layer, variables)
    found = jax.value_and_grad(loss, 1)(layer.clone(conv_general_dilated=halving.for_linen), variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), found, expected)
