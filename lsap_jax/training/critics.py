"""The critics that learn beside an encoder, as pure state.

The latent critic (e4e, arXiv:2102.02766) tells the generator's own codes from the encoder's; the image critic
(IDInvert, arXiv:2004.00049) tells photos from their reconstructions. Each takes one step of Adam before the encoder is
judged by it, and every `r1_every` steps a second one on the gradient penalty, as the reference does.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from lsap_jax.config import Critic, Train
from lsap_jax.generators.base import Generator
from lsap_jax.networks import discriminators
from lsap_jax.networks.encoders import EncoderArch
from lsap_jax.networks.latent_critic import LatentCritic
from lsap_jax.training import adversarial, code_pool
from lsap_jax.training.code_pool import CodePool

Metrics = dict[str, jax.Array]


class CriticState(flax.struct.PyTreeNode):
    """A critic in training.

    Attributes:
      params: its weights.
      optimizer: state of its Adam.
      real: pool of codes of the generator (latent critic only).
      fake: pool of codes of the encoder (latent critic only).
    """

    params: Any
    optimizer: Any
    real: CodePool | None = None
    fake: CodePool | None = None


def init_latent(key: jax.Array, options: Critic, arch: EncoderArch) -> CriticState:
    """The latent critic before its first step."""
    params = LatentCritic().init(key, jnp.zeros((1, arch.w_dim)))["params"]
    pool = code_pool.empty(options.pool, arch.w_dim)
    return CriticState(params, _adam(options).init(params), pool, jax.tree.map(jnp.copy, pool))


def init_image(key: jax.Array, options: Train) -> CriticState:
    """The image critic before its first step; it judges at the working resolution."""
    params = discriminators.init(key, _sizes(options)).params
    return CriticState(params, _adam(options.critic).init(params))


def update_latent(
    options: Critic,
    critic: CriticState,
    G: Generator,
    key: jax.Array,
    codes: jax.Array,
    stage: jax.Array,
    step: jax.Array,
) -> tuple[CriticState, Metrics]:
    """One step of the latent critic on fresh w and the encoder's codes.

    Args:
      options: rates and weights.
      critic: before.
      G: the generator.
      key: of the draws.
      codes: (B, num_ws, w_dim) of the encoder, without gradient.
      stage: their last open row; one random open row of each is shown (row 0 without pools).
      step: of the run.
    """
    z_key, row_key, real_key, fake_key = jax.random.split(key, 4)
    real = G.map(jax.random.normal(z_key, (codes.shape[0], G.z_dim)))
    fake = code_pool.pick_rows(row_key, codes, stage) if options.pool else codes[:, 0]
    assert critic.real is not None  # `init_latent` made the pools
    assert critic.fake is not None
    real_pool, real = code_pool.query(critic.real, real_key, real)
    fake_pool, fake = code_pool.query(critic.fake, fake_key, fake)
    critic, metrics = _learn(options, critic, _latent_logits, real, fake, step, "latent_critic")
    return critic.replace(real=real_pool, fake=fake_pool), metrics


def judge_latent(options: Critic, critic: CriticState, codes: jax.Array, open_rows: jax.Array) -> jax.Array:
    """The encoder's adversarial loss: codes (B, num_ws, w_dim) -> scalar."""
    b, rows, w_dim = codes.shape
    logits = _latent_logits(critic.params, codes.reshape(-1, w_dim)).reshape(b, rows)
    return adversarial.encoder_adversarial(logits, open_rows if options.open_rows else None)


def update_image(
    options: Train, critic: CriticState, real: jax.Array, fake: jax.Array, step: jax.Array
) -> tuple[CriticState, Metrics]:
    """One step of the image critic: photos and reconstructions (B, r, r, 3) at the working resolution."""

    def logits(params, images):
        return discriminators.logits(_sizes(options), params, images)

    return _learn(options.critic, critic, logits, real, fake, step, "image_critic")


def judge_image(options: Train, critic: CriticState, images: jax.Array) -> jax.Array:
    """The encoder's adversarial loss on its reconstructions: (B, r, r, 3) -> scalar."""
    logits = discriminators.logits(_sizes(options), critic.params, images)
    return adversarial.encoder_adversarial(logits)


def _learn(
    options: Critic,
    critic: CriticState,
    logits: Callable[[Any, jax.Array], jax.Array],
    real: jax.Array,
    fake: jax.Array,
    step: jax.Array,
    name: str,
) -> tuple[CriticState, Metrics]:
    adam = _adam(options)

    def descend(loss, params, optimizer):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, optimizer = adam.update(gradient, optimizer, params)
        return value, optax.apply_updates(params, updates), optimizer

    def penalty(params):
        return options.r1 / 2 * options.r1_every * adversarial.r1(lambda x: logits(params, x), real)

    value, params, optimizer = descend(
        lambda p: adversarial.critic_loss(logits(p, real), logits(p, fake)), critic.params, critic.optimizer
    )
    metrics = {f"{name}_loss": value}
    if options.r1:
        metrics[f"{name}_r1"], params, optimizer = jax.lax.cond(
            step % options.r1_every == 0,
            lambda args: descend(penalty, *args),
            lambda args: (jnp.zeros(()), *args),
            (params, optimizer),
        )
    return critic.replace(params=params, optimizer=optimizer), metrics


def _latent_logits(params: Any, codes: jax.Array) -> jax.Array:
    return jnp.asarray(LatentCritic().apply({"params": params}, codes))


def _adam(options: Critic) -> optax.GradientTransformation:
    return optax.adam(options.learning_rate)


def _sizes(options: Train) -> discriminators.DiscriminatorSizes:
    return discriminators.sizes_for(options.working, options.critic.channels)
