"""StyleGAN2's discriminator against golden outputs of both public implementations, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_close, assert_close_l2, expected, nhwc, state_dict, to_float

from lsap_jax.checkpoints.convert_stylegan2 import discriminator_from_checkpoint
from lsap_jax.checkpoints.nvidia_pickle import Module
from lsap_jax.errors import CheckpointError, ConfigError
from lsap_jax.networks import discriminators
from lsap_jax.networks.discriminators import DiscriminatorSizes

WIDTHS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
TINY = DiscriminatorSizes(8, ((4, 4), (8, 3)))


@jax.jit
def judged(D, images, labels=None):
    return D(images, labels)


@jax.jit
def judged_with_gradient(D, images, labels=None):
    """Logits, and the gradient of their sum to the images."""

    def total(images):
        out = D(images, labels)
        return jnp.sum(out), out

    (_, out), own = jax.value_and_grad(total, has_aux=True)(images)
    return out, own


@jax.jit
def penalised(D, images):
    """Logits, gradient to the images, R1 = mean of its square norm, and R1's gradient to the first and last weights."""

    def penalty(first, last):
        blocks = {**D.params, "b64": {**D.params["b64"], "fromrgb": first}, "b4": {**D.params["b4"], "out": last}}
        out, own = judged_with_gradient(D.replace(params=blocks), images)
        return jnp.mean(jnp.sum(own**2, axis=(1, 2, 3))), (out, own)

    first, last = D.params["b64"]["fromrgb"], D.params["b4"]["out"]
    (value, (out, own)), to_weights = jax.value_and_grad(penalty, argnums=(0, 1), has_aux=True)(first, last)
    return out, own, value, to_weights


def test_rosinality():
    D, e = discriminator_from_checkpoint({"d": state_dict("b_disc64")}, "b"), expected("b_disc64")
    images = jnp.asarray(to_float(e["in_x_u8"]))
    out, own, penalty, (to_first, to_last) = penalised(D, images[:4])
    assert_close(out[:, None], e["logits_b4"])
    assert_close(judged(D, images[:1])[:, None], e["logits_b1"])
    assert_close_l2(own[:, ::2, ::2], nhwc(e["grad_x_b4"]), 1e-3)
    assert_close(penalty, e["r1_penalty_b4_f64"], 1e-4)
    assert_close_l2(to_first["weight"][0, 0].T, e["r1_grad_convs_0_0_weight"][..., 0, 0], 1e-3)
    assert_close_l2(to_last["weight"].T, e["r1_grad_final_linear_1_weight"], 1e-3)


NVIDIA = ["g_nvdisc64_tiny", "g_nvdisc64_tiny_cond", "g_nvdisc64_tiny_skip"]


@pytest.mark.parametrize("case", [pytest.param(NVIDIA[0], marks=pytest.mark.fast), *NVIDIA[1:], "g_nvdisc64_configf"])
def test_nvidia(case):
    D = discriminator_from_checkpoint({"D": Module("Discriminator", (), {}, state_dict(case), {})}, case)
    e = expected(case)
    images = jnp.asarray(to_float(e["in_x_u8"]))
    labels = jnp.eye(8, 10) if case.endswith("cond") else None
    assert D.sizes.architecture == ("skip" if case.endswith("skip") else "resnet")
    out, own = judged_with_gradient(D, images[:4], None if labels is None else labels[:4])
    assert_close(out[:, None], e["logits_b4"])
    if D.sizes.channels[0] == (4, 64):  # the wide one takes long
        assert_close(judged(D, images, labels)[:, None], e["logits_b8"])
    assert_close_l2(own[:, ::4, ::4], nhwc(e["grad_x_b4_stride4"]), 1e-3)
    assert_close(jnp.sum(own**2, axis=(1, 2, 3)), e["r1_penalty_per_sample_b4"], 1e-3)


@pytest.mark.fast
def test_size_at_1024():
    shapes = discriminators.param_shapes(DiscriminatorSizes(1024, tuple(WIDTHS.items())))
    leaves = jax.tree.leaves(shapes, is_leaf=lambda x: isinstance(x, tuple))
    assert sum(int(np.prod(shape)) for shape in leaves) == 29_012_513


@pytest.mark.fast
def test_deviation_groups_are_strided():
    x = np.zeros((8, 2, 2, 3), np.float32)
    x[[1, 3, 5, 7]] = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)  # group of the odd images differs
    feature = np.asarray(discriminators.minibatch_deviation(jnp.asarray(x)))
    assert feature.shape == (8, 2, 2, 1)
    np.testing.assert_allclose(feature[::2], 1e-4, rtol=1e-5)
    np.testing.assert_allclose(feature[1::2], np.std(np.arange(4)), rtol=1e-6)
    whole = np.asarray(discriminators.minibatch_deviation(jnp.asarray(x), group=0))
    np.testing.assert_allclose(whole, np.sqrt(x.var(0) + 1e-8).mean(), rtol=1e-5)


@pytest.mark.parametrize("architecture", discriminators.ARCHITECTURES)
def test_random_discriminators(architecture):
    sizes = DiscriminatorSizes(
        8, TINY.channels, label_dim=3, label_features=4, mapping_layers=1, architecture=architecture
    )
    D = discriminators.init(jax.random.key(0), sizes)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    classes = [judged(D, images, jnp.eye(3)[jnp.full(4, c)]) for c in range(2)]
    assert classes[0].shape == (4,)
    assert np.isfinite(classes[0]).all()
    assert not np.allclose(classes[0], classes[1], atol=1e-3)
    assert jax.tree.map(jnp.shape, D.params) == discriminators.param_shapes(sizes)


@pytest.mark.fast
def test_a_file_keeps_it(tmp_path):
    D = discriminators.init(jax.random.key(0), TINY)
    discriminators.save(tmp_path / "d.npz", D, {"licence": "none"})
    again = discriminators.load(tmp_path / "d.npz")
    assert again.sizes == TINY
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    np.testing.assert_array_equal(judged(D, images), judged(again, images))
    assert np.std(judged(D, images)) > 0
    discriminators.save(tmp_path / "other.npz", D.replace(params={**D.params, "b4": {}}))
    with pytest.raises(CheckpointError, match=r"other\.npz: its weights have other shapes"):
        discriminators.load(tmp_path / "other.npz")


def test_wrong_input_is_refused():
    D = discriminators.init(jax.random.key(0), TINY)
    with pytest.raises(ConfigError, match=r"\(2, 9, 9, 3\)"):
        D(jnp.zeros((2, 9, 9, 3)))
    with pytest.raises(ConfigError, match="labels"):
        D(jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 3)))
    with pytest.raises(ConfigError, match="groups of 4"):
        D(jnp.zeros((6, 8, 8, 3)))
    for fields in ({"resolution": 12}, {"channels": ((4, 4),)}, {"architecture": "x"}):
        with pytest.raises(ConfigError):
            DiscriminatorSizes(**{"resolution": 8, "channels": TINY.channels, **fields})


@pytest.mark.fast
def test_proportions_of_the_published_nets():
    assert dict(discriminators.sizes_for(1024, 32).channels) == WIDTHS
    sizes = discriminators.sizes_for(256, 64)
    assert dict(sizes.channels) == {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64}
    with pytest.raises(ConfigError, match="resolution 100"):
        discriminators.sizes_for(100, 64)
    # 29,012,513 at 1024, counted without making it.
    leaves = jax.tree.leaves(
        discriminators.param_shapes(discriminators.sizes_for(1024, 32)), is_leaf=lambda x: isinstance(x, tuple)
    )
    assert sum(int(np.prod(shape)) for shape in leaves) == 29_012_513
