"""What a training run carries from step to step, and the optimiser that moves it."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from lsap_jax.config import Train
from lsap_jax.errors import ConfigError
from lsap_jax.networks.encoders import EncoderArch
from lsap_jax.training import critics
from lsap_jax.training.ranger import ranger


class State(flax.struct.PyTreeNode):
    """A training run between two steps; all that an exact resume needs besides the position in the data.

    Attributes:
      step: updates done.
      key: raw key (uint32) that every draw of step n comes from, folded with n.
      params: of the encoder.
      batch_stats: running statistics of its batch normalisation; {} where it has none.
      ema: running mean of `params`; {} where it is not kept.
      optimizer: state of the encoder's optimiser.
      latent_critic: see `critics`; None where the loss has no such term.
      image_critic: likewise.
    """

    step: jax.Array
    key: jax.Array
    params: Any
    batch_stats: Any
    ema: Any
    optimizer: Any
    latent_critic: critics.CriticState | None
    image_critic: critics.CriticState | None

    @property
    def variables(self) -> dict[str, Any]:
        """The encoder that evaluation and export use."""
        params = self.ema or self.params
        return {"params": params, **({"batch_stats": self.batch_stats} if self.batch_stats else {})}


def init(options: Train, arch: EncoderArch, variables: dict[str, Any]) -> State:
    """The state before the first step: the encoder's variables (see `initial`) and the rest from the seed."""
    critic_key, key = jax.random.split(jax.random.key(options.seed))
    params = variables["params"]
    return State(
        step=jnp.int32(0),
        key=jax.random.key_data(key),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        ema=jax.tree.map(jnp.copy, params) if options.ema else {},  # own buffers: a step donates the whole state
        optimizer=optimizer(options).init(params),
        latent_critic=critics.init_latent(critic_key, options.critic, arch) if options.loss.adversarial else None,
        image_critic=critics.init_image(critic_key, options) if options.loss.critic else None,
    )


def learning_rate(options: Train) -> optax.Schedule:
    """The rate by step: a linear rise over `warmup`, then constant, or a cosine down to 0 at the last step."""
    peak, rest = options.learning_rate, max(1, options.steps - options.warmup)
    if options.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif options.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest)
    else:
        raise ConfigError(f"config.train.schedule={options.schedule!r}: use 'constant' or 'cosine'")
    if not options.warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, options.warmup), after], [options.warmup])


def optimizer(options: Train) -> optax.GradientTransformation:
    """The encoder's optimiser.

    Raises:
      ConfigError: if its name, or the schedule's, is unknown.
    """
    rate, decay = learning_rate(options), options.weight_decay
    known = {
        "ranger": lambda: ranger(rate, weight_decay=decay),
        "adam": lambda: optax.adam(rate, b1=0.9, b2=0.999) if not decay else optax.adamw(rate, weight_decay=decay),
        "adamw": lambda: optax.adamw(rate, weight_decay=decay),
        "sgd": lambda: optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum=0.9)),
    }
    if options.optimizer not in known:
        raise ConfigError(f"config.train.optimizer={options.optimizer!r}: use one of {', '.join(known)}")
    clip = optax.clip_by_global_norm(options.clip) if options.clip else optax.identity()
    return optax.chain(clip, known[options.optimizer]())
