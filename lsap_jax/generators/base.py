"""The generator as everybody else sees it: style codes in, images out.

`Generator` is a pytree of weights plus a static, hashable architecture record. It has no
hidden state, so a fine-tuned generator is `G.replace(params=...)`, and passing `G` to a jitted
function passes its weights as arguments (never as constants of the compiled program).

Synthesis is a sequence of blocks. `Features` is what travels between them, and `run_blocks` runs
any stretch of the sequence: stopping after a block, changing the features, and going on is
ordinary function composition.

    features = G.run_blocks(G.initial_features(batch), ws, stop=5)
    features = features.replace(x=features.x + delta)
    image = G.to_image(G.run_blocks(features, ws, start=5))
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.errors import ConfigError

Noise = str | Sequence[jax.Array] | jax.Array


class Features(flax.struct.PyTreeNode):
    """What one synthesis block hands to the next.

    Attributes:
      x: (B, h, w, C) activations.
      image: (B, h, w, 3) the image so far (skip architectures), or None where there is none.
    """

    x: jax.Array
    image: jax.Array | None = None


class Architecture(Protocol):
    """A family of generators: a frozen dataclass of sizes with pure functions over its params.

    `styles` are computed once per image and routed to blocks by the architecture itself, so a
    block never sees `ws`; every function takes the whole `params` tree of the generator.
    """

    kind: ClassVar[str]  # name of the family, as files record it

    @property
    def resolution(self) -> int:
        """Side of the image in pixels."""
        ...

    @property
    def z_dim(self) -> int:
        """Length of z."""
        ...

    @property
    def w_dim(self) -> int:
        """Length of w."""
        ...

    @property
    def label_dim(self) -> int:
        """Classes of a conditional generator, else 0."""
        ...

    @property
    def num_ws(self) -> int:
        """Rows of a W+ code."""
        ...

    @property
    def num_blocks(self) -> int:
        """Length of the sequence of blocks."""
        ...

    @property
    def noise_shapes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of every noise map, in the order of use."""
        ...

    @property
    def noise_of_block(self) -> tuple[tuple[int, ...], ...]:
        """Which maps each block takes."""
        ...

    def map(self, params: Any, z: jax.Array, labels: jax.Array | None) -> jax.Array:
        """(B, z_dim) and optional (B, label_dim) -> (B, w_dim), without truncation."""
        ...

    def styles(self, params: Any, ws: jax.Array) -> tuple[jax.Array, ...]:
        """(B, num_ws, w_dim) -> every style vector that synthesis uses, in the order of use."""
        ...

    def alignment_styles(self, styles: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """The subset of `styles` that S^N is made of, and its order."""
        ...

    @property
    def alignment_rows(self) -> tuple[int, ...]:
        """The row of W+ that each of `alignment_styles` reads."""
        ...

    def initial_features(self, params: Any, batch: int) -> Features:
        """What stands before block 0."""
        ...

    def run_block(
        self,
        params: Any,
        index: int,
        features: Features,
        styles: tuple[jax.Array, ...],
        noise: tuple[jax.Array | None, ...],
    ) -> Features:
        """Block `index`; `styles` are all styles, `noise` this block's maps, (1 or B, h, w, 1) or None."""
        ...

    def to_image(self, params: Any, features: Features) -> jax.Array:
        """Features after the last block -> (B, resolution, resolution, 3)."""
        ...

    def preview_blocks(self, previews: dict[str, Any]) -> dict[int, int]:
        """Sides below `resolution` at which images can be had early -> how many blocks that takes."""
        ...

    def preview(self, previews: dict[str, Any], side: int, features: Features, ws: jax.Array) -> jax.Array:
        """Features after `preview_blocks(previews)[side]` blocks -> (B, side, side, 3)."""
        ...


class Generator(flax.struct.PyTreeNode):
    """A pretrained generator.

    Attributes:
      params: nested dict, {"mapping": ..., "synthesis": ...}: the trained weights.
      w_avg: (w_dim,) mean of w over the prior; the centre of truncation.
      noise: the stored constant noise maps, each (h, w), in the order of use.
      arch: the static record of sizes.
      name: where it came from, for messages and records.
      previews: {"128": ..., "256": ...}: heads for rendering small (lsap_jax/generators/previews.py), fitted to these
        very weights, so `replace(params=...)` and `replace(noise=...)` drop them; no part of the fingerprint.
    """

    params: Any
    w_avg: jax.Array
    noise: tuple[jax.Array, ...]
    arch: Architecture = flax.struct.field(pytree_node=False)
    name: str = flax.struct.field(pytree_node=False, default="")
    previews: dict[str, Any] = flax.struct.field(default_factory=dict)

    @property
    def resolution(self) -> int:
        """Side of the rendered image in pixels."""
        return self.arch.resolution

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Every side that `synthesize` can render, ascending; the last is `resolution`."""
        return (*sorted(self.arch.preview_blocks(self.previews)), self.resolution)

    @property
    def num_ws(self) -> int:
        """Rows of a W+ code."""
        return self.arch.num_ws

    @property
    def z_dim(self) -> int:
        """Length of a latent z."""
        return self.arch.z_dim

    @property
    def w_dim(self) -> int:
        """Length of one row of a code."""
        return self.arch.w_dim

    @property
    def num_blocks(self) -> int:
        """Number of synthesis blocks."""
        return self.arch.num_blocks

    @property
    def fingerprint(self) -> str:
        """16 hex digits that identify architecture, weights and stored noise (not `w_avg`, a statistic).

        Codes, directions and statistics carry it, so that they are not used with another generator.
        """
        digest = hashlib.blake2b(digest_size=8)
        digest.update(json.dumps(architecture_record(self.arch), sort_keys=True).encode())
        flat = store.flatten(jax.device_get(self.params))
        for key in sorted(flat):
            digest.update(f"{key}{flat[key].shape}{flat[key].dtype}".encode())
            digest.update(np.ascontiguousarray(flat[key]).data)
        for noise in jax.device_get(self.noise):
            digest.update(np.ascontiguousarray(noise).data)
        return digest.hexdigest()

    def map(self, z: jax.Array, truncation: float = 1.0, labels: jax.Array | None = None) -> jax.Array:
        """Map z to w, pulled towards the mean: w' = w_avg + truncation (w - w_avg).

        Args:
          z: (B, z_dim) standard normal.
          truncation: psi; 1 leaves w as it is, 0 gives w_avg.
          labels: (B, label_dim) one-hot, for conditional generators only.

        Returns:
          (B, w_dim) float32.

        Raises:
          ConfigError: if shapes do not fit, or labels are missing or not wanted.
        """
        z = jnp.asarray(z, jnp.float32)
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ConfigError(f"z has shape {z.shape}; this generator maps (B, {self.z_dim})")
        wanted = self.arch.label_dim
        if wanted and (labels is None or jnp.shape(labels) != (z.shape[0], wanted)):
            given = None if labels is None else jnp.shape(labels)
            raise ConfigError(f"labels have shape {given}; this conditional generator needs {(z.shape[0], wanted)}")
        if not wanted and labels is not None:
            raise ConfigError("labels were given, but this generator is not conditional: leave them out")
        return _map(self, z, jnp.float32(truncation), labels)

    def broadcast(self, w: jax.Array) -> jax.Array:
        """The same w in every row: (B, w_dim) -> (B, num_ws, w_dim)."""
        w = jnp.asarray(w)
        return jnp.broadcast_to(w[:, None, :], (w.shape[0], self.num_ws, w.shape[-1]))

    def styles(self, ws: jax.Array) -> tuple[jax.Array, ...]:
        """S space: the style vectors of a code, one (B, C_l) per layer of the alignment set.

        For StyleGAN2 every convolution's style, then the last toRGB's (the set of LSAP's reference
        implementation); for MobileStyleGAN all 23 vectors in the order of use.
        """
        return _styles(self, self._checked(ws))

    def synthesize(self, ws: jax.Array, noise: Noise = "const", resolution: int | None = None) -> jax.Array:
        """Render codes.

        A smaller resolution runs only the blocks up to it. A StyleGAN2 gives the sum of its pictures so far, without
        what later blocks add; a generator with preview heads an estimate of its full render, area-downsampled.

        Args:
          ws: (B, num_ws, w_dim).
          noise: "const" for the stored maps, "none", a sequence of maps (h, w) or (B, h, w) in the order
            of use, or a PRNG key for fresh noise.
          resolution: one of `resolutions`; None for the full one.

        Returns:
          (B, resolution, resolution, 3) float32, about [-1, 1], not clipped.

        Raises:
          ConfigError: if `ws` or the noise maps have another shape, or this resolution cannot be rendered.
        """
        ws = self._checked(ws)
        if resolution is None or resolution == self.resolution:
            return _synthesize(self, ws, self.noise_maps(noise, ws.shape[0]))
        if resolution not in self.resolutions:
            raise ConfigError(
                f"resolution={resolution}: {self.name or 'this generator'} renders at {self.resolutions}. Smaller "
                "images come from the skip sum of a StyleGAN2 (a 'resnet' or 'orig' one has none), or from preview "
                "heads fitted to the very weights of a generator (a tuned one has none; ffhq-mobile has approximate "
                "ones, which lsap_jax.generators.previews.attach(G) adds). For any other size shrink "
                f"the full render: lsap_jax.data.resize.area(G.synthesize(ws), {resolution})"
            )
        return _preview(self, ws, self.noise_maps(noise, ws.shape[0]), resolution)

    def initial_features(self, batch: int) -> Features:
        """What stands before block 0, for `run_blocks`."""
        return self.arch.initial_features(self.params, batch)

    def run_blocks(
        self, features: Features, ws: jax.Array, noise: Noise = "const", start: int = 0, stop: int | None = None
    ) -> Features:
        """Run blocks start, ..., stop - 1 (all that are left by default) on `features`."""
        ws = self._checked(ws)
        stop = self.num_blocks if stop is None else stop
        if not 0 <= start <= stop <= self.num_blocks:
            raise ConfigError(f"blocks {start}..{stop} of a generator with {self.num_blocks} blocks")
        return _run_blocks(self, features, ws, self.noise_maps(noise, ws.shape[0]), start, stop)

    def to_image(self, features: Features) -> jax.Array:
        """Features after the last block -> (B, resolution, resolution, 3)."""
        return _to_image(self, features)

    def noise_maps(self, noise: Noise, batch: int) -> tuple[jax.Array | None, ...]:
        """Resolve the `noise` argument of `synthesize` to one (1 or B, h, w, 1) map, or None, per use."""
        shapes = self.arch.noise_shapes
        if isinstance(noise, str):
            if noise == "none":
                return (None,) * len(shapes)
            if noise != "const":
                raise ConfigError(f"noise={noise!r}: use 'const', 'none', a sequence of maps, or a PRNG key")
            noise = self.noise
        elif isinstance(noise, jax.Array) and (
            jnp.issubdtype(noise.dtype, jax.dtypes.prng_key) or noise.dtype == jnp.uint32
        ):
            keys = jax.random.split(noise, len(shapes))
            noise = tuple(jax.random.normal(k, (batch, *s)) for k, s in zip(keys, shapes, strict=True))
        if len(noise) != len(shapes):
            raise ConfigError(f"{len(noise)} noise maps were given; this generator takes {len(shapes)}")
        maps = []
        for index, (given, shape) in enumerate(zip(noise, shapes, strict=True)):
            given = jnp.asarray(given)
            if given.shape not in (shape, (batch, *shape)):
                raise ConfigError(f"noise map {index} has shape {given.shape}; it must be {shape} or {(batch, *shape)}")
            maps.append(given.reshape(-1, *shape, 1))
        return tuple(maps)

    def _checked(self, ws: jax.Array) -> jax.Array:
        ws = jnp.asarray(ws)
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ConfigError(
                f"ws has shape {ws.shape}; this generator takes (B, {self.num_ws}, {self.w_dim}). "
                "A code of W (B, w_dim) becomes W+ by G.broadcast(w)"
            )
        return ws


def _replace(self: Generator, **changes: Any) -> Generator:
    """A copy with other fields; other weights or noise leave the previews behind, unless new ones are given."""
    if changes.keys() & {"params", "noise"}:
        changes.setdefault("previews", {})
    return dataclasses.replace(self, **changes)


# After the class, as PyTreeNode puts its own `replace` over one in the body.
Generator.replace = _replace  # type: ignore[bad-assignment]


def architecture_record(arch: Architecture) -> dict[str, Any]:
    """The JSON form of an architecture, as stored in weight files.

    How activations are computed (`activation_dtype`) is a choice of the run and is left out.
    """
    fields = dataclasses.asdict(arch)  # type: ignore[call-overload]
    fields.pop("activation_dtype", None)
    return json.loads(json.dumps({"kind": arch.kind, **fields}))


@jax.jit
def _map(G: Generator, z: jax.Array, truncation: jax.Array, labels: jax.Array | None) -> jax.Array:
    w = G.arch.map(G.params, z, labels)
    return G.w_avg[None] + truncation * (w - G.w_avg[None])


@jax.jit
def _styles(G: Generator, ws: jax.Array) -> tuple[jax.Array, ...]:
    return G.arch.alignment_styles(G.arch.styles(G.params, ws))


def _blocks(G: Generator, features: Features, ws: jax.Array, noise: tuple, start: int, stop: int) -> Features:
    styles = G.arch.styles(G.params, ws)
    for index in range(start, stop):
        maps = tuple(noise[n] for n in G.arch.noise_of_block[index])
        features = G.arch.run_block(G.params, index, features, styles, maps)
    return features


@jax.jit
def _synthesize(G: Generator, ws: jax.Array, noise: tuple) -> jax.Array:
    features = _blocks(G, G.arch.initial_features(G.params, ws.shape[0]), ws, noise, 0, G.num_blocks)
    return G.arch.to_image(G.params, features)


@jax.jit(static_argnames="side")
def _preview(G: Generator, ws: jax.Array, noise: tuple, side: int) -> jax.Array:
    stop = G.arch.preview_blocks(G.previews)[side]
    features = _blocks(G, G.arch.initial_features(G.params, ws.shape[0]), ws, noise, 0, stop)
    return G.arch.preview(G.previews, side, features, ws)


@jax.jit(static_argnames=("start", "stop"))
def _run_blocks(G: Generator, features: Features, ws: jax.Array, noise: tuple, start: int, stop: int) -> Features:
    return _blocks(G, features, ws, noise, start, stop)


@jax.jit
def _to_image(G: Generator, features: Features) -> jax.Array:
    return G.arch.to_image(G.params, features)
