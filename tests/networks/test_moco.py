"""MoCo features against a PyTorch network of torchvision's layout (float64; a narrow one), and the loss."""

import golden
import jax
import jax.numpy as jnp
import moco_network
import numpy as np
import pytest

from lsap_jax.checkpoints import convert_moco
from lsap_jax.data import resize
from lsap_jax.errors import CheckpointError, ImageError
from lsap_jax.networks import moco

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def judge():
    return moco.Moco(jax.tree.map(jnp.asarray, convert_moco.convert(moco_network.checkpoint())))


def test_embedding_and_loss_and_gradient(judge):
    want, images = golden.expected("moco_narrow"), jnp.asarray(moco_network.images())
    embedding = judge.embed(images)
    golden.assert_close(embedding, want["embedding_f64"], 1e-5)
    golden.assert_close(judge(images[:1], images[1:])[0], 1 - want["loss_f64"], 1e-6)
    gradient = jax.grad(lambda a, b: 1 - judge(a, b)[0])(images[:1], images[1:])
    golden.assert_close_l2(gradient[:, ::8, ::8], golden.nhwc(want["grad_f64"]), 1e-3)


def test_embedding_is_of_unit_length_and_at_256_pixels(judge):
    images = jax.random.uniform(jax.random.key(0), (2, 512, 512, 3), minval=-1, maxval=1)
    embedding = judge.embed(images)
    np.testing.assert_allclose(jnp.linalg.norm(embedding, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(embedding, judge.embed(resize.area(images, 256)), atol=1e-6)
    np.testing.assert_allclose(judge(images, images), 1, rtol=1e-5)


def test_nearest_takes_the_pixels_that_pytorch_takes():
    images = jnp.broadcast_to(jnp.arange(256.0)[None, :, None, None], (1, 256, 256, 1))
    rows = np.asarray(moco.nearest(images, 224))[0, :, 0, 0]
    assert rows.shape == (224,)
    np.testing.assert_array_equal(rows[:9], [0, 1, 2, 3, 4, 5, 6, 8, 9])
    assert rows[-1] == 254


def test_wrong_images_are_refused(judge):
    with pytest.raises(ImageError, match="square"):
        judge.embed(jnp.zeros((1, 256, 128, 3)))
    with pytest.raises(ImageError, match="pairs"):
        judge(jnp.zeros((1, 256, 256, 3)), jnp.zeros((2, 256, 256, 3)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"moco_v2_800ep_pretrain\.pth\.tar"):
        moco.load(tmp_path / "nothing")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"other\.npz: no module\.encoder_q"):
        moco.load(tmp_path / "other.npz")
