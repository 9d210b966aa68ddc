"""The generator's own samples as training data: without end, nothing to download, and the true codes are known.

`fresh` draws and renders inside a training step. Rendering is most of that step's time, so samples can also be rendered
once, by `tools/render_samples.py`, into a folder of shards that any number of runs then read:

    DIR/samples-00000.npz ...    images (n, R, R, 3) uint8, ws (n, num_ws, w_dim) float16, and what made them

Sample i depends on the seed and i alone, so the set is the same whatever the batch size, and a longer set begins with
the shorter one ("the same" up to the last bits of float32 matrix products, which depend on the batch).
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.data import images as image_files
from lsap_jax.data.resize import area
from lsap_jax.errors import ConfigError, ImageError, ResultError
from lsap_jax.generators.base import Generator

KIND = "generator samples"
SHARD = 1000  # samples of one file


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which codes are drawn.

    Attributes:
      truncation: (low, high) psi, drawn uniformly for every image: 1 is the generator's own distribution, smaller
        values are plainer faces nearer to the mean.
      mixing: probability that the rows from a random one on come from a second w (style mixing).
    """

    truncation: tuple[float, float] = (0.7, 1.0)
    mixing: float = 0.3

    def __post_init__(self):
        low, high = self.truncation
        if not 0 <= low <= high <= 2:
            raise ConfigError(f"truncation={self.truncation}: must be (low, high) with 0 <= low <= high <= 2")
        if not 0 <= self.mixing <= 1:
            raise ConfigError(f"mixing={self.mixing}: a probability, so from 0 to 1")


def draw(
    G: Generator, key: jax.Array, batch: int, truncation: tuple[float, float] = (0.7, 1.0), mixing: float = 0.3
) -> jax.Array:
    """Random codes as `Settings` describes them: (batch, num_ws, w_dim); jittable."""
    return draw_each(G, jax.random.split(key, batch), Settings(truncation, mixing))


def draw_each(G: Generator, keys: jax.Array, settings: Settings) -> jax.Array:
    """One code for every key: (B,) PRNG keys -> (B, num_ws, w_dim); classes of conditional generators are uniform."""
    parts = jax.vmap(lambda key: jax.random.split(key, 5))(keys)
    low, high = settings.truncation
    psi = jax.vmap(lambda key: jax.random.uniform(key, minval=low, maxval=high))(parts[:, 0])
    z = jax.vmap(lambda key: jax.random.normal(key, (2, G.z_dim)))(parts[:, 1])
    mixed = jax.vmap(lambda key: jax.random.bernoulli(key, settings.mixing))(parts[:, 2])
    crossover = jax.vmap(lambda key: jax.random.randint(key, (), 1, max(G.num_ws, 2)))(parts[:, 3])
    labels = None
    if G.arch.label_dim:
        classes = jax.vmap(lambda key: jax.random.randint(key, (), 0, G.arch.label_dim))(parts[:, 4])
        labels = jnp.repeat(jax.nn.one_hot(classes, G.arch.label_dim), 2, axis=0)  # both w of an image are of one class
    w = G.map(z.reshape(-1, G.z_dim), labels=labels).reshape(-1, 2, G.w_dim)
    w = G.w_avg[None, None] + psi[:, None, None] * (w - G.w_avg[None, None])
    second = mixed[:, None] & (jnp.arange(G.num_ws)[None] >= crossover[:, None])
    return jnp.where(second[..., None], w[:, 1:], w[:, :1])


@functools.partial(jax.jit, static_argnames="settings")
def numbered(G: Generator, key: jax.Array, numbers: jax.Array, settings: Settings) -> jax.Array:
    """The codes of samples by number, (B,) -> (B, num_ws, w_dim): each depends on the key and its number alone."""
    return draw_each(G, jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers), settings)


