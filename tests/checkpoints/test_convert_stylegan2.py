"""Reading StyleGAN2 out of every container, and refusing what is not whole."""

import jax
import numpy as np
import pytest
import tiny

from lsap_jax.checkpoints.convert_stylegan2 import discriminator_from_checkpoint, generator_from_checkpoint
from lsap_jax.checkpoints.nvidia_pickle import Module
from lsap_jax.checkpoints.store import flatten
from lsap_jax.errors import CheckpointError
from lsap_jax.generators import stylegan2
from lsap_jax.networks import discriminators
from lsap_jax.networks.discriminators import DiscriminatorSizes

pytestmark = pytest.mark.fast
KERNEL = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64


def nvidia_state(G):
    """A generator's weights under NVIDIA's names and layouts."""
    state = {}
    for path, value in flatten(G.params).items():
        axes = {4: (3, 2, 0, 1), 3: (2, 0, 1), 2: (1, 0)}.get(value.ndim)
        state[path.replace("/", ".")] = value.transpose(axes)
    convolutions = [layer for layer in G.arch.layers if layer.name != "torgb"]
    for layer, noise in zip(convolutions, G.noise, strict=True):
        state[f"synthesis.{layer.block}.{layer.name}.noise_const"] = np.asarray(noise)
        state[f"synthesis.{layer.block}.{layer.name}.resample_filter"] = KERNEL
    return state


def rosinality_state(G):
    """The same under rosinality's, written out layer by layer from its published table."""
    source, p = nvidia_state(G), G.params
    state = {"input.input": source["synthesis.b4.const"][None]}
    for i in range(G.arch.mapping_layers):
        state[f"style.{i + 1}.weight"] = np.asarray(p["mapping"][f"fc{i}"]["weight"]).T
        state[f"style.{i + 1}.bias"] = np.asarray(p["mapping"][f"fc{i}"]["bias"])
    places = {"b4.conv1": "conv1", "b4.torgb": "to_rgb1"}
    for k, r in enumerate(G.arch.resolutions[1:]):
        places |= {f"b{r}.conv0": f"convs.{2 * k}", f"b{r}.conv1": f"convs.{2 * k + 1}", f"b{r}.torgb": f"to_rgbs.{k}"}
    for place, name in places.items():
        layer = {k.removeprefix(f"synthesis.{place}."): v for k, v in source.items() if f".{place}." in k}
        state[f"{name}.conv.weight"] = layer["weight"][None]
        state[f"{name}.conv.modulation.weight"] = layer["affine.weight"]
        state[f"{name}.conv.modulation.bias"] = layer["affine.bias"]
        if place.endswith("torgb"):
            state[f"{name}.bias"] = layer["bias"].reshape(1, 3, 1, 1)
        else:
            state[f"{name}.activate.bias"] = layer["bias"]
            state[f"{name}.noise.weight"] = layer["noise_strength"].reshape(1)
        if place.endswith("conv0"):
            state[f"{name}.conv.blur.kernel"] = KERNEL * 4
        if place.endswith("torgb") and place != "b4.torgb":
            state[f"{name}.upsample.kernel"] = KERNEL * 4
    for i, noise in enumerate(G.noise):
        state[f"noises.noise_{i}"] = np.asarray(noise)[None, None]
    return state


def prefixed(prefix, state):
    return {f"{prefix}{k}": v for k, v in state.items()}


