"""Encoders: an image in, a W+ code out. One description, `EncoderArch`, builds them all.

arch = EncoderArch(head="e4e", num_ws=G.num_ws)              # e4e and LSAP
arch = EncoderArch(head="psp")                               # pSp
arch = EncoderArch(head="e4e", levels="last", input="rgb+render")              # ReStyle
arch = EncoderArch("resnet", head="pooled", input="rgb+mask", start="zero")    # latent-composition
arch = EncoderArch("idinvert", head="dense", start="zero", num_ws=14)          # IDInvert

net = module(arch)                                           # for training: offsets from the start
variables = net.init(key, jnp.zeros((1, 256, 256, 3)))
E = Encoder(variables, start=G.broadcast(G.w_avg[None])[0], arch=arch)
ws = E(images)
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from lsap_jax.data import resize
from lsap_jax.errors import ConfigError, ImageError
from lsap_jax.networks import dlib_trunk, encoder_heads, idinvert_encoder, ir_se, resnet
from lsap_jax.networks.ir_se import Stage

# Name -> module and the stages it has in the literature.
TRUNKS: dict[str, tuple[Any, tuple[Stage, ...]]] = {
    "ir-se": (ir_se.Backbone, ir_se.IR_SE50),
    "dlib": (dlib_trunk.DlibTrunk, dlib_trunk.STAGES),
    "resnet": (resnet.ResNet, resnet.RESNET34),
    "idinvert": (idinvert_encoder.IdinvertTrunk, idinvert_encoder.STAGES),
}
INPUTS = {"rgb": 3, "rgb+render": 6, "rgb+mask": 4}  # channels
_CHOICES = {
    "trunk": tuple(TRUNKS),
    "head": ("psp", "e4e", "w", "w+", "pooled", "dense"),
    "levels": ("pyramid", "last"),
    "input": tuple(INPUTS),
    "start": ("w_avg", "zero"),
}


@dataclasses.dataclass(frozen=True)
class EncoderArch:
    """What an encoder is made of; static and hashable.

    Attributes:
      trunk: "ir-se", "dlib" (can start from weights that know faces: `dlib_trunk.pretrained_params`), "resnet" or
        "idinvert".
      stages: of the trunk, widths and depths; empty: those it has in the literature (IR-SE50, ResNet-34, ...).
      head: "psp", "e4e" (LSAP too), "w", "w+", "pooled" (latent-composition) or "dense" (IDInvert).
      levels: of the heads psp and e4e: "pyramid", or "last": all rows from the trunk's last map (ReStyle).
      input: "rgb"; "rgb+render": the image and the render of the code so far (ReStyle); "rgb+mask": x m and m, where
        m is 1 for known pixels and 0 for others.
      resolution: side of the input in pixels.
      num_ws: rows of the code.
      w_dim: length of a row.
      width: channels inside the heads' networks.
      delta_width: of those that make e4e's deltas; 0: the same.
      start: "w_avg": outputs are offsets from the generator's mean code; "zero": they are the code.

    Raises:
      ConfigError: if a field has an unknown name or an impossible number.
    """

    trunk: str = "ir-se"
    stages: tuple[Stage, ...] = ()
    head: str = "e4e"
    levels: str = "pyramid"
    input: str = "rgb"
    resolution: int = 256
    num_ws: int = 18
    w_dim: int = 512
    width: int = 512
    delta_width: int = 0
    start: str = "w_avg"

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise ConfigError(f"encoder {field} {getattr(self, field)!r}: one of {', '.join(choices)}")
        stages = self.stages or TRUNKS[self.trunk][1]
        try:
            stages = tuple(Stage(int(width), int(units)) for width, units in stages)
        except (TypeError, ValueError):
            raise ConfigError(f"encoder stages {self.stages!r}: pairs (width, units)") from None
        if len(stages) < 3 or min(min(stage) for stage in stages) < 1:
            raise ConfigError(f"encoder stages {stages}: at least three pairs (width, units) of positive numbers")
        if self.trunk == "dlib" and list(stages) != sorted(stages, key=lambda stage: stage.width):
            raise ConfigError(f"encoder stages {stages}: the dlib trunk's widths must not fall")
        object.__setattr__(self, "stages", stages)
        for field, least in {"resolution": 16, "num_ws": 1, "w_dim": 1, "width": 1, "delta_width": 0}.items():
            if getattr(self, field) < least:
                raise ConfigError(f"encoder {field} {getattr(self, field)}: at least {least}")

    @property
    def channels(self) -> int:
        """Of the network's input."""
        return INPUTS[self.input]

    @property
    def has_stages(self) -> bool:
        """Whether rows can be opened one after the other."""
        return self.head == "e4e"