@functools.partial(jax.jit, static_argnames=("resolution", "exact"))
def render(G: Generator, ws: jax.Array, resolution: int, exact: bool = False) -> jax.Array:
    """Images of codes at a side that may be smaller than the generator's: (B, resolution, resolution, 3), clipped.

    Args:
      G: the generator; its stored noise is used.
      ws: (B, num_ws, w_dim).
      resolution: side of the result in pixels.
      exact: area-resize the full render. Otherwise the smallest side that `G.synthesize` offers and that `resolution`
        divides is rendered, and area-resized where it is larger: quicker, and as faithful as G's previews are.

    Raises:
      ConfigError: if the generator renders smaller than `resolution`.
    """
    if not 0 < resolution <= G.resolution:
        raise ConfigError(
            f"resolution={resolution}: {G.name or 'this generator'} renders at most {G.resolution} pixels"
        )
    fitting = () if exact else [side for side in G.resolutions if side % resolution == 0]
    return jnp.clip(area(G.synthesize(ws, resolution=min(fitting, default=G.resolution)), resolution), -1, 1)


def fresh(
    G: Generator, key: jax.Array, batch: int, resolution: int, settings: Settings, exact: bool = False
) -> dict[str, jax.Array]:
    """New samples, {"image": (batch, R, R, 3) in [-1, 1], "ws": (batch, num_ws, w_dim)}; jittable."""
    ws = draw(G, key, batch, settings.truncation, settings.mixing)
    return {"image": render(G, ws, resolution, exact), "ws": ws}


