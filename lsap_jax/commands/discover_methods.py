"""The methods of the `discover` command: its flags in, directions out."""

import pathlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from lsap_jax import pretrained
from lsap_jax.data.images import to_uint8
from lsap_jax.edit import (
    boundaries,
    contrast,
    contrast_training,
    direction_files,
    filters,
    ganspace,
    jacobian,
    low_rank,
    regions,
    scored_samples,
    sefa,
)
from lsap_jax.edit.directions import Direction
from lsap_jax.embed import inversion
from lsap_jax.errors import ConfigError
from lsap_jax.generators import previews
from lsap_jax.generators.base import Generator
from lsap_jax.metrics import attributes


class Found(NamedTuple):
    """What a method returns.

    Attributes:
      directions: for the bank.
      region: (256, 256) where they are meant to act, or None.
      notes: sentences for the page.
      prototypes: {name: (H, W, 3) in [-1, 1]} of the directions that have one.
    """

    directions: list[Direction]
    region: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    prototypes: dict[str, np.ndarray] | None = None


Method = Callable[[flags.FlagValues, Generator, pathlib.Path], Found]


def samples(G: Generator, seed: int, count: int, truncation: float = 0.7) -> jax.Array:
    """Codes of the generator's own: (count, num_ws, w_dim)."""
    z = jax.random.normal(jax.random.key(seed), (count, G.z_dim))
    return G.broadcast(G.map(z, truncation))


def region(values: flags.FlagValues, G: Generator, out: pathlib.Path) -> Found:
    """LowRankGAN and ReSeFa: from the Jacobian of one code, to be applied to any."""
    if not values.region:
        raise ConfigError(
            f"--method {values.method} needs --region, such as eyes, mouth@4, box:120,128,20,115, mask.png"
        )
    if values.image:
        ws = inversion.Inversion.load(values.inversions, [values.image], G).ws
    else:
        ws = samples(G, values.seed, 1, 1.0)  # without truncation, as the reference
    points = _landmarks(G, ws, values.grid)
    inside = regions.parse(values.region, values.grid, points)
    outside = regions.parse(values.outside, values.grid, points) if values.outside else None
    rows = direction_files.parse_layers(values.layers)
    J = jacobian.jacobian(
        G,
        ws[0],
        rows,
        tied=not values.untied,
        grid=values.grid,
        colour=values.colour,
        progress=progress("columns of the Jacobian"),
    )
    name = values.name or "".join(c for c in values.region if c.isalnum() or c in "-_")
    solver = values.solver or {"lowrank": "rpca", "resefa": "rayleigh"}[values.method]
    found = low_rank.region_directions(
        G,
        J,
        inside,
        solver,
        values.count,
        outside=outside,
        name=name,
        outside_rank=values.outside_rank,
        outside_energy=values.outside_energy,
        c=values.c,
    )
    return Found(found, regions.resize(inside, 256) if values.grid != 256 else inside)


def of_w(values: flags.FlagValues, G: Generator, out: pathlib.Path) -> Found:
    """GANSpace: principal axes of W, or what goes with those of a block's activations."""
    if values.block < 0:
        return Found(ganspace.from_w(G, values.count, values.layers))
    found = ganspace.from_activations(
        G,
        values.block,
        values.count,
        values.layers,
        num_samples=values.samples,
        seed=values.seed,
        progress=progress("activations"),
    )
    return Found(found)


def of_weights(values: flags.FlagValues, G: Generator, out: pathlib.Path) -> Found:
    """SeFa."""
    return Found(sefa.sefa(G, values.count, values.layers))


def boundary(values: flags.FlagValues, G: Generator, out: pathlib.Path) -> Found:
    """InterFaceGAN: between samples of high and of low score, given or measured."""
    if bool(values.codes) != bool(values.scores):
        raise ConfigError("--codes and --scores belong together: the codes, and a score for each")
    if values.codes:
        try:
            codes = np.load(values.codes, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{values.codes}: no array of codes ({error}); save it by numpy.save") from error
        names, scores = [values.name or pathlib.Path(values.scores).stem], scored_samples.read_scores(values.scores)
    else:
        measured = attributes.load(values.landmarks68)
        codes, scores = scored_samples.measure(
            G, measured, values.samples, values.seed, folder=out / "samples", progress=progress("samples measured")
        )
        names = values.attributes or list(measured.names)
        for name in names:
            if name not in measured.names:
                raise ConfigError(f"no attribute {name!r}; measured are {', '.join(measured.names)}")
        scores = scores[:, [measured.names.index(name) for name in names]]
    found = boundaries.from_measures(
        G, codes, scores, names, share=values.share, seed=values.seed, layers=values.layers
    )
    if values.conditional and len(found) > 1:
        found = [filters.conditional(d, [o for o in found if o is not d], G) for d in found]
    return Found(found)


def contrafeat(values: flags.FlagValues, G: Generator, out: pathlib.Path) -> Found:
    """ContraFeat: a navigator trained by contrast of feature changes."""
    rendered = previews.attach(G) if values.previews else G
    vectors = None
    if values.on == "sefa":
        vectors = jnp.stack([d.vector for d in sefa.sefa(G, values.count)])
    config = contrast.Config(
        variant=values.variant,
        count=values.count,
        direction=values.on,
        resolution=values.resolution,
        batch=values.batch,
        steps=values.steps,
        seed=values.seed,
    )

    def report(step: int, losses: dict[str, float], seconds: float) -> None:
        told = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        left = seconds * (values.steps - step) / 60
        print(f"step {step}/{values.steps}  {seconds:.2f} s a step  {left:.0f} min left  {told}", file=sys.stderr)

    trained = contrast_training.train(rendered, config, out, vectors=vectors, progress=report)
    found = trained.directions(G, values.name or "contrafeat")
    prototypes = None
    if values.variant == "pt":
        shown = np.asarray(contrast.pictures(trained.state.params))
        prototypes = {d.name: picture for d, picture in zip(found, shown, strict=True)}
    return Found(found, prototypes=prototypes)


METHODS: dict[str, Method] = {
    "lowrank": region,
    "resefa": region,
    "ganspace": of_w,
    "sefa": of_weights,
    "interfacegan": boundary,
    "contrafeat": contrafeat,
}


def progress(what: str) -> Callable[[int, int], None]:
    """A callback (done, total) that prints rate and time left, twice a minute at most."""
    began = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < 30 and done < total:
            return
        last, rate = now, done / max(now - began, 1e-9)
        print(f"{done} of {total} {what}, {(total - done) / max(rate, 1e-9):.0f} s left", file=sys.stderr, flush=True)

    return report


def _landmarks(G: Generator, ws: jax.Array, grid: int) -> np.ndarray | None:
    """(5, 2) x, y of the face in pixels of the grid, or None where there is none."""
    image = to_uint8(np.asarray(G.synthesize(ws)[0]))
    points = attributes.face_points(pretrained.load("mtcnn")[0], image)
    return None if points is None else (points + 0.5) * grid / len(image) - 0.5
