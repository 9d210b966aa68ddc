"""StyleGAN2's discriminator (Karras et al. 2020, arXiv 1912.04958; conditional as in 2006.06676).

One block for each resolution from `resolution` down to 8, then the last at 4 pixels:

    resnet    `conv0`, `conv1` (halves the size), and a 1x1 downsampling shortcut (published nets)
    skip      the downsampled picture enters every block through its own `fromrgb`
    orig      `conv0`, `conv1` only

The last block sees, besides its features, how much the images of a group differ (minibatch standard deviation, Karras
et al. 2018, arXiv 1710.10196). Groups are strided: of B images in groups of g, image i belongs with i + B/g, i + 2B/g.
"""

import dataclasses
import functools
import os
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from lsap_jax.checkpoints import store
from lsap_jax.errors import CheckpointError, ConfigError
from lsap_jax.generators import ops

ARCHITECTURES = ("resnet", "skip", "orig")


@dataclasses.dataclass(frozen=True)
class DiscriminatorSizes:
    """Static sizes of a discriminator.

    Attributes:
      resolution: side of the images in pixels, a power of two from 8.
      channels: ((4, C), (8, C), ..., (resolution, C)), the width of each block's input.
      label_dim: classes of a conditional discriminator, else 0.
      label_features: length of the label's embedding and of the last features it is compared with.
      mapping_layers: depth of the label's mapping network.
      architecture: "resnet", "skip" or "orig".
      resample_filter: taps of the downsampling filter, of any scale.
      conv_clamp: bound of activations (networks trained in float16 have 256), or None.
      mapping_lr_multiplier: factor on the mapping network's weights.
      deviation_group: images of a group of the minibatch standard deviation; 0 for the whole batch.
      deviation_channels: its channels.
    """

    resolution: int
    channels: tuple[tuple[int, int], ...]
    label_dim: int = 0
    label_features: int = 0
    mapping_layers: int = 0
    architecture: str = "resnet"
    resample_filter: tuple[float, ...] = (1.0, 3.0, 3.0, 1.0)
    conv_clamp: float | None = None
    mapping_lr_multiplier: float = 0.01
    deviation_group: int = 4
    deviation_channels: int = 1

    kind: ClassVar[str] = "stylegan2-discriminator"

    def __post_init__(self):
        r = self.resolution
        if r < 8 or r & (r - 1):
            raise ConfigError(f"resolution {r}: StyleGAN2 takes a power of two from 8")
        if [size for size, _ in self.channels] != [4, *reversed(self.resolutions)]:
            raise ConfigError(f"channels {self.channels}: give one (size, width) for 4, 8, ..., {r}")
        if self.architecture not in ARCHITECTURES:
            raise ConfigError(f"architecture {self.architecture!r}: use one of {ARCHITECTURES}")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """`resolution`, ..., 16, 8: the blocks before the last."""
        return tuple(1 << n for n in range(self.resolution.bit_length() - 1, 2, -1))