def write(
    G: Generator,
    out: str | os.PathLike,
    count: int,
    resolution: int,
    seed: int,
    settings: Settings,
    batch: int = 16,
    exact: bool = False,
    shard: int = SHARD,
) -> Iterator[int]:
    """Render samples 0 ... count - 1 into shards of a folder, leaving those that are there already.

    Yields:
      The number of samples that exist, at the start and after every batch. A shard appears only when it is whole.

    Raises:
      ResultError: if the folder cannot be written, or holds samples of other settings.
      ConfigError: if a number is impossible.
    """
    if min(count, batch, shard) < 1:
        raise ConfigError(f"count={count}, batch={batch}, shard={shard}: each must be at least 1")
    out = pathlib.Path(out)
    record = _record(G, resolution, seed, settings, exact, shard)
    sizes = {int(path.stem[-5:]): _checked_size(path, record) for path in shards(out)}
    render_batch = jax.jit(_numbered, static_argnames=("settings", "resolution", "exact"))
    key = jax.random.key(seed)
    wanted = {index: min(shard, count - index * shard) for index in range(-(-count // shard))}
    done = sum(size for index, size in wanted.items() if sizes.get(index, 0) >= size)
    yield done
    for index, size in wanted.items():
        if sizes.get(index, 0) >= size:
            continue
        images = np.empty((size, resolution, resolution, 3), np.uint8)
        ws = np.empty((size, G.num_ws, G.w_dim), np.float16)
        # Every batch is full, also the last one of a shard: one compiled program, and the batches of a shard do not
        # depend on where an earlier run stopped.
        for start in range(0, size, batch):
            numbers = jnp.arange(index * shard + start, index * shard + start + batch)
            rendered = jax.device_get(render_batch(G, key, numbers, settings, resolution, exact))
            stop = min(start + batch, size)
            images[start:stop] = image_files.to_uint8(rendered["image"])[: stop - start]
            ws[start:stop] = rendered["ws"][: stop - start]
            if stop < size:
                yield done + stop
        try:
            store.save(out / f"samples-{index:05d}.npz", {"images": images, "ws": ws}, {**record, "shard": index})
        except OSError as error:
            raise ResultError(
                f"{out}: samples cannot be written ({error}); free space or choose another --out"
            ) from None
        done += size
        yield done


def _numbered(G, key, numbers, settings, resolution, exact):
    ws = numbered(G, key, numbers, settings)
    return {"image": render(G, ws, resolution, exact), "ws": ws}


def _record(G: Generator, resolution: int, seed: int, settings: Settings, exact: bool, shard: int) -> dict[str, Any]:
    record = {
        "kind": KIND,
        "generator": G.name,
        "fingerprint": G.fingerprint,
        "resolution": resolution,
        "seed": seed,
        **dataclasses.asdict(settings),
        "exact": exact,
        "shard_size": shard,
    }
    return json.loads(json.dumps(record))


def _checked_size(path: pathlib.Path, record: dict[str, Any]) -> int:
    """Samples in a shard that is to be left as it is, after a look at what made it."""
    meta, arrays = _open_shard(path)
    for field, value in record.items():
        if field != "generator" and meta.get(field) != value:  # the name is for people, the fingerprint decides
            raise ResultError(
                f"{path.parent} holds samples made with {field}={meta.get(field)!r}, and {field}={value!r} is asked "
                "for: give another --out, or remove that folder"
            )
    return len(arrays["images"])


def shards(folder: str | os.PathLike) -> list[pathlib.Path]:
    """The shards of a folder of samples, in order; none if there is no such folder."""
    folder = pathlib.Path(folder)
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if re.fullmatch(r"samples-\d{5,}\.npz", path.name))


class Samples:
    """A folder of rendered samples, by number; files are mapped into memory and read as needed.

    Attributes:
      meta: what made them: generator, fingerprint, resolution, seed, truncation, mixing, exact.

    Raises:
      ImageError: if there are no samples, a shard is damaged, missing or from another set.
      ConfigError: if they are samples of another generator than the one with `fingerprint`.
    """

    def __init__(self, folder: str | os.PathLike, fingerprint: str | None = None):
        paths = shards(folder)
        if not paths:
            raise ImageError(
                f"{folder}: no samples in it (samples-00000.npz ...); make them with "
                f"`python tools/render_samples.py --generator NAME --out {folder} --count 50000`"
            )
        opened = [_open_shard(path) for path in paths]
        self.meta = {key: value for key, value in opened[0][0].items() if key != "shard"}
        for index, (path, (meta, _)) in enumerate(zip(paths, opened, strict=True)):
            if {key: value for key, value in meta.items() if key != "shard"} != self.meta:
                raise ImageError(
                    f"{path}: made with other settings than {paths[0].name}; keep sets in folders of their own"
                )
            if meta["shard"] != index:
                raise ImageError(
                    f"{folder}: shard {index} is missing; run tools/render_samples.py again, it fills gaps"
                )
        if fingerprint is not None and self.meta["fingerprint"] != fingerprint:
            raise ConfigError(
                f"{folder}: samples of generator {self.meta['generator']!r} (fingerprint {self.meta['fingerprint']}), "
                f"not of the one in use ({fingerprint}): render samples of that one, or load the other generator"
            )
        self._arrays = [arrays for _, arrays in opened]
        self._starts = np.cumsum([0, *(len(arrays["images"]) for arrays in self._arrays)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """{"image": (R, R, 3) uint8, "ws": (num_ws, w_dim) float32}."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        offset, arrays = index - self._starts[part], self._arrays[part]
        return {"image": np.array(arrays["images"][offset]), "ws": arrays["ws"][offset].astype(np.float32)}


def _open_shard(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(description, {"images", "ws"} mapped into memory) of one shard."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            meta = json.loads(file[store.META_KEY].tobytes())
        arrays = {name: _mapped(path, name) for name in ("images", "ws")}
    except (KeyError, ValueError, OSError, EOFError, struct.error, zipfile.BadZipFile) as error:
        raise ImageError(f"{path}: a damaged shard of samples ({error}); remove it and render again") from error
    if meta.get("kind") != KIND:
        raise ImageError(f"{path}: holds {meta.get('kind')!r}, not {KIND}")
    return meta, arrays


def _mapped(path: pathlib.Path, name: str) -> np.ndarray:
    """An array of an uncompressed `.npz` as a memory map, which `np.load` does not do for members of an archive."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    with open(path, "rb") as stream:
        # The local header repeats the name, and its extra field may differ in length from the central directory's.
        stream.seek(member.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", stream.read(4))
        stream.seek(name_length + extra_length, os.SEEK_CUR)
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} has an unknown .npy version")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        if fortran_order or dtype.hasobject:
            raise ValueError(f"{name} is not a plain array")
        return np.memmap(path, dtype, "r", offset=stream.tell(), shape=shape)
