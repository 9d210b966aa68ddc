"""MoCo-v2 features: how alike are two images of anything, where there is no face to recognise.

A ResNet-50 (He et al., arXiv 1512.03385; torchvision's, which strides in the 3x3 convolutions) trained without labels
(Chen et al., arXiv 2003.04297); pSp and e4e put its cosine in the place of the identity loss for cars, horses and
churches. No package ships the weights: they come from a file, `moco_v2_800ep_pretrain.pth.tar`.

As in pSp, images go in as they are, in [-1, 1], without ImageNet's normalisation, and are brought to 224 pixels by
nearest neighbour.
"""

import os
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.checkpoints import convert_moco, read
from lsap_jax.data import resize
from lsap_jax.errors import CheckpointError, ImageError
from lsap_jax.networks.layers import conv, max_pool

FILE = "moco_v2_800ep_pretrain.pth.tar"
RESOLUTION = 256  # pixels, at which the pSp family compares images
INPUT = 224


@flax.struct.dataclass
class Moco:
    """MoCo-v2's image description; a pytree, to be passed to jitted functions as an argument.

    Attributes:
      params: of `features`, from `checkpoints.convert_moco`.
    """

    params: Any

    def embed(self, images: jax.Array) -> jax.Array:
        """Describe images: (B, S, S, 3) in [-1, 1] -> (B, 2048) of unit length.

        Images of another size than 256 pixels are first brought to it by area.

        Raises:
          ImageError: if these are not square float images.
        """
        return _embed(self, images)

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Cosine similarity of each pair: (B, S, S, 3) twice -> (B,) in [-1, 1]; the loss is 1 - this.

        Raises:
          ImageError: if the batches differ in size.
        """
        a, b = self.embed(a), self.embed(b)
        if a.shape != b.shape:
            raise ImageError(f"{len(a)} and {len(b)} images: they are compared in pairs")
        return (a * b).sum(-1)


def load(path: str | os.PathLike) -> Moco:
    """MoCo-v2 from its published checkpoint.

    Raises:
      CheckpointError: if the file is missing, damaged, or does not hold these weights.
    """
    if not os.path.exists(path):
        raise CheckpointError(f"{os.fspath(path)}: no such file; MoCo-v2's weights are published as {FILE}")
    try:
        return Moco(jax.tree.map(jnp.asarray, convert_moco.convert(read.read(path))))
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error


def features(params: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """A ResNet of bottleneck units without its last layer, in evaluation mode.

    Args:
      params: {"stem": conv, "layer1": {"block0": {"conv1", "conv2", "conv3", and "shortcut" where the shape changes},
        "block1": ...}, ..., "layer4"}, each conv {"kernel", "bias"} with its batch normalisation folded in.
      images: (B, H, W, 3).

    Returns:
      (B, C) means over the last map; C is 2048 for ResNet-50.
    """
    x = jax.nn.relu(conv(params["stem"], images, stride=2, padding=3))
    x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)  # nothing is below 0, so zeros pad as -inf would
    for layer in range(1, 5):
        blocks = params[f"layer{layer}"]
        for block in range(len(blocks)):
            x = _bottleneck(blocks[f"block{block}"], x, stride=2 if layer > 1 and block == 0 else 1)
    return x.mean((1, 2))


def nearest(images: jax.Array, size: int) -> jax.Array:
    """PyTorch's `interpolate(size=size)`: output pixel i is input pixel floor(i n / size); (B, H, W, C)."""
    rows, columns = (np.arange(size) * n // size for n in images.shape[1:3])
    return images[:, rows][:, :, columns]


@jax.jit
def _embed(moco: Moco, images: jax.Array) -> jax.Array:
    images = resize.as_images(images)
    if images.shape[1] != images.shape[2]:
        raise ImageError(f"images of shape {images.shape}: MoCo compares square ones")
    x = features(moco.params, nearest(resize.area(images, RESOLUTION), INPUT))
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _bottleneck(params: Mapping[str, Any], x: jax.Array, stride: int) -> jax.Array:
    y = jax.nn.relu(conv(params["conv1"], x))
    y = jax.nn.relu(conv(params["conv2"], y, stride, padding=1))
    shortcut = conv(params["shortcut"], x, stride) if "shortcut" in params else x
    return jax.nn.relu(conv(params["conv3"], y) + shortcut)
