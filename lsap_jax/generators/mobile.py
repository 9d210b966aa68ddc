"""MobileStyleGAN (Belousov 2021, arXiv 2104.04767): StyleGAN2 distilled into separable convolutions and wavelets.

The mapping network is StyleGAN2's, so its W is the teacher's W. Synthesis has one block for each resolution 4, 8, ...,
resolution / 2, and a last one that makes the image's wavelet bands:

    block 0         constant, styled 3x3 convolution
    block k >= 1    times style, inverse wavelet step (twice the size, a quarter of the channels),
                    two styled separable convolutions a and b
    last block      times style, 1x1 convolution to 12 bands; `to_image` is their inverse wavelet step

A styled convolution is: times style, kernel, + strength * noise + bias, leaky ReLU of slope 0.2 and gain 1.
Demodulation does not depend on the style (it was trained in, then folded into the kernels).

W+ has one row a convolution, as a StyleGAN2 of half the resolution has, so that layer ranges of the literature carry
over: row 0 styles block 0; row 2k - 1 the wavelet step and convolution a of block k, row 2k its convolution b; the last
row the last block.
"""

import dataclasses
import functools
import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lsap_jax.errors import ConfigError
from lsap_jax.generators import ops
from lsap_jax.generators import previews as heads
from lsap_jax.generators.base import Features
from lsap_jax.generators.wavelet import inverse_haar

SLOPE = 0.2  # of every leaky ReLU