def containers():
    G = tiny.generator()
    state, mean = rosinality_state(G), np.asarray(G.w_avg)
    rows = np.tile(mean, (G.num_ws, 1))
    encoder = {"encoder.input_layer.0.weight": np.zeros((1, 1), np.float32)}
    nvidia = {**nvidia_state(G), "mapping.w_avg": mean}
    return {
        "rosinality": {"g_ema": state, "latent_avg": mean, "g": {}, "d": {}},
        "rosinality, distributed": {"g": prefixed("module.", state), "latent_avg": mean[None]},
        "bare": {**state, "latent_avg": mean},
        "pSp": {"state_dict": {**prefixed("decoder.", state), **encoder}, "latent_avg": rows, "opts": {"lr": 0.1}},
        "e4e": {"state_dict": {**prefixed("module.decoder.", state), "latent_avg": rows}, "global_step": 3},
        "GANInverter": {"encoder": {**encoder, "latent_avg": rows}, "decoder": state, "opts": {}},
        "GANInverter, distributed": {"encoder": prefixed("module.", {**encoder, "latent_avg": mean}), "decoder": state},
        "NVIDIA": {"G": Module("Generator", (), {}, {}, {}), "G_ema": Module("Generator", (), {}, nvidia, {})},
        "NVIDIA's names": {**nvidia},
    }


@pytest.mark.parametrize("name", list(containers()))
def test_every_container_gives_the_same_generator(name):
    G, found = tiny.generator(), generator_from_checkpoint(containers()[name], name)
    assert found.arch == G.arch
    assert found.fingerprint == G.fingerprint
    np.testing.assert_array_equal(found.w_avg, G.w_avg)
    assert found.name == name


def test_conditional_generators():
    G = tiny.generator(label_dim=3)
    found = generator_from_checkpoint({"G_ema": Module("Generator", (), {}, nvidia_state(G), {})}, "conditional")
    assert found.arch == G.arch
    assert found.fingerprint == G.fingerprint


def test_what_weights_do_not_show_is_read_from_the_module():
    state = {**nvidia_state(tiny.generator()), "mapping.w_avg": np.zeros(16, np.float32)}
    kwargs = {"synthesis_kwargs": {"conv_clamp": 256}, "mapping_kwargs": {"lr_multiplier": 0.1}}
    arch = generator_from_checkpoint({"G_ema": Module("Generator", (), kwargs, state, {})}).arch
    assert (arch.conv_clamp, arch.mapping_lr_multiplier) == (256.0, 0.1)
    attributes = {"synthesis.b4.conv1.conv_clamp": None, "mapping.fc0.bias_gain": 0.01}
    arch = generator_from_checkpoint({"G_ema": Module("Generator", (), kwargs, state, attributes)}).arch
    assert (arch.conv_clamp, arch.mapping_lr_multiplier) == (None, 0.01)


def test_a_missing_mean_of_w_is_computed():
    G, state = tiny.generator(), rosinality_state(tiny.generator())
    computed = generator_from_checkpoint({"g_ema": state}).w_avg
    np.testing.assert_array_equal(computed, stylegan2.mean_w(G.arch, G.params, 100_000, 0))
    assert np.abs(computed - G.w_avg).max() < 0.05
    differing = np.random.RandomState(0).randn(G.num_ws, 16)
    np.testing.assert_array_equal(generator_from_checkpoint({"g_ema": state, "latent_avg": differing}).w_avg, computed)


def test_other_filters_are_inferred():
    state = rosinality_state(tiny.generator())
    for key in [k for k in state if k.endswith("kernel")]:
        state[key] = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32)
    assert generator_from_checkpoint({"g_ema": state, "latent_avg": np.zeros(16)}).arch.resample_filter == (1, 2, 1)


def without(key):
    return lambda state: {k: v for k, v in state.items() if k != key}


