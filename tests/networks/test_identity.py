import functools

import dlib_networks
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_ir_se

from lsap_jax.checkpoints import convert_ir_se
from lsap_jax.errors import CheckpointError, ImageError
from lsap_jax.networks import identity, ir_se


@functools.cache
def small_dlib() -> identity.DlibFace:
    return identity.DlibFace(jax.tree.map(jnp.asarray, dlib_networks.random_params()))


@functools.cache
def small_arcface() -> identity.ArcFace:
    return identity.ArcFace(tiny_ir_se.variables(ir_se.ArcFace(tiny_ir_se.STAGES, 8), 112), tiny_ir_se.STAGES)


RECOGNISERS = pytest.mark.parametrize("recogniser", [small_dlib, small_arcface])


def faces(size: int) -> np.ndarray:
    """Two smooth pictures (2, size, size, 3)."""
    picture = golden.to_float(golden.expected("f_lpips")["in0_256_u8"])
    return (
        np.repeat(np.repeat(picture, size // 256, axis=1), size // 256, axis=2)
        if size > 256
        else picture[:, :size, :size]
    )


def test_reference():
    case = golden.expected("e_idloss")
    state_dict = golden.state_dict("e_idloss")
    assert convert_ir_se.stages_of(state_dict) == ir_se.IR_SE50
    judge = identity.ArcFace(jax.tree.map(jnp.asarray, convert_ir_se.convert_arcface(state_dict)))
    y_hat, y = (golden.to_float(case[f"in_{name}_u8"]) for name in ("yhat", "y"))
    target = judge.embed(y)
    golden.assert_close(target, case["feats_y"])

    @jax.jit
    def loss(judge, y_hat):
        embedded = judge.embed(y_hat)
        return 1 - (embedded * target).sum(-1).mean(), embedded

    (value, embedded), grad = jax.value_and_grad(loss, argnums=1, has_aux=True)(judge, y_hat)
    golden.assert_close(embedded, case["feats_yhat"])
    np.testing.assert_allclose(value, case["id_loss"], rtol=1e-4)
    golden.assert_close_l2(grad[:, ::4, ::4], golden.nhwc(case["grad_yhat_stride4"]), 1e-3)
    np.testing.assert_allclose(np.linalg.norm(grad), case["grad_yhat_l2"], rtol=1e-3)


@pytest.mark.fast
@RECOGNISERS
def test_cosine_of_unit_vectors(recogniser):
    judge = recogniser()
    a = faces(256)
    embedded = judge.embed(a)
    np.testing.assert_allclose(jnp.linalg.norm(embedded, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(judge(a, a), 1, rtol=1e-5)
    np.testing.assert_allclose(judge(a, a[::-1]), jnp.full(2, embedded[0] @ embedded[1]), rtol=1e-4)


@RECOGNISERS
def test_size_does_not_matter(recogniser):
    judge = recogniser()
    np.testing.assert_allclose(judge.embed(faces(512)), judge.embed(faces(256)), atol=0.02)
    assert judge.embed(faces(128)).shape == (2, 8)


@RECOGNISERS
def test_gradient_reaches_the_face(recogniser):
    a = jnp.asarray(faces(256)[:1])
    grad = jax.jit(jax.grad(lambda x, judge: judge(x, a[:, ::-1]).sum()))(a, recogniser())
    assert jnp.isfinite(grad).all()
    assert jnp.abs(grad[0, 120:140, 80:160]).max() > 0
    np.testing.assert_array_equal(grad[0, :20], 0)  # hair and background at the top are not looked at


@pytest.mark.fast
@RECOGNISERS
def test_unusable_images_are_refused(recogniser):
    judge = recogniser()
    with pytest.raises(ImageError, match="square"):
        judge.embed(np.zeros((1, 256, 192, 3), np.float32))
    with pytest.raises(ImageError, match="uint8"):
        judge.embed(np.zeros((1, 256, 256, 3), np.uint8))
    with pytest.raises(ImageError, match="2 and 1 images"):
        judge(faces(256), faces(256)[:1])


@pytest.mark.fast
def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="dlib-face"):
        identity.identity("facenet")
    np.savez(tmp_path / "other.npz", weight=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"input_layer|body\.0"):
        identity.identity(tmp_path / "other.npz")


@pytest.mark.weights("dlib-face")
def test_pretrained_by_default():
    judge = identity.identity()
    assert judge.embed(faces(256)).shape == (2, 128)
