"""The latent critic against the reference's, with losses and gradient penalty."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsap_jax.checkpoints import convert_latent_critic
from lsap_jax.errors import CheckpointError
from lsap_jax.networks.latent_critic import LatentCritic
from lsap_jax.training import adversarial


def converted():
    variables, layers = convert_latent_critic.convert(golden.state_dict("c_sncd1024", "keys_wdisc.json"))
    return lambda codes: LatentCritic(layers).apply(variables, codes)


def test_parity_with_the_reference():
    want, critic = golden.expected("c_sncd1024"), converted()
    ws = jnp.asarray(golden.normal("input:sncd_wplus", (4, 18, 512)))
    real = jnp.asarray(golden.normal("input:sncd_w64", (64, 512)))[:8]
    golden.assert_close(critic(real)[:, None], want["wdisc_logits_real"], 1e-5)
    golden.assert_close(critic(ws[:, 0])[:, None], want["wdisc_logits_fake"], 1e-5)
    golden.assert_close(adversarial.critic_loss(critic(real), critic(ws[:, 0])), want["wdisc_loss"], 1e-5)
    golden.assert_close(adversarial.r1(critic, real), want["wdisc_r1"], 1e-4)

    def encoder_loss(ws):
        return 0.1 * adversarial.encoder_adversarial(critic(ws))

    golden.assert_close(encoder_loss(ws), want["loss_wdisc"], 1e-5)
    golden.assert_close_l2(jax.grad(encoder_loss)(ws)[:1], want["grad_wdisc"], 1e-4)


def test_size_and_first_weights():
    variables = LatentCritic().init(jax.random.key(0), jnp.zeros((1, 512)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 788_481
    for leaf in jax.tree.leaves(variables):
        assert float(jnp.abs(leaf).max()) <= 512**-0.5
    kernel = variables["params"]["dense1"]["kernel"]
    np.testing.assert_allclose(kernel.std(), 512**-0.5 / 3**0.5, rtol=0.01)


def small(**changes):
    rng = np.random.default_rng(0)
    tensors = {}
    for layer, outputs in enumerate((6, 6, 1)):
        tensors[f"mlp.{2 * layer}.weight"] = rng.normal(size=(outputs, 6)).astype(np.float32)
        tensors[f"mlp.{2 * layer}.bias"] = rng.normal(size=outputs).astype(np.float32)
    return {k: v for k, v in {**tensors, **changes}.items() if v is not None}


def test_depth_width_and_prefix_come_from_the_file():
    variables, layers = convert_latent_critic.convert({f"module.{k}": v for k, v in small().items()})
    assert layers == 3
    codes = np.random.default_rng(1).normal(size=(2, 5, 6)).astype(np.float32)
    x = codes
    for layer in range(3):
        x = x @ small()[f"mlp.{2 * layer}.weight"].T + small()[f"mlp.{2 * layer}.bias"]
        x = np.where((x >= 0) | (layer == 2), x, 0.2 * x)
    np.testing.assert_allclose(LatentCritic(layers).apply(variables, jnp.asarray(codes)), x[..., 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"mlp.2.bias": None}, r"mlp\.2\.bias is missing"),
        ({"mlp.0.weight": None}, r"mlp\.0\.weight is missing"),
        ({"mlp.8.bias": np.zeros(1)}, r"mlp\.8\.bias is not"),
        ({"mlp.2.weight": np.zeros((5, 6))}, r"mlp\.2\.weight has shape \(5, 6\)"),
        (dict.fromkeys(small()), r"mlp\.0\.weight is missing"),
    ],
)
def test_wrong_tensors_are_named(changes, names):
    with pytest.raises(CheckpointError, match=names):
        convert_latent_critic.convert(small(**changes))
