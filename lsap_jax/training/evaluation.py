"""Evaluation of an encoder: means over a fixed set of images, whatever the batch size and the number of devices.

A short last batch is filled up and its filling weighs nothing; sums over the images are divided once, at the end.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax import objectives
from lsap_jax.config import Train
from lsap_jax.networks import encoders
from lsap_jax.networks.encoders import EncoderArch
from lsap_jax.training import progressive, update
from lsap_jax.training.update import Frozen

TERMS = (*update.CODE_TERMS, *update.IMAGE_TERMS, "regression")  # those of a loss that are evaluated; critics are not


def make_evaluate(options: Train, arch: EncoderArch) -> Callable[..., tuple[dict[str, jax.Array], jax.Array]]:
    """The function of one batch, to be jitted.

    Returns:
      (variables, frozen, batch, step) -> (sums over the batch's images of each term, of "loss" and of "images", and
      the renders (B, r, r, 3)); batch as `update.Batch` with "mask" (B,), False for filling.
    """
    network = encoders.module(arch, jnp.float32)
    terms = update.terms_of(options.loss, update.CODE_TERMS + update.IMAGE_TERMS)
    table = progressive.steps_table(arch.num_ws, options.progressive_start, options.progressive_every)

    def evaluate(variables, frozen: Frozen, batch, step):
        images = batch["image"].astype(jnp.float32) / 127.5 - 1
        size = images.shape[0]
        stage = progressive.stage_at(table, step)
        open_rows = progressive.open_rows(arch.num_ws, stage)

        def render(codes):
            return frozen.G.synthesize(codes, "const", resolution=options.render or None)

        codes = jnp.broadcast_to(frozen.start[None], (size, *frozen.start.shape))
        for _ in range(options.iterations if arch.input == "rgb+render" else 1):
            seen = render(codes) if arch.input == "rgb+render" else None
            shown = encoders.network_input(arch, images, render=seen)
            codes = codes + jnp.asarray(network.apply(variables, shown, stage=stage))
        renders = render(codes)

        def one(image, render, ws):
            fixed = objectives.targets(terms, frozen.judges, image, options.working)
            return objectives.loss(terms, frozen.judges, frozen.G, render, ws, (), fixed, options.working, open_rows)

        loss, values = jax.vmap(one)(images, renders, codes) if terms else (jnp.zeros(size), {})
        weight = batch["mask"].astype(jnp.float32)
        sums = {"images": weight.sum()}
        if options.loss.regression:
            known = weight * batch["has_ws"]
            error = known * jnp.square(codes - batch["ws"]).mean((1, 2)) / frozen.variance
            loss = loss + options.loss.regression * error
            sums |= {"regression": error.sum(), "known": known.sum()}
        sums |= {name: (value * weight).sum() for name, value in {"loss": loss, **values}.items()}
        return sums, renders

    return evaluate


def means(sums: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Add the sums of all batches, in float64, and divide once."""
    total: dict[str, float] = {}
    for part in sums:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + float(np.asarray(value, np.float64))
    images, known = total.pop("images"), total.pop("known", 0.0)
    counts = {"regression": known}
    return {name: value / max(1.0, counts.get(name, images)) for name, value in total.items()}
