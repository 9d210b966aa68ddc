"""StyleGAN2 state dicts of the public implementations -> this package's generators and discriminators.

Both families of names become one, NVIDIA's (`synthesis.b8.conv0.affine.weight`), from whose shapes every size is
inferred: resolution, widths, depth of the mapping network, classes, resampling filter, architecture. Then every
expected tensor must be there with its shape and finite values, and nothing may be left over.

| checkpoint                       | recognised by                                  | mean of w                    |
| -------------------------------- | ---------------------------------------------- | ---------------------------- |
| NVIDIA .pkl                      | modules `G_ema`, `G`, `D`                      | `mapping.w_avg`              |
| rosinality .pt                   | `g_ema`, `g`, `d`, or a bare state dict        | `latent_avg`                 |
| pSp, e4e, ReStyle, ... .pt       | `state_dict` with `decoder.` keys              | `latent_avg`, (w) or (rows, w) |
| GANInverter .pt                  | `decoder`                                      | `encoder`'s `latent_avg`     |

Names that distributed training prefixed with `module.` are read too. A mean of w that a file lacks is computed.

Both implementations use a kernel in the same orientation, so no kernel is flipped.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.checkpoints import store, stylegan2_names
from lsap_jax.errors import CheckpointError, ConfigError
from lsap_jax.generators import stylegan2
from lsap_jax.generators.base import Generator
from lsap_jax.generators.stylegan2 import StyleGAN2
from lsap_jax.networks import discriminators
from lsap_jax.networks.discriminators import Discriminator, DiscriminatorSizes

State = dict[str, np.ndarray]
W_AVG_SAMPLES, W_AVG_SEED = 100_000, 0


def generator_from_checkpoint(obj: Any, name: str = "checkpoint") -> Generator:
    """The generator in what a checkpoint reader returned.

    Args:
      obj: {name: module} of an NVIDIA pickle, or the nested dicts of a PyTorch file.
      name: of the file, for messages and the generator's record.

    Raises:
      CheckpointError: if there is no StyleGAN2 generator in it, or a tensor is missing, unknown, of a wrong shape or
        not finite.
    """
    state, options, latent_avg = _find_generator(obj, name)
    state = stylegan2_names.nvidia_names(state, name, stylegan2_names.GENERATOR_NAMES)
    arch, params, noise, w_avg = convert_generator(state, options, name)
    w_avg = _usable_average(latent_avg if w_avg is None else w_avg, arch.w_dim, name)
    if w_avg is None:
        w_avg = stylegan2.mean_w(arch, params, W_AVG_SAMPLES, W_AVG_SEED)
    return Generator(
        params=jax.tree.map(jnp.asarray, params),
        w_avg=jnp.asarray(w_avg),
        noise=tuple(map(jnp.asarray, noise)),
        arch=arch,
        name=name,
    )


def discriminator_from_checkpoint(obj: Any, name: str = "checkpoint") -> Discriminator:
    """The discriminator in what a checkpoint reader returned (NVIDIA `D`, rosinality `d`, or a bare state dict).

    Raises:
      CheckpointError: as `generator_from_checkpoint`.
    """
    state, options = _find_discriminator(obj, name)
    state = stylegan2_names.nvidia_names(state, name, stylegan2_names.discriminator_names(state))
    sizes, params = convert_discriminator(state, options, name)
    return Discriminator(params=jax.tree.map(jnp.asarray, params), sizes=sizes, name=name)


# --- where in the file ---


def _find_generator(obj: Any, name: str) -> tuple[State, dict, Any]:
    """(state dict, constructor options or {}, mean of w or None)."""
    if not isinstance(obj, Mapping):
        raise CheckpointError(f"{name}: holds a {type(obj).__name__}, not a checkpoint of a generator")
    for key in ("G_ema", "G"):
        if _is_module(obj.get(key)):
            return dict(obj[key].state), _options(obj[key]), None
    latent_avg = obj.get("latent_avg")
    for key in ("g_ema", "g"):
        if isinstance(obj.get(key), Mapping):
            return _state(obj[key]), {}, latent_avg
    if isinstance(obj.get("decoder"), Mapping):
        if latent_avg is None and isinstance(obj.get("encoder"), Mapping):
            latent_avg = _state(obj["encoder"]).get("latent_avg")
        return _state(obj["decoder"]), {}, latent_avg
    state = _state(obj["state_dict"] if isinstance(obj.get("state_dict"), Mapping) else obj)
    decoder = {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")}
    if decoder:
        return _state(decoder), {}, latent_avg if latent_avg is not None else state.get("latent_avg")
    if "conv1.conv.weight" in state or "synthesis.b4.const" in state:
        state.pop("latent_avg", None)
        return state, {}, latent_avg
    raise CheckpointError(
        f"{name}: no StyleGAN2 generator found; its entries are {_some(obj)}. Known are NVIDIA's .pkl with G_ema, "
        "rosinality's .pt with g_ema, and pSp, e4e or GANInverter .pt with a decoder"
    )


def _find_discriminator(obj: Any, name: str) -> tuple[State, dict]:
    if isinstance(obj, Mapping):
        if _is_module(obj.get("D")):
            return dict(obj["D"].state), _options(obj["D"])
        for candidate in (obj.get("d"), obj):
            if isinstance(candidate, Mapping):
                state = _state(candidate)
                if "final_conv.0.weight" in state or "b4.conv.weight" in state:
                    return state, {}
    found = _some(obj) if isinstance(obj, Mapping) else type(obj).__name__
    raise CheckpointError(
        f"{name}: no StyleGAN2 discriminator found in {found}. Known are NVIDIA's .pkl with D and rosinality's "
        "training .pt with d; files for inference, such as pSp's or e4e's, carry none"
    )


def _is_module(value: Any) -> bool:
    return isinstance(getattr(value, "state", None), Mapping)


def _options(module: Any) -> dict[str, Any]:
    """What an NVIDIA module's weights do not show: from its layers' attributes, else its constructor's keywords."""
    options: dict[str, Any] = {}
    kwargs = dict(module.init_kwargs or {})
    for nested in ("synthesis_kwargs", "mapping_kwargs", "block_kwargs", "epilogue_kwargs"):
        options.update(kwargs.pop(nested, None) or {})
    attributes = getattr(module, "attributes", {})
    return {**kwargs, **options, **{_OPTION_PLACES[k]: v for k, v in attributes.items() if k in _OPTION_PLACES}}


_OPTION_PLACES = {
    "synthesis.b4.conv1.conv_clamp": "conv_clamp",
    "b4.conv.conv_clamp": "conv_clamp",
    "mapping.fc0.bias_gain": "lr_multiplier",
    "b4.mbstd.group_size": "mbstd_group_size",
}


def _state(tree: Mapping) -> State:
    """The arrays of a state dict, without the prefix of distributed training."""
    return {k.removeprefix("module."): np.asarray(v) for k, v in tree.items() if hasattr(v, "shape")}


def _some(names: Mapping) -> str:
    listed = sorted(map(str, names))
    return ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "")


def _usable_average(latent_avg: Any, w_dim: int, name: str) -> np.ndarray | None:
    """A stored mean of w, (w,) or the same in every row; None if there is none or the rows differ."""
    if latent_avg is None:
        return None
    rows = np.asarray(latent_avg, np.float32)
    if rows.ndim == 0 or rows.shape[-1] != w_dim or not np.isfinite(rows).all():
        raise CheckpointError(f"{name}: latent_avg has shape {rows.shape} or is not finite; w has length {w_dim}")
    rows = rows.reshape(-1, w_dim)
    return rows[0] if np.allclose(rows, rows[:1], atol=1e-6) else None


# --- sizes and values ---