def changed(key, change):
    return lambda state: {**state, key: change(state[key])}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("convs.2.conv.modulation.bias"), r"b16\.conv0\.affine\.bias is missing"),
        (without("noises.noise_3"), r"b16\.conv0\.noise_const is missing"),
        (without("conv1.conv.weight"), r"no StyleGAN2 generator found"),
        (without("convs.1.conv.weight"), r"not a whole StyleGAN2: channels"),
        (without("style.1.weight"), r"mapping\.fc0\.weight is missing"),
        (changed("convs.3.activate.bias", lambda v: v[:-1]), r"b16\.conv1\.bias has shape \(15,\)"),
        (changed("convs.0.conv.weight", lambda v: v * np.nan), r"b8\.conv0\.weight has NaN"),
        (changed("noises.noise_0", lambda v: v + np.inf), r"b4\.conv1\.noise_const has NaN"),
        (changed("convs.0.conv.blur.kernel", lambda v: np.eye(4, dtype=np.float32)), "not separable"),
        (changed("convs.0.conv.blur.kernel", lambda v: np.ones((4, 4))), "differs from the other filters"),
        (lambda s: {k: v for k, v in s.items() if "kernel" not in k}, "no resampling filter"),
        (lambda s: {**s, "convs.9.extra": np.zeros(2)}, r"unknown tensors synthesis\.b128\.conv1\.extra"),
        (lambda s: {**s, "classifier.weight": np.zeros(2)}, r"unknown tensor 'classifier\.weight'"),
    ],
)
def test_what_is_not_whole_is_refused(damage, message):
    damaged = damage(rosinality_state(tiny.generator()))
    with pytest.raises(CheckpointError, match=rf"^a\.pt: .*{message}"):
        generator_from_checkpoint(damaged, "a.pt")


@pytest.mark.parametrize("obj", [{}, {"state_dict": {"fc.weight": np.zeros(3)}}, [1, 2], np.zeros(3), {"opts": {}}])
def test_other_files_are_refused(obj):
    with pytest.raises(CheckpointError, match=r"^b\.pt: "):
        generator_from_checkpoint(obj, "b.pt")
    with pytest.raises(CheckpointError, match=r"^b\.pt: .*StyleGAN2 discriminator"):
        discriminator_from_checkpoint(obj, "b.pt")


@pytest.mark.parametrize("mean", [np.zeros(7), np.full(16, np.nan), np.float32(0)])
def test_an_impossible_mean_of_w_is_refused(mean):
    with pytest.raises(CheckpointError, match="latent_avg"):
        generator_from_checkpoint({"g_ema": rosinality_state(tiny.generator()), "latent_avg": mean})


RESHAPED = {
    "scalar": lambda v: np.float32(1),
    "flat": lambda v: v.reshape(-1),
    "axis before": lambda v: v[None],
    "axis after": lambda v: v[..., None],
    "empty": lambda v: v[:0] if v.ndim else v.reshape(1)[:0],
    "longer": lambda v: np.concatenate([v, v]) if v.ndim else np.stack([v, v]),
    "zero": lambda v: v * 0,
    "text": lambda v: np.array(["a"]),
    "complex": lambda v: v.astype(complex),
}


@pytest.mark.parametrize("how", list(RESHAPED))
def test_any_wrong_tensor_is_a_checkpoint_error_or_harmless(how):
    G = tiny.generator()
    D = discriminators.init(jax.random.key(0), DiscriminatorSizes(8, ((4, 4), (8, 3)), 2, 4, 1))
    judge = {k.replace("/", "."): v for k, v in flatten(jax.device_get(D.params)).items()}
    judge = {k: v.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(v.ndim)) for k, v in judge.items()}
    judge["b8.conv1.resample_filter"] = KERNEL
    for state, read in (
        (rosinality_state(G), lambda s: generator_from_checkpoint({"g_ema": s, "latent_avg": np.zeros(16)}, "c.pt")),
        ({**nvidia_state(G), "mapping.w_avg": np.zeros(16)}, lambda s: generator_from_checkpoint(s, "c.pt")),
        (judge, lambda s: discriminator_from_checkpoint(s, "c.pt")),
    ):
        shapes = jax.tree.map(np.shape, read(state).params)
        for key in state:
            try:
                found = read({**state, key: RESHAPED[how](state[key])})
            except CheckpointError:
                continue
            assert jax.tree.map(np.shape, found.params) == shapes
