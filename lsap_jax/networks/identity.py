"""Do two images show the same person? Cosine similarity of face descriptions.

Two recognisers are known. dlib's needs nothing but a fetch; its descriptions share a common mean, so cosines of
different people are high as well: 0.75 to 0.9 (dlib's own threshold of 0.6 in distance is about 0.91). ArcFace,
the judge of the pSp family, comes from a file `model_ir_se50.pth`; there different people are near 0.

Images are faces in FFHQ's alignment, as photos after alignment and as FFHQ generators render them. Both recognisers
are differentiable, and pytrees: pass them to jitted functions as arguments.
"""

import os
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from lsap_jax import pretrained
from lsap_jax.checkpoints import convert_ir_se, read
from lsap_jax.data import resize
from lsap_jax.errors import CheckpointError, ImageError
from lsap_jax.networks import dlib_face, ir_se

ARCFACE_RESOLUTION = 256  # pixels; the crop below is in these
ARCFACE_CROP = (slice(35, 223), slice(32, 220))  # rows and columns around the face
ARCFACE_INPUT = 112


class Identity(Protocol):
    """What every recogniser does; a pytree."""

    def embed(self, images: jax.Array) -> jax.Array:
        """Describe faces: (B, S, S, 3) in [-1, 1] -> (B, D) of unit length.

        Raises:
          ImageError: if these are not square float images of a size that the recogniser can take.
        """
        ...

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Cosine similarity of each pair: (B, S, S, 3) twice -> (B,) in [-1, 1]."""
        ...


@flax.struct.dataclass
class DlibFace:
    """dlib's descriptor of a fixed crop; images of at least 128 x 128 pixels.

    Attributes:
      params: of `networks.dlib_face`.
    """

    params: Any

    def embed(self, images: jax.Array) -> jax.Array:
        """Describe faces: (B, S, S, 3) in [-1, 1] -> (B, 128) of unit length."""
        return _embed_dlib(self, images)

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Cosine similarity of each pair: (B, S, S, 3) twice -> (B,) in [-1, 1]."""
        return _cosine(self.embed(a), self.embed(b))


@flax.struct.dataclass
class ArcFace:
    """The ArcFace IR-SE50 of the pSp family's identity loss: `1 - ArcFace(a, b)` is that loss.

    Attributes:
      variables: of `networks.ir_se.ArcFace`.
      stages: of its trunk.
    """

    variables: Any
    stages: tuple[ir_se.Stage, ...] = flax.struct.field(pytree_node=False, default=ir_se.IR_SE50)

    def embed(self, images: jax.Array) -> jax.Array:
        """Describe faces: (B, S, S, 3) in [-1, 1] -> (B, 512) of unit length.

        Images are brought to 256 pixels by area, the face is cropped at a fixed place, pooled to 112 pixels by
        PyTorch's overlapping bins, and described in evaluation mode.
        """
        return _embed_arcface(self, images)

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Cosine similarity of each pair: (B, S, S, 3) twice -> (B,) in [-1, 1]."""
        return _cosine(self.embed(a), self.embed(b))


def identity(name: str | os.PathLike = "dlib-face") -> Identity:
    """A recogniser with its weights.

    Args:
      name: "dlib-face", fetched on first use, or the path of ArcFace's weights, `model_ir_se50.pth`.

    Raises:
      CheckpointError: if there is no such file, or it does not hold these weights.
      FetchError: if dlib's network cannot be fetched.
    """
    if name == "dlib-face":
        tree, _ = pretrained.load(name)
        return DlibFace(jax.tree.map(jnp.asarray, tree))
    if not os.path.exists(name):
        raise CheckpointError(f"{os.fspath(name)}: no such file, and no recogniser of this name (dlib-face)")
    state_dict = read.read(name)
    if not isinstance(state_dict, dict):
        raise CheckpointError(f"{os.fspath(name)}: not a state dict of ArcFace IR-SE50 (model_ir_se50.pth)")
    variables = convert_ir_se.convert_arcface(state_dict)
    return ArcFace(jax.tree.map(jnp.asarray, variables), convert_ir_se.stages_of(state_dict))


@jax.jit
def _embed_dlib(recogniser: DlibFace, images: jax.Array) -> jax.Array:
    chips = dlib_face.aligned_chips(resize.as_images(images))
    return _unit(dlib_face.descriptor(recogniser.params, chips))


@jax.jit
def _embed_arcface(recogniser: ArcFace, images: jax.Array) -> jax.Array:
    images = resize.as_images(images)
    if images.shape[1] != images.shape[2]:
        raise ImageError(f"images of shape {images.shape}: aligned faces are square")
    rows, columns = ARCFACE_CROP
    faces = resize.area(images, ARCFACE_RESOLUTION)[:, rows, columns]
    faces = resize.adaptive_average_pool(faces, ARCFACE_INPUT)
    embedding = recogniser.variables["params"]["dense"]["bias"].size
    description: Any = ir_se.ArcFace(recogniser.stages, embedding).apply(recogniser.variables, faces)
    return _unit(description)


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    if a.shape != b.shape:
        raise ImageError(f"identities of {len(a)} and {len(b)} images: they are compared in pairs")
    return (a * b).sum(-1)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
