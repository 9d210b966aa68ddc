"""Encoders against the reference implementations, under the published names of their tensors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from golden import assert_close, assert_close_l2, expected, image_u8, normal, state_dict, to_float

from lsap_jax.checkpoints.convert_encoders import encoder_from_checkpoint
from lsap_jax.data import resize
from lsap_jax.networks.encoders import EncoderArch, module


@functools.cache
def photos() -> np.ndarray:
    return to_float(image_u8("enc256", (2, 3, 256, 256)))


def test_psp_and_e4e():
    """The first 8 of 18 rows, which reach all three levels; the two kinds' weights are the same tensors."""
    E = encoder_from_checkpoint(state_dict("d_psp18"), head="psp", start=np.zeros(512))
    assert E.arch == EncoderArch(head="psp", num_ws=8)
    assert_close(E(photos()[:1]), expected("d_psp18")["out"])

    e4e, case = E.replace(arch=dataclasses.replace(E.arch, head="e4e")), expected("d_e4e18")
    encode = jax.jit(lambda E, x, stage: E(x, stage=stage))
    for stage in (5, 18):
        assert_close(encode(e4e, photos()[:1], stage), case[f"out_stage{stage}"])
    first = encode(e4e, photos()[:1], 0)
    assert_close(first, np.broadcast_to(case["out_stage0"][:, None], first.shape))


@functools.cache
def w_encoder():
    trunk = {k: v for k, v in state_dict("d_psp18").items() if k.startswith(("input_layer.", "body."))}
    return encoder_from_checkpoint(trunk | state_dict("d_wenc"), start=np.zeros(512), num_ws=18)


def test_w_encoder():
    E = w_encoder()
    assert E.arch == EncoderArch(head="w")
    ws = E(photos())
    assert_close(ws[:, 0], expected("d_wenc")["out"])
    np.testing.assert_array_equal(ws, jnp.broadcast_to(ws[:, :1], ws.shape))


def test_w_encoder_in_training():
    """Normalised by the batch, the unbiased variance into the statistics, and gradients through all of it."""
    case, E = expected("d_wenc"), w_encoder()
    net = module(dataclasses.replace(E.arch, resolution=128, num_ws=1))
    x = np.concatenate([photos(), photos()[:, :, ::-1]])[:, ::2, ::2]
    weights = normal("input:w_enc_gout", (4, 512))

    @jax.jit
    def step(params, x):
        def loss(params):
            ws, updates = net.apply({**E.variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return (ws[:, 0] * weights).sum(), (ws[:, 0], updates["batch_stats"]["trunk"])

        return jax.grad(loss, has_aux=True)(params)

    gradient, (w, statistics) = step(E.variables["params"], x)
    assert_close(w, case["train_out"])
    for name, norm in (("input", statistics["input_norm"]), ("b23", statistics["unit23"]["norm2"])):
        assert_close(norm["mean"], case[f"train_running_mean_{name}"], 1e-5)
        assert_close(norm["var"], case[f"train_running_var_{name}"], 1e-5)
    trunk = gradient["trunk"]
    assert_close(gradient["head"]["linear"]["bias"], case["train_grad_linear_bias"])
    assert_close(trunk["unit12"]["squeeze"]["kernel"].T[:, :, None, None], case["train_grad_b12_se_fc1"])
    # In float32 a few activations lie on the other side of a PReLU's corner.
    assert_close_l2(trunk["input_conv"]["kernel"].transpose(3, 2, 0, 1), case["train_grad_input_conv"], 1e-3)
    assert_close_l2(trunk["unit0"]["prelu"]["slope"], case["train_grad_b0_prelu"], 1e-3)


def test_latent_composition():
    case = expected("h_latent_composition_enc")
    E = encoder_from_checkpoint(state_dict("h_latent_composition_enc"))
    assert E.arch == EncoderArch("resnet", head="pooled", input="rgb+mask", start="zero")
    x, mask = to_float(case["in_x_u8"]), np.ones((1, 256, 256, 1), np.float32)
    mask[:, 96:200, 40:160] = 0
    assert_close(E(x, mask=mask), case["out"])
    # The reference takes other sizes too, by `area` interpolation; here the caller does that.
    nearest = np.arange(384) * 256 // 384
    both = np.concatenate([x * mask, mask], -1)[:, nearest][:, :, nearest]
    both = resize.adaptive_average_pool(jnp.asarray(both), 256)
    assert_close(jax.jit(module(E.arch).apply)(E.variables, both), case["out_from_384"])


def test_idinvert():
    E = encoder_from_checkpoint(state_dict("h_idinvert_enc256"))
    assert E.arch == EncoderArch("idinvert", head="dense", start="zero", num_ws=14)
    assert_close(E(to_float(image_u8("idinvert256", (1, 3, 256, 256)))), expected("h_idinvert_enc256")["out"])
