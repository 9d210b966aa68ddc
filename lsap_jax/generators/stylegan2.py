"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958; ADA variant 2006.06676): mapping and synthesis networks.

One block for each resolution 4, 8, ..., `resolution`: `conv0` doubles the size (the 4-pixel block has a learned
constant instead), `conv1` keeps it, `torgb` makes a picture. What joins the blocks is the architecture:

    skip      every block has a torgb; the picture so far is upsampled and added (config-f and most published nets)
    resnet    a 1x1 upsampling shortcut around each block, and a torgb in the last
    orig      a torgb in the last block only

Rows of W+: row 0 styles conv1 of the first block; rows 2k - 1 and 2k conv0 and conv1 of block k; a torgb uses the row
after its block's conv1, which is also the next block's conv0's. Both public implementations agree on this and on the
numbers: weights are stored "equalised" (unit variance, scaled by 1/sqrt(fan-in) when used), as training and tuning of
weights need it.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.errors import ConfigError
from lsap_jax.generators import ops
from lsap_jax.generators.base import Features, Generator

ARCHITECTURES = ("skip", "resnet", "orig")


class Layer(NamedTuple):
    """A modulated layer: where its params are, and the row of W+ that styles it."""

    block: str
    name: str
    row: int


@dataclasses.dataclass(frozen=True)
class StyleGAN2:
    """Sizes of a StyleGAN2 generator, and its functions over a params tree (see generators/base.py).

    Attributes:
      resolution: side of the image in pixels, a power of two from 8.
      channels: ((4, C), (8, C), ..., (resolution, C)), the width of each block.
      z_dim: length of z.
      w_dim: length of w, and the width of the mapping network.
      label_dim: classes of a conditional generator, else 0.
      mapping_layers: depth of the mapping network.
      architecture: "skip", "resnet" or "orig".
      resample_filter: taps of the up- and downsampling filter, of any scale.
      conv_clamp: bound of activations (networks trained in float16 have 256), or None.
      mapping_lr_multiplier: factor on the mapping network's weights.
      activation_dtype: dtype of the convolutions' inputs, "float32" or "bfloat16"; all else is float32.
    """

    resolution: int
    channels: tuple[tuple[int, int], ...]
    z_dim: int = 512
    w_dim: int = 512
    label_dim: int = 0
    mapping_layers: int = 8
    architecture: str = "skip"
    resample_filter: tuple[float, ...] = (1.0, 3.0, 3.0, 1.0)
    conv_clamp: float | None = None
    mapping_lr_multiplier: float = 0.01
    activation_dtype: str = "float32"

    kind: ClassVar[str] = "stylegan2"

    def __post_init__(self):
        r = self.resolution
        if r < 8 or r & (r - 1):
            raise ConfigError(f"resolution {r}: StyleGAN2 takes a power of two from 8")
        if [size for size, _ in self.channels] != list(self.resolutions):
            raise ConfigError(f"channels {self.channels}: give one (size, width) for each of {self.resolutions}")
        if self.architecture not in ARCHITECTURES:
            raise ConfigError(f"architecture {self.architecture!r}: use one of {ARCHITECTURES}")
        if self.activation_dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"activation_dtype {self.activation_dtype!r}: use 'float32' or 'bfloat16'")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, ..., `resolution`."""
        return tuple(1 << n for n in range(2, self.resolution.bit_length()))

    @property
    def num_blocks(self) -> int:
        """One for each resolution."""
        return len(self.resolutions)

    @property
    def num_ws(self) -> int:
        """Rows of W+: 2 log2(resolution) - 2."""
        return 2 * self.num_blocks

    @property
    def noise_shapes(self) -> tuple[tuple[int, int], ...]:
        """One map a convolution: 4, 8, 8, 16, 16, ... pixels square."""
        return tuple((r, r) for r in self.resolutions for _ in range(1 if r == 4 else 2))

    @property
    def noise_of_block(self) -> tuple[tuple[int, ...], ...]:
        """Indices of each block's maps."""
        return ((0,), *((2 * k - 1, 2 * k) for k in range(1, self.num_blocks)))

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every modulated layer in the order of use."""
        found = []
        for k, r in enumerate(self.resolutions):
            names = ["conv1"] if k == 0 else ["conv0", "conv1"]
            if self.architecture == "skip" or r == self.resolution:
                names.append("torgb")
            found += [
                Layer(f"b{r}", name, {"conv0": 2 * k - 1, "conv1": 2 * k, "torgb": 2 * k + 1}[name]) for name in names
            ]
        return tuple(found)

    def map(self, params: Any, z: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """(B, z_dim), and (B, label_dim) if conditional -> (B, w_dim), without truncation."""
        mapping = params["mapping"]
        x = ops.normalize_second_moment(z)
        if self.label_dim:
            if labels is None:
                raise ConfigError(f"a conditional generator of {self.label_dim} classes needs labels")
            embedded = ops.dense(mapping["embed"], labels)
            x = jnp.concatenate([x, ops.normalize_second_moment(embedded)], axis=-1)
        for i in range(self.mapping_layers):
            x = ops.leaky_relu(ops.dense(mapping[f"fc{i}"], x, self.mapping_lr_multiplier))
        return x

    def styles(self, params: Any, ws: jax.Array) -> tuple[jax.Array, ...]:
        """(B, num_ws, w_dim) -> the style (B, C_l) of every layer of `layers`."""
        synthesis = params["synthesis"]
        return tuple(ops.dense(synthesis[block][name]["affine"], ws[:, row]) for block, name, row in self.layers)

    def alignment_styles(self, styles: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """The styles of every convolution, then the last torgb's: one for each row of W+, as LSAP has it."""
        last = len(self.layers) - 1
        return tuple(s for i, s in enumerate(styles) if self.layers[i].name != "torgb" or i == last)

    @property
    def alignment_rows(self) -> tuple[int, ...]:
        """Each row in turn."""
        return tuple(range(self.num_ws))

    def initial_features(self, params: Any, batch: int) -> Features:
        """The learned constant (B, 4, 4, C), and no picture."""
        const = params["synthesis"]["b4"]["const"].astype(self.activation_dtype)
        return Features(x=jnp.broadcast_to(const, (batch, *const.shape)))

    def run_block(
        self,
        params: Any,
        index: int,
        features: Features,
        styles: tuple[jax.Array, ...],
        noise: tuple[jax.Array | None, ...],
    ) -> Features:
        """Block `index` -> x (B, r, r, C) in the activation dtype, and the picture (B, r, r, 3) in float32."""
        block = f"b{self.resolutions[index]}"
        p = params["synthesis"][block]
        style = {layer.name: s for layer, s in zip(self.layers, styles, strict=True) if layer.block == block}
        x, image = features.x, features.image
        if index == 0:
            x = self._layer(p["conv1"], x, style["conv1"], noise[0])
        else:
            gain = 0.5**0.5 if self.architecture == "resnet" else 1.0
            y = self._layer(p["conv0"], x, style["conv0"], noise[0], upsample=True)
            y = self._layer(p["conv1"], y, style["conv1"], noise[1], gain=gain)
            if self.architecture == "resnet":
                y = (y + self._shortcut(p["skip"]["weight"], x) * gain).astype(y.dtype)
            x = y
        if "torgb" in style:
            picture = self._to_rgb(p["torgb"], x, style["torgb"])
            image = picture if image is None else ops.upsample2d(image, self.resample_filter) + picture
        return Features(x=x, image=image)

    def to_image(self, params: Any, features: Features) -> jax.Array:
        """The picture after the last block, (B, resolution, resolution, 3)."""
        if features.image is None:
            raise ConfigError(f"no picture yet: a {self.architecture!r} generator makes it in its last block")
        return features.image

    def preview_blocks(self, previews: dict[str, Any]) -> dict[int, int]:
        """Every smaller side, where there is a skip sum."""
        del previews
        return {r: k for k, r in enumerate(self.resolutions[:-1], start=1)} if self.architecture == "skip" else {}

    def preview(self, previews: dict[str, Any], side: int, features: Features, ws: jax.Array) -> jax.Array:
        """The skip sum so far, (B, side, side, 3)."""
        del side, ws
        return self.to_image(previews, features)

    def _layer(self, p, x, style, noise, upsample=False, gain=1.0):
        """Modulated convolution, + noise, + bias, leaky ReLU."""
        kernel = p["weight"]
        x = (x * ops.per_channel(style)).astype(self.activation_dtype)
        y = ops.upsample_conv(x, kernel, self.resample_filter) if upsample else ops.conv(x, kernel)
        y = y.astype(jnp.float32) * ops.per_channel(ops.demodulation(kernel, style))
        if noise is not None:
            y = y + noise * p["noise_strength"]
        y = ops.leaky_relu(y + ops.per_channel(p["bias"])) * gain
        return self._clamped(y, gain).astype(self.activation_dtype)

    def _to_rgb(self, p, x, style):
        """Modulated 1x1 convolution without demodulation, + bias; in float32."""
        kernel = p["weight"][0, 0]
        kernel = style[:, :, None] * (kernel * kernel.shape[0] ** -0.5)[None]
        return self._clamped(ops.conv_to_rgb(x, kernel) + ops.per_channel(p["bias"]))

    def _shortcut(self, kernel, x):
        y = ops.conv(x, kernel).astype(jnp.float32)
        return ops.upsample2d(y, self.resample_filter) * ops.fan_in_scale(kernel)

    def _clamped(self, x, gain=1.0):
        return x if self.conv_clamp is None else jnp.clip(x, -self.conv_clamp * gain, self.conv_clamp * gain)


