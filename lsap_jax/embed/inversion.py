"""The result of embedding photos, whatever method found it."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax import objectives, pretrained
from lsap_jax.checkpoints import store
from lsap_jax.data import images as image_files
from lsap_jax.data import results, shards
from lsap_jax.embed import encode, optimize, presets
from lsap_jax.errors import ConfigError, ResultError
from lsap_jax.generators.base import Generator
from lsap_jax.metrics import reconstruction
from lsap_jax.networks.encoders import Encoder


@dataclasses.dataclass
class Inversion:
    """Codes of a batch of photos, and how well they render them.

    Attributes:
      ws: (B, num_ws, w_dim) the codes.
      noise: maps (B, h, w) in the order of use, or None where the generator's stored ones are used.
      images: (B, H, W, 3) the reconstructions, in about [-1, 1].
      targets: (B, H, W, 3) the photos; None when loaded from shards, which do not keep them.
      metrics: {name: (B, ...) numpy}, see `lsap_jax.metrics.reconstruction`.
      settings: what made it: generator, fingerprint, method, seed, versions.
      generator: what renders it.
      history: {term: (steps, B)} loss curves; empty after `load`.
    """

    ws: jax.Array
    noise: tuple[jax.Array, ...] | None
    images: jax.Array
    targets: jax.Array | None
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
        targets = None if self.targets is None else self.targets[rows]
        return Inversion(
            self.ws[rows], noise, self.images[rows], targets, metrics, self.settings, self.generator, history
        )

    def save(
        self, out: str | os.PathLike, ids: Sequence[str] | None = None, notes: Sequence[dict] | None = None
    ) -> None:
        """Write one folder per image under OUT/images (layout: `lsap_jax.data.results`).

        Args:
          out: results folder; made if missing.
          ids: names of the images; "0", "1", ... by default.
          notes: what to add to each image's `metrics.json`, such as the photo's path.

        Raises:
          ResultError: if OUT cannot be written or holds results of other settings, or the photos are not known.
        """
        if self.targets is None:
            raise ResultError(f"{out}: these inversions came from shards, which do not keep the photos: set `targets`")
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
        sharded = shards.is_sharded(out)
        names = list(ids or []) if ids is not None or sharded else results.finished(out)
        if not names and not sharded:
            raise ResultError(f"{out} has no finished image")
        G = pretrained.load_generator(settings["generator"]) if generator is None else generator
        if G.fingerprint != settings["fingerprint"]:
            raise ResultError(
                f"{out} was made with generator {settings['generator']!r} of fingerprint {settings['fingerprint']}, "
                f"and this one has {G.fingerprint}: give the generator that made it"
            )
        if sharded:
            return cls._of_shards(out, ids, settings, G)
        read = [results.read(out, image_id) for image_id in names]
        ws = jnp.stack([latents["ws"] for latents, _, _ in read])
        noise = None
        if "noise" in read[0][0]:
            maps = len(read[0][0]["noise"])
            noise = tuple(jnp.stack([latents["noise"][str(n)] for latents, _, _ in read]) for n in range(maps))
        measured = [name for name in reconstruction.METRICS if name in read[0][2]]
        metrics = {name: np.asarray([m[name] for _, _, m in read], np.float32) for name in measured}
        folder = os.path.join(out, "images")
        targets = [image_files.to_float(image_files.read(os.path.join(folder, i, "target.png"))) for i in names]
        self = cls(ws, noise, ws, jnp.stack(targets), metrics, settings, G)
        self.images = self.render()
        return self

    @classmethod
    def _of_shards(
        cls, out: str | os.PathLike, ids: Sequence[str] | None, settings: dict[str, Any], G: Generator
    ) -> "Inversion":
        found: dict[str, results.Record] = {}
        wanted = None if ids is None else set(ids)
        for record in results.read_store(out):
            if wanted is None or record.id in wanted:
                found[record.id] = record
                if wanted is not None and len(found) == len(wanted):
                    break
        if absent := [i for i in ids or () if i not in found]:
            raise ResultError(f"{out} has no image {absent[0]!r}")
        if not found:
            raise ResultError(f"{out} has no finished image")
        records = [found[i] for i in ids] if ids is not None else list(found.values())
        ws = jnp.stack([record.ws for record in records])
        metrics = {n: np.asarray([r.metrics[n] for r in records], np.float32) for n in records[0].metrics}
        self = cls(ws, None, ws, None, metrics, settings, G)
        self.images = self.render()
        return self


def invert(
    G: Generator,
    images: jax.typing.ArrayLike,
    preset: str | optimize.Method = "lsap",
    steps: int | None = None,
    seed: int = 0,
    encoder: Any = None,
    iterations: int = 5,
    metrics: str = "full",
    **run_options: Any,
) -> Inversion:
    """Embed aligned photos and measure the result.

    Args:
      G: the generator, from `load_generator`.
      images: (B, H, W, 3) in [-1, 1], aligned as the generator's training images, at its resolution.
      preset: a name of `embed.presets`, or a `Method`.
      steps: of the optimisation; the preset's own number by default.
      seed: of every random draw.
      encoder: gives the codes to start from: an `Encoder`, or any function (B, H, W, 3) -> (B, num_ws, w_dim). The
        mean of W by default; the presets "encoder", "restyle" and "idinvert" need one.
      iterations: passes of a ReStyle encoder; others make one.
      metrics: kind of `lsap_jax.metrics.reconstruction.measure`.
      **run_options: of `optimize.run`: `steps_per_call`, `progress`, `judges`, `mesh`, `P`.

    Returns:
      An `Inversion` with its metrics.

    Raises:
      ConfigError: if the preset is unknown, it needs an encoder and none is given, the encoder was made for another
        generator, or the images do not fit.
    """
    images = jnp.asarray(images, jnp.float32)
    if isinstance(preset, str):
        method = presets.preset(preset, steps)
    elif steps is None:
        method = preset
    else:
        raise ConfigError("steps goes with the name of a preset; a Method has its own steps")
    name = preset if isinstance(preset, str) else "custom"
    check_encoder(name, encoder, G)
    start = None if encoder is None else encode_start(encoder, G, images, iterations)
    if run_options.get("judges") is None:
        run_options["judges"] = objectives.judges_for(G, method.terms, encoder=encoder)
    found = optimize.run(method, G, images, seed=seed, start=start, **run_options)
    settings = settings_of(G, method, name, seed, encoder, iterations)
    inversion = Inversion(found.ws, found.noise, images, images, {}, settings, G, found.history)
    inversion.images = inversion.render()
    inversion.metrics = reconstruction.measure(G, inversion.ws, inversion.images, images, metrics)
    return inversion


def check_encoder(preset: str, encoder: Any, G: Generator) -> None:
    """Make sure that a preset has the encoder it needs, and that it makes codes of this generator.

    Raises:
      ConfigError: if not.
    """
    if encoder is None:
        if preset in presets.ENCODER_NEEDED:
            raise ConfigError(
                f"preset {preset!r} needs an encoder: config.invert.encoder, a name or the path of a file"
            )
        return
    if isinstance(encoder, Encoder):
        encode.check_fits(encoder, G)
        if preset == "restyle" and not _iterates(encoder):
            raise ConfigError(f"preset 'restyle' needs a ReStyle encoder, and {encoder.name} is none: use 'encoder'")


def encode_start(encoder: Any, G: Generator, images: jax.Array, iterations: int) -> jax.Array:
    """Codes of (B, H, W, 3) images by an `Encoder`, or any function of images; may be traced."""
    if isinstance(encoder, Encoder):
        return encode.encode(encoder, G, images, iterations if _iterates(encoder) else 1)
    return encoder(images)


def _iterates(encoder: Any) -> bool:
    return isinstance(encoder, Encoder) and encoder.arch.input == "rgb+render"


def settings_of(
    G: Generator, method: optimize.Method, name: str, seed: int, encoder: Any = None, iterations: int = 5
) -> dict[str, Any]:
    """What identifies how a result was made; equal settings and photos give equal results."""
    from lsap_jax import __version__

    given = {}
    if encoder is not None:
        given["encoder"] = getattr(encoder, "name", "") or getattr(encoder, "__name__", type(encoder).__name__)
        if isinstance(encoder, Encoder):
            given["encoder_fingerprint"] = store.fingerprint(encoder.variables, encoder.start)
        if _iterates(encoder):
            given["iterations"] = iterations
    return {
        "generator": G.name,
        "fingerprint": G.fingerprint,
        "preset": name,
        "method": dataclasses.asdict(method),
        "seed": seed,
        **given,
        "versions": {"lsap_jax": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }
