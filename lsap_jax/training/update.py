"""One update of an encoder: (state, batch) -> (state, metrics), as one pure function.

The loss of a batch is the mean over its images of the weighted terms of `lsap_jax.objectives`, the same functions that
per-image optimisation minimises, plus what only training has: the regression to a known code, and the critics.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from lsap_jax import objectives
from lsap_jax.config import Loss, Train
from lsap_jax.data import augment, resize, samples
from lsap_jax.generators.base import Generator
from lsap_jax.networks import encoders
from lsap_jax.networks.encoders import EncoderArch
from lsap_jax.training import critics, masks, progressive, state
from lsap_jax.training.state import State

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

CODE_TERMS = ("delta", "w_norm", "sncd", "sncd_calibrated", "sncd_typical")
IMAGE_TERMS = ("l2", "lpips_alex", "lpips_vgg", "id", "moco")


class Frozen(flax.struct.PyTreeNode):
    """What a step consults and never changes; an argument of the compiled step, never constants inside it.

    Attributes:
      G: the generator.
      judges: the networks and statistics of the terms.
      start: (num_ws, w_dim) what the encoder's output is added to.
      variance: mean over the components of the variance of w, the unit of the regression.
    """

    G: Generator
    judges: objectives.Judges
    start: jax.Array
    variance: jax.Array


def terms_of(loss: Loss, names: tuple[str, ...]) -> objectives.Terms:
    """Those of `names` that have a weight."""
    return tuple((name, getattr(loss, name)) for name in names if getattr(loss, name))


def image_size(options: Train) -> int:
    """Side in pixels at which training images are kept: what the encoder and the image terms both can use."""
    return max(options.encoder.resolution, options.working if uses_images(options.loss) else 0)


def uses_images(loss: Loss) -> bool:
    """Whether any term looks at renders."""
    return bool(loss.critic or terms_of(loss, IMAGE_TERMS))


def make_update(options: Train, arch: EncoderArch, rendering: bool) -> Callable[[State, Frozen, Batch], Any]:
    """The update function of a run, to be jitted.

    Args:
      options: the run.
      arch: of the encoder.
      rendering: False leaves out whatever needs renders (the first `image_start` steps).
    """
    tx = state.optimizer(options)

    def update(state: State, frozen: Frozen, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        sample_key, key = jax.random.split(key)
        batch = with_fresh_samples(options, frozen.G, sample_key, batch)
        gradients, metrics, carried = None, None, (state.batch_stats, state.latent_critic, state.image_critic)
        for part in range(options.microbatches):
            # Every so-manieth image, so that each part stays spread over all devices.
            some = jax.tree.map(lambda x, part=part: x[part :: options.microbatches], batch)
            loss = _loss(options, arch, rendering, frozen, some, jax.random.fold_in(key, part), state.step, carried)
            (_, (carried, values)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
            gradients = gradient if gradients is None else jax.tree.map(jnp.add, gradients, gradient)
            metrics = values if metrics is None else jax.tree.map(jnp.add, metrics, values)
        gradients, metrics = jax.tree.map(lambda x: x / options.microbatches, (gradients, metrics))
        updates, optimizer = tx.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = optax.incremental_update(params, state.ema, 1 - options.ema) if options.ema else state.ema
        batch_stats, latent_critic, image_critic = carried
        metrics |= {
            "gradient_norm": optax.tree.norm(gradients),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
        }
        following = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            ema=ema,
            optimizer=optimizer,
            latent_critic=latent_critic,
            image_critic=image_critic,
        )
        return following, metrics

    return update


def with_fresh_samples(options: Train, G: Generator, key: jax.Array, batch: Batch) -> Batch:
    """Fill a batch up with generator samples drawn now.

    Args:
      options: the run; `batch_size` images are wanted in all.
      G: the generator.
      key: of the draw.
      batch: what the source gave: {} or {"image": (b, R, R, 3) uint8, "ws": (b, num_ws, w_dim), "has_ws": (b,)}.

    Returns:
      the same keys with `batch_size` rows and images in [-1, 1].
    """
    given = batch["image"].shape[0] if batch else 0
    if batch:
        batch = {**batch, "image": batch["image"].astype(jnp.float32) / 127.5 - 1}
    if given == options.batch_size:
        return batch
    settings = samples.Settings(options.data.truncation, options.data.mixing)
    fresh = samples.fresh(G, key, options.batch_size - given, image_size(options), settings)
    fresh["has_ws"] = jnp.ones(fresh["image"].shape[0], bool)
    if not batch:
        return fresh
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), batch, fresh)


def _loss(options, arch, rendering, frozen, batch, key, step, carried):
    """The loss as a function of the encoder's params alone -> (scalar, (carried on, metrics))."""
    network = encoders.module(arch, jnp.dtype(options.dtype))
    augment_key, mask_key, noise_key, critic_key = jax.random.split(key, 4)
    strengths = augment.Augment(**options.data.augment)
    inputs, targets = augment.augment(augment_key, batch["image"], strengths)
    size = inputs.shape[0]
    table = progressive.steps_table(arch.num_ws, options.progressive_start, options.progressive_every)
    stage = progressive.stage_at(table, step)
    open_rows = progressive.open_rows(arch.num_ws, stage)
    code_terms = terms_of(options.loss, CODE_TERMS)
    image_terms = terms_of(options.loss, IMAGE_TERMS) if rendering else ()
    working, terms = options.working, code_terms + image_terms
    rendering = rendering and uses_images(options.loss)
    noise = noise_key if options.noise == "random" else "const"

    def render(codes):
        return frozen.G.synthesize(codes, noise, resolution=options.render or None)

    def encode(params, batch_stats, shown):
        variables = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
        offsets, changed = network.apply(variables, shown, train=True, stage=stage, mutable=["batch_stats"])
        return offsets, changed.get("batch_stats", batch_stats)

    def judge(codes, wanted):
        """Mean over the images of the weighted terms, and each term."""
        if rendering:
            images = render(codes)
            fixed = jax.vmap(lambda t: objectives.targets(terms, frozen.judges, t, working))(targets)
        else:
            images = jnp.zeros((size, 8, 8, 3))  # nobody looks at it
            fixed = {name: None for name, _ in terms}

        def one(image, ws, target):
            return objectives.loss(terms, frozen.judges, frozen.G, image, ws, (), target, working, open_rows)

        total, values = jax.vmap(one)(images, codes, fixed) if terms else (jnp.zeros(size), {})
        total, values = total.mean(), {name: value.mean() for name, value in values.items()}
        if options.loss.regression:
            error = jnp.square(codes - wanted).mean((1, 2)) / frozen.variance
            known = batch["has_ws"].astype(jnp.float32)
            values["regression"] = (error * known).sum() / jnp.maximum(known.sum(), 1)
            total += options.loss.regression * values["regression"]
        return total, values, images

    def loss(params):
        batch_stats, latent_critic, image_critic = carried
        images = None
        if arch.input == "rgb+render":
            # ReStyle: every pass sees the render of the last and moves its code; gradients stay inside a pass.
            codes = jnp.broadcast_to(frozen.start[None], (size, *frozen.start.shape))
            total, values = jnp.zeros(()), {}
            for _ in range(options.iterations):
                shown = encoders.network_input(arch, inputs, render=jax.lax.stop_gradient(render(codes)))
                offsets, batch_stats = encode(params, batch_stats, shown)
                codes = jax.lax.stop_gradient(codes) + offsets
                value, values, images = judge(codes, batch["ws"])
                total += value
        else:
            known = masks.sample(mask_key, size, inputs.shape[1]) if arch.input == "rgb+mask" else None
            shown = encoders.network_input(arch, inputs, mask=known)
            offsets, batch_stats = encode(params, batch_stats, shown)
            codes = frozen.start[None] + offsets
            total, values, images = judge(codes, batch["ws"])
        if latent_critic is not None:
            latent_critic, figures = critics.update_latent(
                options.critic, latent_critic, frozen.G, critic_key, jax.lax.stop_gradient(codes), stage, step
            )
            values |= figures
            values["adversarial"] = critics.judge_latent(options.critic, latent_critic, codes, open_rows)
            total += options.loss.adversarial * values["adversarial"]
        if image_critic is not None and images is not None and rendering:
            found, real = resize.area(images, working), resize.area(targets, working)
            image_critic, figures = critics.update_image(
                options, image_critic, real, jax.lax.stop_gradient(found), step
            )
            values |= figures
            values["critic"] = critics.judge_image(options, image_critic, found)
            total += options.loss.critic * values["critic"]
        return total, ((batch_stats, latent_critic, image_critic), {"loss": total, **values})

    return loss
