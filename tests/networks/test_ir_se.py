import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_ir_se
from tiny_ir_se import STAGES

from lsap_jax.networks import ir_se

TRUNK = ir_se.Backbone(STAGES)


def images(*shape) -> jax.Array:
    return jax.random.normal(jax.random.key(1), shape)


@jax.jit
def train(variables, x):
    return TRUNK.apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.fast
@pytest.mark.parametrize("channels", [3, 6])
def test_taps_of_a_narrow_trunk(channels):
    variables = jax.eval_shape(TRUNK.init, jax.random.key(0), images(1, 32, 32, channels))
    c1, c2, c3 = jax.eval_shape(TRUNK.apply, variables, images(2, 33, 48, channels))
    assert (c1.shape, c2.shape, c3.shape) == ((2, 17, 24, 16), (2, 9, 12, 16), (2, 5, 6, 32))


def test_size_of_ir_se50():
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    variables = jax.eval_shape(ir_se.Backbone().init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 30_950_080
    taps = jax.eval_shape(ir_se.Backbone().apply, variables, image)
    assert [tap.shape for tap in taps] == [(1, 64, 64, 128), (1, 32, 32, 256), (1, 16, 16, 512)]


def test_training_normalises_by_the_batch_and_moves_the_statistics():
    x = 5 + 3 * images(4, 32, 32, 3)
    variables = tiny_ir_se.variables(TRUNK, 32)
    taps, updates = train(variables, x)
    scaled, _ = train(variables, 2 * x)
    np.testing.assert_allclose(taps[-1], scaled[-1], atol=1e-3)  # the first norm takes out the scale

    kernel = variables["params"]["input_conv"]["kernel"]
    dims = ("NHWC", "HWIO", "NHWC")
    first = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)
    moved = updates["batch_stats"]["input_norm"]
    np.testing.assert_allclose(moved["mean"], 0.1 * first.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * first.var((0, 1, 2)), rtol=1e-3)


def test_every_weight_of_the_trunk_gets_a_gradient():
    x = images(4, 32, 32, 3)
    variables = tiny_ir_se.variables(TRUNK, 32)

    @jax.jit
    def gradient(params):
        def loss(params):
            taps, _ = train({**variables, "params": params}, x)
            return sum((tap**2).sum() for tap in taps)

        return jax.grad(loss)(params)

    for path, grad in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
        assert jnp.isfinite(grad).all(), path
        assert jnp.abs(grad).max() > 0, path


def test_arcface_drops_out_in_training_only():
    face = ir_se.ArcFace(STAGES, embedding=8)
    variables = tiny_ir_se.variables(face, 32)
    assert variables["params"]["dense"]["kernel"].shape == (4 * 4 * 32, 8)

    @jax.jit
    def apply(key):
        return face.apply(variables, images(4, 32, 32, 3), train=True, mutable=["batch_stats"], rngs={"dropout": key})[
            0
        ]

    assert not np.allclose(apply(jax.random.key(0)), apply(jax.random.key(1)))
    # In evaluation no key is needed: nothing random is left.
    assert jax.eval_shape(face.apply, variables, images(4, 32, 32, 3)).shape == (4, 8)