@dataclasses.dataclass(frozen=True)
class MobileStyleGAN:
    """Sizes of a generator, and its functions over a tree of params (lsap_jax/generators/base.py: Architecture).

    Attributes:
      channels: at 4, 8, ..., resolution / 2 pixels; each a multiple of 4.
      z_dim: length of z.
      w_dim: length of w.
      mapping_layers: linear layers of the mapping network.
      activation_dtype: of the synthesis network's feature maps; "bfloat16" suits accelerators.
    """

    channels: tuple[int, ...] = (512, 512, 512, 512, 512, 256, 128, 64)
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    activation_dtype: str = "float32"

    kind: ClassVar[str] = "mobile-stylegan"

    def __post_init__(self):
        if not self.channels or any(c < 4 or c % 4 for c in self.channels):
            raise ConfigError(f"channels {self.channels}: each must be a multiple of 4, as wavelet steps quarter them")

    @property
    def label_dim(self) -> int:
        """0: this family is not conditional."""
        return 0

    @property
    def resolution(self) -> int:
        """Side of the image in pixels."""
        return 4 << len(self.channels)

    @property
    def num_ws(self) -> int:
        """Rows of a W+ code."""
        return 2 * len(self.channels)

    @property
    def num_blocks(self) -> int:
        """One for each resolution, and the image's."""
        return len(self.channels) + 1

    @property
    def noise_shapes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of every noise map in the order of use: one at 4 pixels, two at every other resolution."""
        return tuple((4 << (n + 1) // 2,) * 2 for n in range(2 * len(self.channels) - 1))

    @property
    def noise_of_block(self) -> tuple[tuple[int, ...], ...]:
        """Which maps each block takes."""
        return ((0,), *((2 * k - 1, 2 * k) for k in range(1, len(self.channels))), ())

    def map(self, params: Any, z: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """(B, z_dim) -> (B, w_dim): z to unit mean square, then linear layers with leaky ReLU."""
        del labels
        x = ops.normalize_second_moment(z)
        for index in range(self.mapping_layers):
            x = _leaky_relu(_linear(params["mapping"][f"fc{index}"], x))
        return x

    def styles(self, params: Any, ws: jax.Array) -> tuple[jax.Array, ...]:
        """(B, num_ws, w_dim) -> (B, C) vectors: convolution of block 0; wavelet step, a, b of each block; image."""
        synthesis = params["synthesis"]
        affine = [synthesis["b4"]["conv"]["affine"]]
        for index in range(1, len(self.channels)):
            block = synthesis[self._name(index)]
            affine += [block["up"], block["conv_a"]["affine"], block["conv_b"]["affine"]]
        affine.append(synthesis["image"]["affine"])
        return tuple(_linear(a, ws[:, row]) for a, row in zip(affine, self.alignment_rows, strict=True))

    def alignment_styles(self, styles: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """All of them."""
        return styles

    @property
    def alignment_rows(self) -> tuple[int, ...]:
        """0; then for every block its wavelet step's and convolution a's, and convolution b's; the image's."""
        middle = ((2 * k - 1, 2 * k - 1, 2 * k) for k in range(1, len(self.channels)))
        return (0, *itertools.chain.from_iterable(middle), self.num_ws - 1)

    def initial_features(self, params: Any, batch: int) -> Features:
        """The constant input, (B, 4, 4, C)."""
        const = params["synthesis"]["b4"]["const"].astype(self.activation_dtype)
        return Features(x=jnp.broadcast_to(const[None], (batch, *const.shape)))

    def run_block(
        self,
        params: Any,
        index: int,
        features: Features,
        styles: tuple[jax.Array, ...],
        noise: tuple[jax.Array | None, ...],
    ) -> Features:
        """Block `index`: features (B, h, w, C) -> (B, 2h, 2w, C'); 12 float32 bands at the same size from the last."""
        block, x = params["synthesis"][self._name(index)], features.x
        if index == 0:
            x = _styled(block["conv"], x, styles[0], noise[0])
        elif index < len(self.channels):
            up, a, b = styles[3 * index - 2 : 3 * index + 1]
            x = inverse_haar(_modulate(x, up))
            x = _styled(block["conv_a"], x, a, noise[0])
            x = _styled(block["conv_b"], x, b, noise[1])
        else:
            # In float32 whatever the activations are: eight bits of mantissa would show in the image.
            x = _modulate(x.astype(jnp.float32), styles[-1]) @ block["weight"] + ops.per_channel(block["bias"])
        return Features(x=x)

    def to_image(self, params: Any, features: Features) -> jax.Array:
        """12 bands -> (B, resolution, resolution, 3) float32."""
        del params
        return inverse_haar(features.x)

    def preview_blocks(self, previews: dict[str, Any]) -> dict[int, int]:
        """The sides that `previews` has heads for; the one of side r reads the block at r / 2 pixels."""
        return {int(side): (int(side) // 8).bit_length() for side in previews}

    def preview(self, previews: dict[str, Any], side: int, features: Features, ws: jax.Array) -> jax.Array:
        """What a head makes of the features, and of the rows of W+ that the blocks left out would read."""
        row = 2 * self.preview_blocks(previews)[side] - 1
        return heads.render(previews[str(side)], features.x, ws[:, row:])

    def _name(self, index: int) -> str:
        return f"b{4 << index}" if index < len(self.channels) else "image"


def from_record(record: dict[str, Any]) -> MobileStyleGAN:
    """The architecture that `base.architecture_record` described.

    Raises:
      ConfigError: if a field is unknown, missing or impossible.
    """
    fields = {k: v for k, v in record.items() if k != "kind"}
    try:
        fields["channels"] = tuple(int(c) for c in fields["channels"])
        return MobileStyleGAN(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"not a record of a MobileStyleGAN: {error}") from error


def param_shapes(arch: MobileStyleGAN) -> dict[str, Any]:
    """The params tree with shapes for leaves."""

    def linear(i, o):
        return {"weight": (i, o), "bias": (o,)}

    def styled(i, o, kernels):
        return {"affine": linear(arch.w_dim, i), **kernels, "bias": (o,), "noise_strength": ()}

    def separable(i, o):
        return styled(i, o, {"depthwise": (3, 3, i), "pointwise": (i, o)})

    widths = [arch.z_dim, *[arch.w_dim] * arch.mapping_layers]
    mapping = {f"fc{index}": linear(i, o) for index, (i, o) in enumerate(itertools.pairwise(widths))}
    first, last = arch.channels[0], arch.channels[-1]
    synthesis: dict[str, Any] = {
        "b4": {"const": (4, 4, first), "conv": styled(first, first, {"weight": (3, 3, first, first)})}
    }
    for index, (i, o) in enumerate(itertools.pairwise(arch.channels), start=1):
        synthesis[f"b{4 << index}"] = {
            "up": linear(arch.w_dim, i),
            "conv_a": separable(i // 4, o),
            "conv_b": separable(o, o),
        }
    synthesis["image"] = {"affine": linear(arch.w_dim, last), **linear(last, 12)}
    return {"mapping": mapping, "synthesis": synthesis}


def _styled(conv: Any, x: jax.Array, style: jax.Array, noise: jax.Array | None) -> jax.Array:
    """A styled convolution, dense or separable: (B, h, w, C) -> (B, h, w, C')."""
    x = _modulate(x, style)
    if "weight" in conv:
        y = ops.conv(x, conv["weight"]).astype(x.dtype)
    else:
        y = _depthwise(x, conv["depthwise"].astype(x.dtype)) @ conv["pointwise"].astype(x.dtype)
    if noise is not None:
        y = y + (conv["noise_strength"] * noise).astype(x.dtype)
    return _leaky_relu(y + ops.per_channel(conv["bias"]).astype(x.dtype))


def _depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 filter of every channel by itself, zero padding: (B, h, w, C), (3, 3, C) -> (B, h, w, C).

    As nine shifted multiply-adds, which XLA fuses into one pass: on CPU several times faster than a grouped
    convolution. Each tap pads for itself on purpose. Forward, XLA makes one padded array of the nine; backward, every
    tap's cotangent is cut to size before the sum, so that the sum fuses too, where one shared pad would keep nine
    padded arrays in memory (1.6 times the time of the gradient, 1.6 times its memory).
    """
    h, w = x.shape[1:3]

    def tap(i, j):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return padded[:, i : i + h, j : j + w] * kernel[i, j][None, None, None]

    return functools.reduce(jnp.add, (tap(i, j) for i in range(3) for j in range(3)))


def _modulate(x: jax.Array, style: jax.Array) -> jax.Array:
    return x * ops.per_channel(style).astype(x.dtype)


def _linear(layer: Any, x: jax.Array) -> jax.Array:
    return x @ layer["weight"] + layer["bias"][None]


def _leaky_relu(x: jax.Array) -> jax.Array:
    """Slope 0.2, and gain 1: not the one of `ops`."""
    return jnp.where(x >= 0, x, SLOPE * x)
