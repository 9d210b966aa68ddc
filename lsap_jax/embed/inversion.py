"""The result of embedding photos, whatever method found it."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax import pretrained
from lsap_jax.checkpoints import store
from lsap_jax.data import images as image_files
from lsap_jax.data import results
from lsap_jax.embed import optimize, presets
from lsap_jax.errors import ConfigError, ResultError
from lsap_jax.generators.base import Generator
from lsap_jax.metrics import reconstruction


@dataclasses.dataclass
class Inversion:
    """Codes of a batch of photos, and how well they render them.

    Attributes:
      ws: (B, num_ws, w_dim) the codes.
      noise: maps (B, h, w) in the order of use, or None where the generator's stored ones are used.
      images: (B, H, W, 3) the reconstructions, in about [-1, 1].
      targets: (B, H, W, 3) the photos.
      metrics: {name: (B, ...) numpy}, see `lsap_jax.metrics.reconstruction`.
      settings: what made it: generator, fingerprint, method, seed, versions.
      generator: what renders it.
      history: {term: (steps, B)} loss curves; empty after `load`.
    """

    ws: jax.Array
    noise: tuple[jax.Array, ...] | None
    images: jax.Array
    targets: jax.Array
    metrics: dict[str, np.ndarray]
    settings: dict[str, Any]
    generator: Generator
    history: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def render(self, ws: jax.Array | None = None) -> jax.Array:
        """Render these codes, or edited ones of the same shape, with this inversion's noise.

        Without an edit the result equals `images` bit for bit.
        """
        return self.generator.synthesize(self.ws if ws is None else ws, "const" if self.noise is None else self.noise)

    def take(self, indices: Sequence[int]) -> "Inversion":
        """Some images of the batch, as an inversion of their own."""
        rows = np.asarray(indices)
        noise = None if self.noise is None else tuple(n[rows] for n in self.noise)
        metrics = {name: value[rows] for name, value in self.metrics.items()}
        history = {name: value[:, rows] for name, value in self.history.items()}
        pixels = self.images[rows], self.targets[rows]
        return Inversion(self.ws[rows], noise, *pixels, metrics, self.settings, self.generator, history)

    def save(
        self, out: str | os.PathLike, ids: Sequence[str] | None = None, notes: Sequence[dict] | None = None
    ) -> None:
        """Write one folder per image under OUT/images (layout: `lsap_jax.data.results`).

        Args:
          out: results folder; made if missing.
          ids: names of the images; "0", "1", ... by default.
          notes: what to add to each image's `metrics.json`, such as the photo's path.

        Raises:
          ResultError: if OUT cannot be written or holds results of other settings.
        """
        results.open_folder(out, self.settings)
        for i, image_id in enumerate(ids or [str(i) for i in range(len(self.ws))]):
            latents: store.Tree = {"ws": np.asarray(self.ws[i])}
            if self.noise is not None:
                latents["noise"] = {str(n): np.asarray(noise[i]) for n, noise in enumerate(self.noise)}
            metrics = {name: np.asarray(value[i]).tolist() for name, value in self.metrics.items()}
            curve = {name: np.asarray(value[:, i]).tolist() for name, value in self.history.items()}
            pictures = {
                "target.png": image_files.to_png(np.asarray(self.targets[i])),
                "inversion.png": image_files.to_png(np.asarray(self.images[i])),
            }
            meta = {"kind": "inversion", **self.settings}
            extra = dict(notes[i]) if notes else {}
            results.write(out, image_id, latents, meta, {**extra, **metrics, "history": curve}, pictures)

    @classmethod
    def load(
        cls, out: str | os.PathLike, ids: Sequence[str] | None = None, generator: Generator | None = None
    ) -> "Inversion":
        """Read what `save` or the `invert` command wrote.

        Args:
          out: results folder.
          ids: which images; all, sorted, by default.
          generator: what renders them; by default the one named in the folder's settings.

        Raises:
          ResultError: if there is nothing to read, or the generator is not the one that made the codes.
        """
        settings = results.read_settings(out)
        ids = results.finished(out) if ids is None else ids
        if not ids:
            raise ResultError(f"{out} has no finished image")
        G = pretrained.load_generator(settings["generator"]) if generator is None else generator
        if G.fingerprint != settings["fingerprint"]:
            raise ResultError(
                f"{out} was made with generator {settings['generator']!r} of fingerprint {settings['fingerprint']}, "
                f"and this one has {G.fingerprint}: give the generator that made it"
            )
        read = [results.read(out, image_id) for image_id in ids]
        ws = jnp.stack([latents["ws"] for latents, _, _ in read])
        noise = None
        if "noise" in read[0][0]:
            maps = len(read[0][0]["noise"])
            noise = tuple(jnp.stack([latents["noise"][str(n)] for latents, _, _ in read]) for n in range(maps))
        metrics = {name: np.asarray([m[name] for _, _, m in read], np.float32) for name in reconstruction.METRICS}
        folder = os.path.join(out, "images")
        targets = [image_files.to_float(image_files.read(os.path.join(folder, i, "target.png"))) for i in ids]
        self = cls(ws, noise, ws, jnp.stack(targets), metrics, settings, G)
        self.images = self.render()
        return self


def invert(
    G: Generator,
    images: jax.typing.ArrayLike,
    preset: str | optimize.Method = "lsap",
    steps: int | None = None,
    seed: int = 0,
    encoder: Any = None,
    **run_options: Any,
) -> Inversion:
    """Embed aligned photos and measure the result.

    Args:
      G: the generator, from `load_generator`.
      images: (B, H, W, 3) in [-1, 1], aligned as the generator's training images, at its resolution.
      preset: a name of `embed.presets`, or a `Method`.
      steps: of the optimisation; the preset's own number by default.
      seed: of every random draw.
      encoder: (B, H, W, 3) -> (B, num_ws, w_dim), whose codes are the start; the mean of W by default.
      **run_options: of `optimize.run`: `steps_per_call`, `progress`, `judges`.

    Returns:
      An `Inversion` with the metrics of `lsap_jax.metrics.reconstruction.measure`.

    Raises:
      ConfigError: if the preset is unknown or the images do not fit the generator.
    """
    images = jnp.asarray(images, jnp.float32)
    if isinstance(preset, str):
        method = presets.preset(preset, steps)
    elif steps is None:
        method = preset
    else:
        raise ConfigError("steps goes with the name of a preset; a Method has its own steps")
    start = None if encoder is None else encoder(images)
    found = optimize.run(method, G, images, seed=seed, start=start, **run_options)
    settings = settings_of(G, method, preset if isinstance(preset, str) else "custom", seed)
    inversion = Inversion(found.ws, found.noise, images, images, {}, settings, G, found.history)
    inversion.images = inversion.render()
    inversion.metrics = reconstruction.measure(G, inversion.ws, inversion.images, images)
    return inversion


def settings_of(G: Generator, method: optimize.Method, name: str, seed: int) -> dict[str, Any]:
    """What identifies how a result was made; equal settings and photos give equal results."""
    from lsap_jax import __version__

    return {
        "generator": G.name,
        "fingerprint": G.fingerprint,
        "preset": name,
        "method": dataclasses.asdict(method),
        "seed": seed,
        "versions": {"lsap_jax": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }
