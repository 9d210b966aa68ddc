"""Inverting sets of any size into shards: read ahead, embed in batches, write behind.

    embed = Embedder(G, method, encoder=E, batch_size=8)
    total = invert_part(source, preparation, embed, part, settings)

A shard is worked off in pieces of one batch of entries each, and the batches of a shard are the same however often a
run was stopped: what was finished is found on disk, the rest is done as if nothing had happened.
"""

import concurrent.futures
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax import distributed, objectives
from lsap_jax.data import images as image_files
from lsap_jax.data import photos, shards
from lsap_jax.data.photos import Failure, Photo
from lsap_jax.data.shards import Part, Shard
from lsap_jax.data.sources import Entry, Source
from lsap_jax.embed import inversion, optimize, preconditioner
from lsap_jax.embed.preconditioner import Preconditioner
from lsap_jax.errors import CheckpointError, ConfigError
from lsap_jax.generators.base import Generator
from lsap_jax.metrics import reconstruction

RENDERS = "renders"  # folder of OUT


class Embedded(NamedTuple):
    """What `Embedder` found; arrays may still be on their way.

    Attributes:
      ws: (B, num_ws, w_dim).
      metrics: {name: (B, ...)}.
      renders: (B, H, W, 3) uint8, or None where nobody wants them.
    """

    ws: jax.Array
    metrics: dict[str, Any]
    renders: jax.Array | None


