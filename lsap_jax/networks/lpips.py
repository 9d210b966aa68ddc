"""LPIPS: the perceptual distance between images (Zhang et al., arXiv 1801.03924), version 0.1.

The value is that of the reference implementation (richzhang/PerceptualSimilarity, `lpips` 0.1.4): activations
f_l of a pretrained network, unit-normalised over channels, their squared difference weighted by one learned
non-negative number per channel, averaged over positions, summed over layers. The numbers of different networks
are not comparable: say which one.

Features are an explicit step, so that a photo's are computed once and compared with many renders:

    net = load("vgg")
    target = net.features(photo)
    net.distance(net.features(render), target)
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax import pretrained
from lsap_jax.data import resize
from lsap_jax.errors import ConfigError, ImageError
from lsap_jax.networks import alexnet, squeezenet, vgg

Features = tuple[jax.Array, ...]

NETS = {"vgg": vgg, "alex": alexnet, "squeeze": squeezenet}
SHIFT = (-0.030, -0.088, -0.188)  # ImageNet's mean and deviation, for images in [-1, 1]
SCALE = (0.458, 0.448, 0.450)
SMALLEST = 32  # pixels: below it some layer has no position left


@flax.struct.dataclass
class Lpips:
    """A perceptual judge: (B, H, W, 3) and (B, H, W, 3) in [-1, 1] -> (B,), 0 for equal images.

    A pytree of frozen weights, to be passed to jitted functions as an argument.

    Attributes:
      params: {"net": weights of the network, "lin": {"lin0": (C_0,), ...}}.
      net: "vgg", "alex" or "squeeze".
    """

    params: Any
    net: str = flax.struct.field(pytree_node=False)

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """LPIPS of each pair: (B, H, W, 3) twice -> (B,).

        Raises:
          ImageError: if these are not float images of one shape, with sides of at least 32 pixels.
        """
        if jnp.shape(a) != jnp.shape(b):
            raise ImageError(f"LPIPS compares images of one shape, not {jnp.shape(a)} with {jnp.shape(b)}")
        return self.distance(self.features(a), self.features(b))

    def features(self, images: jax.Array) -> Features:
        """Unit-normalised activations of every compared layer: (B, H, W, 3) -> (B, h_l, w_l, C_l) for each l."""
        return _features(self, images)

    def distance(self, features_a: Features, features_b: Features) -> jax.Array:
        """The distance between images given by their `features`: (B,)."""
        return _layer_distances(self, features_a, features_b).sum(1)

    def layer_distances(self, features_a: Features, features_b: Features) -> jax.Array:
        """Each layer's part of the distance: (B, L)."""
        return _layer_distances(self, features_a, features_b)

    def spatial(self, features_a: Features, features_b: Features, size: resize.Size) -> jax.Array:
        """Where images differ: the layers' maps, interpolated to `size` and summed: (B, height, width)."""
        maps = _maps(self, features_a, features_b)
        return jnp.concatenate([resize.bilinear(m[..., None], size, antialias=False) for m in maps], -1).sum(-1)

    def activations(self, images: jax.Array, names: Sequence[str]) -> Features:
        """Plain activations of the VGG16 inside, as `networks.vgg.features`, of images (B, H, W, 3) in [-1, 1].

        Raises:
          ConfigError: if this judge has another network.
        """
        if self.net != "vgg":
            raise ConfigError(f"activations by name are VGG16's; this is LPIPS with {self.net!r}")
        return vgg.features(self.params["net"], _normalised(images), names)


def load(net: str = "vgg") -> Lpips:
    """LPIPS v0.1 with its pretrained weights, fetched on first use.

    Args:
      net: "vgg" or "alex". (For "squeeze" bring the files: `checkpoints.convert_lpips.from_files`.)

    Raises:
      ConfigError: if there are no weights of this name.
      FetchError: if they cannot be fetched.
    """
    if net not in ("vgg", "alex"):
        raise ConfigError(f"no pretrained LPIPS with {net!r}; there are 'vgg' and 'alex'")
    tree, _ = pretrained.load(f"lpips-{net}")
    return Lpips(jax.tree.map(jnp.asarray, tree), net)


@jax.jit
def _features(judge: Lpips, images: jax.Array) -> Features:
    activations = NETS[judge.net].features(judge.params["net"], _normalised(images))
    return tuple(_unit(f) for f in activations)


@jax.jit
def _layer_distances(judge: Lpips, features_a: Features, features_b: Features) -> jax.Array:
    return jnp.stack([m.mean((1, 2)) for m in _maps(judge, features_a, features_b)], axis=1)


def _maps(judge: Lpips, features_a: Features, features_b: Features) -> list[jax.Array]:
    """The weighted squared differences of each layer, (B, h_l, w_l)."""
    heads = [judge.params["lin"][f"lin{i}"].reshape(1, 1, 1, -1) for i in range(len(features_a))]
    return [(jnp.square(a - b) * w).sum(-1) for w, a, b in zip(heads, features_a, features_b, strict=True)]


def _normalised(images: jax.Array) -> jax.Array:
    images = resize.as_images(images)
    if min(images.shape[1:3]) < SMALLEST:
        raise ImageError(f"images of shape {images.shape}: LPIPS needs sides of at least {SMALLEST} pixels")
    shift, scale = (np.asarray(x, np.float32).reshape(1, 1, 1, 3) for x in (SHIFT, SCALE))
    return (images - shift) / scale


def _unit(f: jax.Array) -> jax.Array:
    """Scale to f / (|f| + 1e-10) over channels, with gradient 0 where f is 0 (there the plain form's is NaN)."""
    square = jnp.square(f).sum(-1, keepdims=True)
    some = square > 0
    return f * jnp.where(some, 1 / (jnp.sqrt(jnp.where(some, square, 1)) + 1e-10), 0)