class EncoderNet(nn.Module):
    """Trunk and head. Its output is relative to the encoder's start.

    Attributes:
      arch: the description.
      dtype: of the convolutions' arithmetic; weights, statistics and the output are float32.
    """

    arch: EncoderArch
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, stage: jax.Array | None = None) -> jax.Array:
        """Compute offsets.

        Args:
          x: (B, R, R, C) at the description's resolution, as from `network_input`.
          train: normalise by the batch, and update the running statistics.
          stage: (e4e, ignored by others) the last row that has a delta, an int32 scalar, traced; None: all have.

        Returns:
          (B, num_ws, w_dim).

        Raises:
          ImageError: if the input has another size.
          ConfigError: if the trunk leaves no pixel of this resolution.
        """
        arch, wanted = self.arch, (self.arch.resolution, self.arch.resolution, self.arch.channels)
        if x.ndim != 4 or x.shape[1:] != wanted:
            # More pixels would leave the heads' networks with more than one.
            raise ImageError(f"input of shape {x.shape}: this encoder takes (B, {', '.join(map(str, wanted))})")
        taps = TRUNKS[arch.trunk][0](arch.stages, self.dtype, name="trunk")(x, train)
        if 0 in taps[-1].shape:
            raise ConfigError(
                f"encoder resolution {arch.resolution}: too few pixels for the trunk's {len(arch.stages)} stages"
            )
        return self._head()(taps, train, stage).astype(jnp.float32)

    def _head(self) -> nn.Module:
        arch = self.arch
        rows = {"num_ws": arch.num_ws, "w_dim": arch.w_dim, "name": "head"}
        match arch.head:
            case "w":
                return encoder_heads.WHead(**rows)
            case "w+":
                return encoder_heads.WPlusHead(width=arch.width, dtype=self.dtype, **rows)
            case "pooled":
                return encoder_heads.PooledHead(**rows)
            case "dense":
                return encoder_heads.DenseHead(**rows)
        return encoder_heads.RowsHead(
            width=arch.width,
            delta_width=arch.delta_width or arch.width,
            deltas=arch.head == "e4e",
            pyramid=arch.levels == "pyramid",
            dtype=self.dtype,
            **rows,
        )


def module(arch: EncoderArch, dtype: Any = jnp.float32) -> EncoderNet:
    """The Linen module of a description."""
    return EncoderNet(arch, dtype)


def network_input(
    arch: EncoderArch, images: jax.Array, render: jax.Array | None = None, mask: jax.Array | None = None
) -> jax.Array:
    """What the network of `arch` takes: channels put together, brought to its resolution by box means.

    Args:
      arch: the description.
      images: (B, S, S, 3) floats in [-1, 1], S a whole multiple of the resolution.
      render: the code so far rendered, likewise; for "rgb+render".
      mask: (B, S, S, 1), 1 where a pixel is known and 0 where not; for "rgb+mask", where None knows all.

    Returns:
      (B, resolution, resolution, C).

    Raises:
      ImageError: if an array has another shape, or holds integers.
      ConfigError: if the render is missing, or something is given that this encoder does not take.
    """
    x = _sized(arch, resize.as_images(images), "images")
    if (render is None) != (arch.input != "rgb+render"):
        problem = "needs `render`, the code so far rendered," if render is None else "takes no `render`"
        raise ConfigError(f"this encoder (input {arch.input!r}) {problem} beside the images")
    if mask is not None and arch.input != "rgb+mask":
        raise ConfigError(f"this encoder (input {arch.input!r}) takes no `mask`; one with input 'rgb+mask' does")
    if render is not None:
        render = _sized(arch, resize.as_images(render, "renders"), "renders")
        return jnp.concatenate([resize.area(x, arch.resolution), resize.area(render, arch.resolution)], -1)
    if arch.input == "rgb+mask":
        mask = jnp.ones((*x.shape[:3], 1)) if mask is None else jnp.asarray(mask, jnp.float32)
        if mask.shape != (*x.shape[:3], 1):
            raise ImageError(f"mask has shape {mask.shape}; beside images {x.shape} it must be {(*x.shape[:3], 1)}")
        x = jnp.concatenate([x * mask, mask], -1)
    return resize.area(x, arch.resolution)


def _sized(arch: EncoderArch, images: jax.Array, name: str) -> jax.Array:
    _, h, w, _ = images.shape
    if h != w or h < arch.resolution or h % arch.resolution:
        side = arch.resolution
        raise ImageError(
            f"{name} of {w} x {h} pixels: this encoder takes {side} x {side}, or squares of a whole multiple of that; "
            "resize or crop them first"
        )
    return images


class Encoder(flax.struct.PyTreeNode):
    """A trained encoder in evaluation mode; a pytree: pass it to jitted functions as an argument.

    Attributes:
      variables: of `module(arch)`: {"params": ..., "batch_stats": ... (where the network has norms)}.
      start: (num_ws, w_dim) what outputs are added to: the generator's mean code, or zeros.
      arch: the description.
      name: where it came from, for messages and records.
      generator: fingerprint of the generator whose codes these are, or "" where that is not known.
    """

    variables: Any
    start: jax.Array
    arch: EncoderArch = flax.struct.field(pytree_node=False)
    name: str = flax.struct.field(pytree_node=False, default="")
    generator: str = flax.struct.field(pytree_node=False, default="")

    def __call__(
        self,
        images: jax.Array,
        render: jax.Array | None = None,
        mask: jax.Array | None = None,
        stage: jax.Array | int | None = None,
    ) -> jax.Array:
        """Encode images.

        Args:
          images: (B, S, S, 3) floats in [-1, 1]; S is `arch.resolution` or a whole multiple, brought down by box means.
          render: (ReStyle) the code so far rendered, sized likewise; `embed.encode` iterates.
          mask: (latent-composition) (B, S, S, 1), 1 where a pixel is known.
          stage: (e4e) the last row that may differ from row 0; None: all may.

        Returns:
          (B, num_ws, w_dim): `start` plus the network's output.

        Raises:
          ImageError: if an array has another size.
          ConfigError: if a render or mask is missing or not wanted.
        """
        return self.start[None] + _offsets(self, images, render, mask, stage)

    def offsets(
        self,
        images: jax.Array,
        render: jax.Array | None = None,
        mask: jax.Array | None = None,
        stage: jax.Array | int | None = None,
    ) -> jax.Array:
        """What a call adds to `start`; arguments and errors as there."""
        return _offsets(self, images, render, mask, stage)


@jax.jit
def _offsets(
    E: Encoder, images: jax.Array, render: jax.Array | None, mask: jax.Array | None, stage: jax.Array | None
) -> jax.Array:
    x = network_input(E.arch, images, render, mask)
    offsets: Any = module(E.arch).apply(E.variables, x, stage=stage)
    return offsets
