import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dlib_networks import WIDTHS, random_params

from lsap_jax import pretrained
from lsap_jax.errors import ConfigError
from lsap_jax.networks import dlib_face, dlib_trunk
from lsap_jax.networks.ir_se import Stage

NARROW = tuple(Stage(width, WIDTHS[:-1].count(width)) for width in sorted(set(WIDTHS)))


def chips(size: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(0), (2, size, size, 3), minval=-1)


def taps(tree, stages, x):
    params = dlib_trunk.pretrained_params(tree, stages, x.shape[-1])
    return jax.jit(dlib_trunk.DlibTrunk(stages).apply)({"params": params}, x)


def rest(tree, c3):
    """What follows the trunk in dlib's network."""
    x = dlib_face._block(tree["block13"], c3, dlib_face.STRIDES[13])
    return x.mean((1, 2)) @ tree["head"]["kernel"]


def test_the_same_arithmetic_as_the_descriptor():
    tree = random_params() | {"mean": np.array(dlib_trunk.MEAN, np.float32)}
    c1, c2, c3 = taps(tree, NARROW, chips(150))
    assert (c1.shape, c2.shape, c3.shape) == ((2, 17, 17, 3), (2, 8, 8, 4), (2, 4, 4, 5))
    np.testing.assert_allclose(rest(tree, c3), dlib_face.descriptor(tree, chips(150)), rtol=1e-4, atol=1e-5)


@pytest.mark.weights("dlib-face")
def test_dlibs_own_weights():
    tree, _ = pretrained.load("dlib-face")
    np.testing.assert_array_equal(tree["mean"], np.array(dlib_trunk.MEAN, np.float32))
    c1, c2, c3 = taps(tree, dlib_trunk.STAGES, chips(128))
    assert (c1.shape, c2.shape, c3.shape) == ((2, 15, 15, 64), (2, 7, 7, 128), (2, 3, 3, 256))
    c3 = taps(tree, dlib_trunk.STAGES, chips(150))[-1]
    np.testing.assert_allclose(rest(tree, c3), dlib_face.descriptor(tree, chips(150)), rtol=1e-4, atol=1e-5)


def test_further_channels_change_nothing_at_first():
    tree, x = random_params(), chips(64)
    for further in (x[..., :1], x[::-1]):
        for got, want in zip(taps(tree, NARROW, jnp.concatenate([x, further], -1)), taps(tree, NARROW, x), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.fast
def test_stages_must_be_a_beginning_of_dlibs():
    tree = random_params()
    shorter = (*NARROW[:-1], Stage(NARROW[-1].width, 1))
    assert "block11" not in dlib_trunk.pretrained_params(tree, shorter)
    for stages in (NARROW[1:], (Stage(2, 2), *NARROW[1:]), (*NARROW[:-1], Stage(9, 3)), (*NARROW, Stage(5, 2))):
        with pytest.raises(ConfigError, match="dlib's weights fit"):
            dlib_trunk.pretrained_params(tree, stages)