@flax.struct.dataclass
class Discriminator:
    """A discriminator: `D(images)` or, if conditional, `D(images, labels)` -> (B,) logits, larger for real."""

    params: Any
    sizes: DiscriminatorSizes = flax.struct.field(pytree_node=False)
    name: str = flax.struct.field(pytree_node=False, default="")

    def __call__(self, images: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """See `logits`."""
        return logits(self.sizes, self.params, images, labels)


def logits(sizes: DiscriminatorSizes, params: Any, images: jax.Array, labels: jax.Array | None = None) -> jax.Array:
    """Judge images.

    Args:
      sizes: the static record.
      params: its weights.
      images: (B, resolution, resolution, 3) in [-1, 1].
      labels: (B, label_dim) one-hot, for a conditional discriminator only.

    Returns:
      (B,) logits.

    Raises:
      ConfigError: if a shape does not fit, or the batch does not divide into groups.
    """
    b, r = images.shape[0], sizes.resolution
    if images.shape[1:] != (r, r, 3):
        raise ConfigError(f"images have shape {images.shape}; this discriminator judges (B, {r}, {r}, 3)")
    if (labels is None) != (sizes.label_dim == 0) or (labels is not None and labels.shape != (b, sizes.label_dim)):
        given = None if labels is None else labels.shape
        raise ConfigError(
            f"labels have shape {given}; this discriminator takes {(b, sizes.label_dim) if sizes.label_dim else None}"
        )
    x, picture = None, images
    for size in sizes.resolutions:
        x, picture = _block(sizes, params[f"b{size}"], x, picture)
    features = _last_block(sizes, params["b4"], x, picture)
    if not sizes.label_dim:
        return features[:, 0]
    return jnp.sum(features * _map_labels(sizes, params["mapping"], labels), axis=1) / sizes.label_features**0.5


def param_shapes(sizes: DiscriminatorSizes) -> dict[str, Any]:
    """The params tree with shapes for leaves."""
    channels = dict(sizes.channels)

    def layer(size, i, o):
        return {"weight": (size, size, i, o), "bias": (o,)}

    shapes: dict[str, Any] = {}
    for r in sizes.resolutions:
        i, o = channels[r], channels[r // 2]
        shapes[f"b{r}"] = {"conv0": layer(3, i, i), "conv1": layer(3, i, o)}
        if r == sizes.resolution or sizes.architecture == "skip":
            shapes[f"b{r}"]["fromrgb"] = layer(1, 3, i)
        if sizes.architecture == "resnet":
            shapes[f"b{r}"]["skip"] = {"weight": (1, 1, i, o)}
    c, out = channels[4], sizes.label_features if sizes.label_dim else 1
    shapes["b4"] = {
        "conv": layer(3, c + sizes.deviation_channels, c),
        "fc": {"weight": (16 * c, c), "bias": (c,)},
        "out": {"weight": (c, out), "bias": (out,)},
    }
    if sizes.architecture == "skip":
        shapes["b4"]["fromrgb"] = layer(1, 3, c)
    if sizes.label_dim:
        width = sizes.label_features
        shapes["mapping"] = {"embed": {"weight": (sizes.label_dim, width), "bias": (width,)}}
        for n in range(sizes.mapping_layers):
            shapes["mapping"][f"fc{n}"] = {"weight": (width, width), "bias": (width,)}
    return shapes


def sizes_for(resolution: int, finest: int, widest: int = 512) -> DiscriminatorSizes:
    """Published nets' proportions: `finest` channels at `resolution`, twice as many at each halving up to `widest`.

    StyleGAN2's for FFHQ is `sizes_for(1024, 32)`, its half `sizes_for(1024, 16)`.

    Raises:
      ConfigError: if the resolution is no power of two from 8.
    """
    halvings = range(resolution.bit_length() - 3, -1, -1)
    return DiscriminatorSizes(resolution, tuple((resolution >> n, min(widest, finest << n)) for n in halvings))


def init(key: jax.Array, sizes: DiscriminatorSizes) -> Discriminator:
    """A discriminator with random weights, as training starts: unit variance, biases 0."""
    return Discriminator(_random_weights(key, sizes), sizes, name="random weights")


@functools.partial(jax.jit, static_argnums=1)
def _random_weights(key, sizes):
    def scaled(path, x):
        names = [entry.key for entry in path]
        if names[-1] == "bias":
            return jnp.zeros_like(x)
        return x / sizes.mapping_lr_multiplier if names[0] == "mapping" and names[1] != "embed" else x

    return jax.tree.map_with_path(scaled, ops.random_tree(key, param_shapes(sizes)))


def save(path: str | os.PathLike, D: Discriminator, meta: dict[str, Any] | None = None) -> None:
    """Write a discriminator with its sizes as `.npz`; `meta` adds source, licence and the like.

    Raises:
      OSError: if the file cannot be written.
    """
    record = {"kind": D.sizes.kind, "name": D.name, "sizes": dataclasses.asdict(D.sizes)}
    store.save(path, {"params": jax.device_get(D.params)}, {**(meta or {}), **record})


def load(path: str | os.PathLike) -> Discriminator:
    """Read a discriminator written by `save`.

    Raises:
      CheckpointError: if the file is missing, damaged, or holds no discriminator of these sizes.
    """
    tree, meta = store.load(path)
    if meta.get("kind") != DiscriminatorSizes.kind:
        raise CheckpointError(f"{path}: holds a {meta.get('kind', 'tree of unknown kind')!r}, not a discriminator")
    record = dict(meta["sizes"])
    record["channels"] = tuple((r, c) for r, c in record["channels"])
    record["resample_filter"] = tuple(record["resample_filter"])
    sizes = DiscriminatorSizes(**record)
    if jax.tree.map(jnp.shape, tree["params"]) != param_shapes(sizes):
        raise CheckpointError(f"{path}: its weights have other shapes than its sizes say; convert the checkpoint again")
    return Discriminator(jax.tree.map(jnp.asarray, tree["params"]), sizes, name=meta.get("name") or os.fspath(path))


def _conv(sizes, p, x, down=False, gain=1.0):
    """Equalised convolution, + bias, leaky ReLU, clamp; halves the size if `down`."""
    kernel = p["weight"]
    y = ops.downsample_conv(x, kernel, sizes.resample_filter) if down else ops.conv(x, kernel)
    y = ops.leaky_relu(y * ops.fan_in_scale(kernel) + ops.per_channel(p["bias"])) * gain
    return y if sizes.conv_clamp is None else jnp.clip(y, -sizes.conv_clamp * gain, sizes.conv_clamp * gain)


def _block(sizes, p, x, picture):
    if "fromrgb" in p:
        y = _conv(sizes, p["fromrgb"], picture)
        x = y if x is None else x + y
        if sizes.architecture == "skip":
            picture = ops.downsample2d(picture, sizes.resample_filter)
    if sizes.architecture != "resnet":
        return _conv(sizes, p["conv1"], _conv(sizes, p["conv0"], x), down=True), picture
    gain = 0.5**0.5
    kernel = p["skip"]["weight"]
    shortcut = ops.downsample_conv(x, kernel, sizes.resample_filter) * (ops.fan_in_scale(kernel) * gain)
    return _conv(sizes, p["conv1"], _conv(sizes, p["conv0"], x), down=True, gain=gain) + shortcut, picture


def _last_block(sizes, p, x, picture):
    """(B, 4, 4, C) -> (B, 1 or label_features)."""
    if "fromrgb" in p:
        x = x + _conv(sizes, p["fromrgb"], picture)
    if sizes.deviation_channels:
        x = jnp.concatenate([x, minibatch_deviation(x, sizes.deviation_group, sizes.deviation_channels)], axis=-1)
    x = _conv(sizes, p["conv"], x)
    x = ops.leaky_relu(ops.dense(p["fc"], x.reshape(x.shape[0], -1)))
    return ops.dense(p["out"], x)


def minibatch_deviation(x: jax.Array, group: int = 4, channels: int = 1) -> jax.Array:
    """Mean over features and pixels of the standard deviation within a group of images.

    Args:
      x: (B, H, W, C).
      group: images of a group, at most B; 0 for all of them. B must be a multiple.
      channels: into how many parts C is cut, each with its own mean.

    Returns:
      (B, H, W, channels), the same for every image of a group.

    Raises:
      ConfigError: if B is no multiple of the group, or C none of `channels`.
    """
    b, h, w, c = x.shape
    group = min(group, b) if group else b
    if b % group or c % channels:
        raise ConfigError(f"a batch of {b} x {c} channels does not divide into groups of {group} x {channels}")
    y = x.reshape(group, b // group, h, w, channels, c // channels)
    deviation = jnp.sqrt(jnp.var(y, axis=0) + 1e-8).mean(axis=(1, 2, 4))
    deviation = jnp.tile(deviation, (group, 1))
    return jnp.broadcast_to(deviation[:, None, None, :], (b, h, w, channels))


def _map_labels(sizes, p, labels):
    """(B, label_dim) -> (B, label_features)."""
    x = ops.normalize_second_moment(ops.dense(p["embed"], labels))
    for n in range(sizes.mapping_layers):
        x = ops.leaky_relu(ops.dense(p[f"fc{n}"], x, sizes.mapping_lr_multiplier))
    return x