def from_record(record: dict[str, Any]) -> StyleGAN2:
    """The architecture that `base.architecture_record` described.

    Raises:
      ConfigError: if a field is unknown, missing or impossible.
    """
    fields = {k: v for k, v in record.items() if k != "kind"}
    fields["channels"] = tuple((int(r), int(c)) for r, c in fields["channels"])
    fields["resample_filter"] = tuple(float(t) for t in fields["resample_filter"])
    try:
        return StyleGAN2(**fields)
    except TypeError as error:
        raise ConfigError(f"not a record of a StyleGAN2: {error}") from error


def param_shapes(arch: StyleGAN2) -> dict[str, Any]:
    """The params tree with shapes for leaves."""

    def linear(i, o):
        return {"weight": (i, o), "bias": (o,)}

    def modulated(i, o, size):
        return {"weight": (size, size, i, o), "bias": (o,), "affine": linear(arch.w_dim, i)}

    mapping = {"embed": linear(arch.label_dim, arch.w_dim)} if arch.label_dim else {}
    width = arch.z_dim + (arch.w_dim if arch.label_dim else 0)
    for i in range(arch.mapping_layers):
        mapping[f"fc{i}"] = linear(width if i == 0 else arch.w_dim, arch.w_dim)

    channels = dict(arch.channels)
    synthesis: dict[str, Any] = {f"b{r}": {} for r in arch.resolutions}
    for block, name, _ in arch.layers:
        r = int(block[1:])
        o = channels[r]
        if name == "torgb":
            synthesis[block][name] = modulated(o, 3, 1)
        else:
            i = channels[r // 2] if name == "conv0" else o
            synthesis[block][name] = {**modulated(i, o, 3), "noise_strength": ()}
    synthesis["b4"]["const"] = (4, 4, channels[4])
    if arch.architecture == "resnet":
        for r in arch.resolutions[1:]:
            synthesis[f"b{r}"]["skip"] = {"weight": (1, 1, channels[r // 2], channels[r])}
    return {"mapping": mapping, "synthesis": synthesis}


def init(key: jax.Array, arch: StyleGAN2) -> Generator:
    """A generator with random weights, as training starts: unit variance, style biases 1, others and noise strengths 0.

    `w_avg` is estimated from 10,000 samples.
    """
    params, noise = _random_weights(key, arch)
    return Generator(params, mean_w(arch, params, 10_000), noise, arch, name="random weights")


@functools.partial(jax.jit, static_argnums=1)
def _random_weights(key, arch):
    def scaled(path, x):
        names = [entry.key for entry in path]
        if names[-1] in ("bias", "noise_strength"):
            return jnp.full_like(x, 1.0 if names[-2] == "affine" else 0.0)
        return x / arch.mapping_lr_multiplier if names[0] == "mapping" and names[1] != "embed" else x

    weights, noise = ops.random_tree(key, [param_shapes(arch), list(arch.noise_shapes)])
    return jax.tree.map_with_path(scaled, weights), tuple(noise)


def mean_w(arch: StyleGAN2, params: Any, num_samples: int = 100_000, seed: int = 0) -> jax.Array:
    """(w_dim,) mean of w over z ~ N(0, I), and over classes drawn uniformly if conditional; in chunks of 2,000."""
    chunk = min(2000, num_samples)
    total = np.zeros(arch.w_dim)
    for key in jax.random.split(jax.random.key(seed), -(-num_samples // chunk)):
        total += np.asarray(_sum_w(arch, params, key, chunk), np.float64)
    return jnp.asarray(total / (chunk * -(-num_samples // chunk)), jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _sum_w(arch, params, key, num):
    z_key, label_key = jax.random.split(key)
    z = jax.random.normal(z_key, (num, arch.z_dim))
    labels = None
    if arch.label_dim:
        labels = jax.nn.one_hot(jax.random.randint(label_key, (num,), 0, arch.label_dim), arch.label_dim)
    return jnp.sum(arch.map(params, z, labels), axis=0)