class Embedder:
    """Embeds batches of photos, always in the shape of a full batch, over the devices of this process.

    Attributes:
      batch_size: photos of a batch: the number asked for, rounded up to a multiple of the devices.
      code_shape: (num_ws, w_dim).
    """

    def __init__(
        self,
        G: Generator,
        method: optimize.Method,
        *,
        encoder: Any = None,
        iterations: int = 5,
        batch_size: int = 1,
        metrics: str = "none",
        renders: bool = False,
        seed: int = 0,
        steps_per_call: int | None = None,
        P: Preconditioner | None = None,
    ):
        """See `inversion.invert`; raises ConfigError if the method also finds noise maps, which shards do not keep."""
        if method.noise != "const":
            raise ConfigError(
                "shards keep codes, and this preset also optimises noise maps: use --config.invert.noise=const, or "
                "--config.invert.store=folders"
            )
        self._mesh = distributed.mesh(local=True)
        self.batch_size = -(-batch_size // self._mesh.size) * self._mesh.size
        self.code_shape = G.num_ws, G.w_dim
        self._judges = objectives.judges_for(G, method.terms, encoder=encoder)
        everywhere = jax.NamedSharding(self._mesh, jax.P())
        if P is None and method.preconditioned:
            P = preconditioner.fit(G)
        self._G, self._encoder, self._P = jax.device_put((G, encoder, P), everywhere)
        self._method, self._iterations = method, iterations
        self._metrics, self._renders = metrics, renders
        self._seed, self._steps_per_call = seed, steps_per_call

    def __call__(self, images: np.ndarray) -> Embedded:
        """Embed (b, R, R, 3) uint8 photos, b at most `batch_size`; rows of the result beyond b mean nothing."""
        fill = np.repeat(images[-1:], self.batch_size - len(images), axis=0)
        rows = jax.device_put(np.concatenate([images, fill]), distributed.batch_sharding(self._mesh))
        pixels, keep = self._metrics == "pixels", self._metrics == "full" or self._renders
        if not self._method.stages:
            # One program from bytes to codes and pictures: nothing is waited for.
            ws, image, metrics = _encoded(self._encoder, self._G, rows, self._iterations, pixels, keep)
        else:
            target = _to_float(rows)
            start = None
            if self._encoder is not None:
                start = inversion.encode_start(self._encoder, self._G, target, self._iterations)
            ws = optimize.run(
                self._method,
                self._G,
                target,
                seed=self._seed,
                start=start,
                judges=self._judges,
                steps_per_call=self._steps_per_call,
                mesh=self._mesh,
                P=self._P,
            ).ws
            image = self._G.synthesize(ws) if pixels or keep else None
            metrics = reconstruction.pixels(image, target) if pixels else {}
        if self._metrics == "full" and image is not None:
            metrics = reconstruction.measure(self._G, ws, image, _to_float(rows))
        return Embedded(ws, metrics, _to_bytes(image) if self._renders else None)


def invert_part(
    source: Source,
    prepare: photos.Preparation,
    embed: Embedder,
    part: Part,
    settings: Mapping[str, Any],
    progress: Callable[[int, int, int, float], None] | None = None,
) -> dict[str, int]:
    """Invert one part of a set, or what is missing of it.

    Args:
      source: the whole set.
      prepare: how its entries become photos.
      embed: how photos become codes.
      part: which part, and where its results lie.
      settings: what makes the results; written into every shard.
      progress: called with (entries done by this run, entries this run had to do, photos left out by it, seconds).

    Returns:
      {"images": how many of the part have codes, "failures": how many entries have none}.

    Raises:
      ResultError: if the results cannot be written.
    """
    settings = shards.plain(settings)
    with part.claimed():
        if (part.folder / shards.MANIFEST).exists():
            return shards.manifest_total(part.folder / shards.MANIFEST)
        part.clean()
        todo = sum(len(piece) for piece, _ in _missing(part, embed.batch_size, dry=True))
        began, done, left_out = time.monotonic(), 0, 0
        with concurrent.futures.ThreadPoolExecutor(1) as writer:
            written: concurrent.futures.Future | None = None
            for job in _embedded(source, prepare, embed, part):
                if written is not None:
                    written.result()  # one piece is written while the next is computed, and an error ends the run
                    if progress:
                        progress(done, todo, left_out, time.monotonic() - began)
                written = writer.submit(_write, part, job, settings, embed)
                done, left_out = done + len(job.piece), left_out + len(job.failures)
            if written is not None:
                written.result()
        if progress:
            progress(done, todo, left_out, time.monotonic() - began)
        return shards.finish_part(part, settings)


class _Job(NamedTuple):
    """One piece on its way: its entries, photos, failures, and batches of results."""

    piece: range
    shard: int | None  # to be finished after this piece
    photos: list[Photo]
    failures: list[Failure]
    batches: list[Embedded]


def _embedded(source: Source, prepare: photos.Preparation, embed: Embedder, part: Part) -> Iterator[_Job]:
    """The missing pieces; their results may still be on their way."""

    def entries() -> Iterator[tuple[tuple[range, int | None], Entry]]:
        for plan in _missing(part, embed.batch_size):
            yield from ((plan, entry) for entry in source.entries(plan[0].start, plan[0].stop))

    def work(item: tuple[Any, Entry]) -> list[Photo] | Failure:
        return prepare(item[1])

    outcomes = photos.ahead(work, entries(), most=2 * embed.batch_size + 2)
    for (piece, shard), group in itertools.groupby(outcomes, key=lambda outcome: outcome[0][0]):
        results = [result for _, result in group]
        failures = [result for result in results if isinstance(result, Failure)]
        found = [photo for result in results if not isinstance(result, Failure) for photo in result]
        batches = [
            embed(np.stack([photo.image for photo in found[at : at + embed.batch_size]]))
            for at in range(0, len(found), embed.batch_size)
        ]
        names = [Photo(p.id, p.source, np.zeros(0), p.notes) for p in found]  # pixels are large, and no longer needed
        yield _Job(piece, shard, names, failures, batches)


def _missing(part: Part, batch_size: int, dry: bool = False) -> Iterator[tuple[range, int | None]]:
    """The pieces still to be made, in order; with the last of a shard comes the shard's number."""
    for shard in part.shards:
        if part.path(shard).exists():
            if not dry:
                shards.forget_pieces(part, shard)
            continue
        pieces = _pieces(part, shard, batch_size)
        absent = [piece for piece in pieces if not _is_whole(part.piece(piece))]
        if not absent and not dry:  # killed between its last piece and the shard
            shards.finish(part, shard, pieces)
        for piece in absent:
            yield piece, shard if piece is absent[-1] else None


def _pieces(part: Part, shard: int, batch_size: int) -> list[range]:
    stretch = part.stretch(shard)
    return [range(at, min(at + batch_size, stretch.stop)) for at in range(stretch.start, stretch.stop, batch_size)]


def _is_whole(path: pathlib.Path) -> bool:
    if not path.exists():
        return False
    try:
        shards.read(path)
    except CheckpointError:
        path.unlink(missing_ok=True)  # a damaged disk: made again
        return False
    return True


def _write(part: Part, job: _Job, settings: dict[str, Any], embed: Embedder) -> None:
    """Wait for the devices, write a piece, and the shard that it completes."""
    batch_size = embed.batch_size
    rows = [min(batch_size, len(job.photos) - i * batch_size) for i in range(len(job.batches))]
    host = [jax.device_get(Embedded(b.ws, b.metrics, None)) for b in job.batches]
    ws = [h.ws[:n] for h, n in zip(host, rows, strict=True)]
    codes = np.concatenate(ws) if ws else np.zeros((0, *embed.code_shape), np.float32)
    finite = np.asarray(np.isfinite(codes).all((1, 2)))
    failures = list(job.failures)
    for photo in (photo for photo, good in zip(job.photos, finite, strict=True) if not good):
        failures.append(Failure(photo.id, photo.source, "its code is not finite"))
    if any(batch.renders is not None for batch in job.batches):
        pictures = [np.asarray(b.renders)[:n] for b, n in zip(job.batches, rows, strict=True)]
        _write_renders(part, job, itertools.chain.from_iterable(pictures), finite)
    good = [photo for photo, is_finite in zip(job.photos, finite, strict=True) if is_finite]
    metrics = {
        name: np.concatenate([h.metrics[name][:n] for h, n in zip(host, rows, strict=True)])[finite]
        for name in (host[0].metrics if host else {})
    }
    result = Shard(
        first=job.piece.start,
        entries=len(job.piece),
        ids=[photo.id for photo in good],
        sources=[photo.source for photo in good],
        notes=[list(photo.notes) for photo in good],
        ws=codes[finite],
        metrics=metrics,
        failures=failures,
        settings=settings,
    )
    shards.write(part.piece(job.piece), result)
    if job.shard is not None:
        shards.finish(part, job.shard, _pieces(part, job.shard, batch_size))


def _write_renders(part: Part, job: _Job, pictures: Iterator[np.ndarray], finite: np.ndarray) -> None:
    folder = part.out / RENDERS / f"shard-{job.piece.start // part.shard_size:05d}"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        wanted = [(p.id, x) for p, x, good in zip(job.photos, pictures, finite, strict=True) if good]
        list(pool.map(lambda item: image_files.write_png(folder / f"{item[0]}.png", item[1]), wanted))


@jax.jit
def _to_float(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / jnp.float32(127.5) - 1


@jax.jit
def _to_bytes(images: jax.Array) -> jax.Array:
    """As `images.to_uint8`; values that are not finite become 0, and their codes are not kept."""
    return jnp.rint(jnp.clip(images * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)


@jax.jit(static_argnums=(3, 4, 5))
def _encoded(
    encoder: Any, G: Generator, rows: jax.Array, iterations: int, pixels: bool, keep: bool
) -> tuple[jax.Array, jax.Array | None, dict[str, jax.Array]]:
    images = _to_float(rows)
    ws = inversion.encode_start(encoder, G, images, iterations)
    image = G.synthesize(ws) if pixels or keep else None
    metrics = {} if image is None or not pixels else reconstruction.pixels(image, images)
    return ws, image if keep else None, metrics