def convert_generator(
    state: State, options: Mapping[str, Any], name: str
) -> tuple[StyleGAN2, dict[str, Any], list[np.ndarray], np.ndarray | None]:
    """A state dict in NVIDIA's names -> (architecture, params, noise maps, mean of w or None).

    Args:
      state: {"synthesis.b4.const": array, ...}.
      options: what weights do not show: `conv_clamp`, `lr_multiplier`.
      name: of the file, for messages.

    Raises:
      CheckpointError: naming the tensor that is missing, unknown, of a wrong shape or not finite.
    """
    _check_values(state, name)
    state = dict(state)
    taps = _resample_filter(state, name)
    w_avg = state.pop("mapping.w_avg", None)
    channels = {
        int(m[1]): state[key].shape[0]
        for key in state
        if state[key].ndim == 4 and (m := re.fullmatch(r"synthesis\.b(\d+)\.conv1\.weight", key))
    }
    if 4 not in channels or "mapping.fc0.weight" not in state:
        raise CheckpointError(
            f"{name}: synthesis.b4.conv1.weight or mapping.fc0.weight is missing; the file is not whole"
        )
    label_dim = state["mapping.embed.weight"].shape[1] if "mapping.embed.weight" in state else 0
    embedded = state["mapping.embed.weight"].shape[0] if label_dim else 0
    try:
        arch = StyleGAN2(
            resolution=max(channels),
            channels=tuple(sorted(channels.items())),
            z_dim=state["mapping.fc0.weight"].shape[1] - embedded,
            w_dim=state["mapping.fc0.weight"].shape[0],
            label_dim=label_dim,
            mapping_layers=sum(1 for k in state if re.fullmatch(r"mapping\.fc\d+\.weight", k)),
            architecture=_architecture(state),
            resample_filter=taps,
            conv_clamp=_optional_float(options.get("conv_clamp")),
            mapping_lr_multiplier=float(options.get("lr_multiplier", 0.01)),
        )
    except ConfigError as error:
        raise CheckpointError(f"{name}: not a whole StyleGAN2: {error}") from error
    noise = []
    for block, layer, _ in arch.layers:
        if layer != "torgb":
            key = f"synthesis.{block}.{layer}.noise_const"
            noise.append(_taken(state, key, (int(block[1:]),) * 2, name))
    params = _filled(state, stylegan2.param_shapes(arch), name)
    return arch, params, noise, w_avg


def convert_discriminator(
    state: State, options: Mapping[str, Any], name: str
) -> tuple[DiscriminatorSizes, dict[str, Any]]:
    """A discriminator's state dict in NVIDIA's names -> (sizes, params).

    Args:
      state: {"b4.conv.weight": array, ...}.
      options: what weights do not show: `conv_clamp`, `lr_multiplier`, `mbstd_group_size`.
      name: of the file, for messages.

    Raises:
      CheckpointError: as `convert_generator`.
    """
    _check_values(state, name)
    state = dict(state)
    taps = _resample_filter(state, name)
    channels = {
        int(m[1]): state[key].shape[1]
        for key in state
        if state[key].ndim == 4 and (m := re.fullmatch(r"b(\d+)\.conv0\.weight", key))
    }
    if "b4.fc.weight" not in state or not channels:
        raise CheckpointError(f"{name}: b4.fc.weight or every b*.conv0.weight is missing; the file is not whole")
    channels[4] = state["b4.fc.weight"].shape[0]
    labels = "mapping.embed.weight" in state
    try:
        sizes = DiscriminatorSizes(
            resolution=max(channels),
            channels=tuple(sorted(channels.items())),
            label_dim=state["mapping.embed.weight"].shape[1] if labels else 0,
            label_features=state["mapping.embed.weight"].shape[0] if labels else 0,
            mapping_layers=sum(1 for k in state if re.fullmatch(r"mapping\.fc\d+\.weight", k)),
            architecture="resnet" if "b8.skip.weight" in state else "skip" if "b4.fromrgb.weight" in state else "orig",
            resample_filter=taps,
            conv_clamp=_optional_float(options.get("conv_clamp")),
            mapping_lr_multiplier=float(options.get("lr_multiplier", 0.01)),
            deviation_group=int(options.get("mbstd_group_size", 4) or 0),
            deviation_channels=state["b4.conv.weight"].shape[1] - channels[4] if "b4.conv.weight" in state else 1,
        )
    except ConfigError as error:
        raise CheckpointError(f"{name}: not a whole StyleGAN2 discriminator: {error}") from error
    # The last features are flattened channels first there, channels last here.
    c = channels[4]
    fc = state["b4.fc.weight"]
    if fc.shape == (c, 16 * c):
        state["b4.fc.weight"] = fc.reshape(c, c, 4, 4).transpose(0, 2, 3, 1).reshape(c, 16 * c)
    return sizes, _filled(state, discriminators.param_shapes(sizes), name)


def _architecture(state: State) -> str:
    if "synthesis.b8.skip.weight" in state:
        return "resnet"
    return "skip" if "synthesis.b4.torgb.weight" in state else "orig"


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


def _resample_filter(state: State, name: str) -> tuple[float, ...]:
    """Take every stored filter out of `state`; return the taps they share, the smallest being 1."""
    found = {key: state.pop(key) for key in [k for k in state if k.endswith("resample_filter")]}
    taps = None
    for key, kernel in found.items():
        kernel = np.asarray(kernel, np.float64)
        if kernel.ndim not in (1, 2) or not kernel.any() or abs(kernel.sum()) < 1e-6 * np.abs(kernel).sum():
            raise CheckpointError(f"{name}: {key} of shape {kernel.shape} is no resampling filter")
        kernel = kernel / kernel.sum()
        one = kernel if kernel.ndim == 1 else kernel.sum(0)
        if kernel.ndim == 2 and not np.allclose(np.outer(kernel.sum(1), one), kernel, atol=1e-6):
            raise CheckpointError(f"{name}: {key} is not separable; this package has separable filters only")
        if taps is not None and (taps.shape != one.shape or not np.allclose(taps, one, atol=1e-6)):
            raise CheckpointError(
                f"{name}: {key} differs from the other filters; this package has one filter a network"
            )
        taps = one
    if taps is None:
        raise CheckpointError(
            f"{name}: no resampling filter (blur.kernel, resample_filter) in the file; it is not whole"
        )
    scaled = taps / np.abs(taps[taps != 0]).min()
    rounded = np.round(scaled)
    return tuple(float(t) for t in (rounded if np.allclose(scaled, rounded, atol=1e-4) else taps))


def _check_values(state: State, name: str) -> None:
    for key, value in state.items():
        if value.dtype.kind not in "fiu":
            raise CheckpointError(f"{name}: {key} has dtype {value.dtype}, not numbers; is this a StyleGAN2?")
        if not np.isfinite(value).all():
            raise CheckpointError(
                f"{name}: {key} has NaN or infinite values; take an earlier or whole copy of the file"
            )
        if key in _TELL_SIZES and value.ndim != _TELL_SIZES[key]:
            raise CheckpointError(f"{name}: {key} has shape {value.shape}, not {_TELL_SIZES[key]} axes")


# Axes of the tensors that sizes are inferred from, besides kernels.
_TELL_SIZES = {"mapping.embed.weight": 2, "mapping.fc0.weight": 2, "b4.fc.weight": 2, "b4.conv.weight": 4}


def _taken(state: State, key: str, shape: tuple[int, ...], name: str) -> np.ndarray:
    if key not in state:
        raise CheckpointError(f"{name}: {key} is missing; the file is not whole, fetch or save it again")
    value = state.pop(key)
    if value.shape != shape:
        raise CheckpointError(f"{name}: {key} has shape {value.shape}; a network of its sizes has {shape} there")
    return np.asarray(value, np.float32)


def _filled(state: State, shapes: dict[str, Any], name: str) -> dict[str, Any]:
    """The tree of `shapes` with the arrays of `state`, in this package's layouts; nothing may be left."""
    flat = {}
    for path, shape in _leaves(shapes):
        key = path.replace("/", ".")
        value = _taken(state, key, _reference_shape(path, shape), name)
        flat[path] = np.asarray(_layout(path, value), order="C")
    if state:
        raise CheckpointError(f"{name}: unknown tensors {_some(state)}; is this a StyleGAN2 of another kind?")
    return store.unflatten(flat)


def _leaves(tree: dict[str, Any], prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _reference_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Kernels OIHW, linear weights (out, in), the constant CHW."""
    if path.endswith("const"):
        return shape[2], shape[0], shape[1]
    return (*shape[::-1][:2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _layout(path: str, value: np.ndarray) -> np.ndarray:
    if path.endswith("const"):
        return value.transpose(1, 2, 0)
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
