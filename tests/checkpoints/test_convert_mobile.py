"""An export of MobileStyleGAN written by hand, converted, against its meaning spelled out in float64."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_close
from openvino_networks import Network

from lsap_jax.checkpoints import convert_mobile
from lsap_jax.errors import CheckpointError
from lsap_jax.generators import files

pytestmark = pytest.mark.fast

CHANNELS, WIDTH, SCALE, GAIN = (8, 8, 4), 6, 0.3, 2**0.5
MEMBERS = [f"data/{name}Network.{end}" for name in ("Mapping", "Synthesis") for end in ("xml", "bin")]


@functools.cache
def constants():
    """Constants of the export by name, in its layouts (OIHW kernels, (out, in) weights)."""
    random, found = np.random.RandomState(0), {}

    def normal(name, *shape, scale=1.0):
        found[name] = (scale * random.randn(*shape)).astype(np.float32)

    for index in range(2):
        normal(f"mapping.{index}.weight", WIDTH, WIDTH)
        normal(f"mapping.{index}.bias", WIDTH)

    def styled(prefix, c_in, c_out, size, depthwise):
        normal(f"{prefix}.conv.modulation.weight", c_in, WIDTH)
        normal(f"{prefix}.conv.modulation.bias", 1, c_in)
        if depthwise:
            normal(f"{prefix}.conv.weight_dw", c_in, 1, 1, 3, 3, scale=0.5)
        normal(f"{prefix}.kernel", c_out, c_in, *((1, 1) if depthwise else (3, 3)), scale=0.5)
        normal(f"{prefix}.noise", 1, 1, size, size, scale=0.4)
        normal(f"{prefix}.bias", 1, c_out, 1, 1)

    normal("m.input.input", 1, CHANNELS[0], 4, 4)
    styled("m.conv1", CHANNELS[0], CHANNELS[0], 4, depthwise=False)
    for k, (before, after) in enumerate(itertools.pairwise(CHANNELS)):
        prefix = f"m.layers.{k}"
        normal(f"{prefix}.up.modulation.weight", before, WIDTH)
        normal(f"{prefix}.up.modulation.bias", 1, before)
        styled(f"{prefix}.conv1", before // 4, after, 8 << k, depthwise=True)
        styled(f"{prefix}.conv2", after, after, 8 << k, depthwise=True)
    normal(f"{prefix}.to_img.conv.modulation.weight", CHANNELS[-1], WIDTH)
    normal(f"{prefix}.to_img.conv.modulation.bias", 1, CHANNELS[-1])
    normal(f"{prefix}.to_img.conv.weight", 12, CHANNELS[-1], 1, 1)
    normal(f"{prefix}.to_img.bias", 1, 12, 1, 1)
    return found


def mapping_network(slope=0.2):
    net, c = Network("MappingNetwork"), constants()
    x = net.add("Parameter", name="var")
    for index in range(2):
        x = net.add("MatMul", x, net.constant(c[f"mapping.{index}.weight"]), transpose_b="true")
        x = net.add("Add", x, net.add("Reshape", net.constant(c[f"mapping.{index}.bias"])))
        x = net.add("PReLU", x, net.constant(np.float32([slope])))
        x = net.add("Multiply", x, net.constant(np.float32([[GAIN]])))
    return net


def synthesis_network(left_out="", **changed):
    net, c = Network("SynthesisNetwork"), {**constants(), **changed}
    w = net.add("Parameter", name="style")

    def named(name):
        return net.constant(c[name], "" if name == left_out else name)

    def style(prefix, scaled=True):
        x = net.add("MatMul", w, named(f"{prefix}.modulation.weight"), transpose_b="true")
        x = net.add("Reshape", net.add("Add", x, named(f"{prefix}.modulation.bias")))
        return net.add("Multiply", x, net.constant(np.full((1, 1, 1, 1), SCALE, np.float32))) if scaled else x

    def styled(x, prefix):
        x = net.add("Multiply", style(f"{prefix}.conv"), x)
        if f"{prefix}.conv.weight_dw" in c:
            x = net.add("GroupConvolution", x, named(f"{prefix}.conv.weight_dw"))
        x = net.add("Convolution", x, net.constant(c[f"{prefix}.kernel"]))
        x = net.add("Add", x, net.constant(c[f"{prefix}.noise"]))
        return net.add("PReLU", net.add("Add", x, named(f"{prefix}.bias")), net.constant(np.float32([0.2])))

    x = styled(named("m.input.input"), "m.conv1")
    for k in range(len(CHANNELS) - 1):
        prefix = f"m.layers.{k}"
        x = net.add("VariadicSplit", net.add("Multiply", style(f"{prefix}.up", scaled=False), x))
        x = styled(styled(x, f"{prefix}.conv1"), f"{prefix}.conv2")
    x = net.add("Multiply", style(f"{prefix}.to_img.conv"), x)
    x = net.add("Convolution", x, named(f"{prefix}.to_img.conv.weight"))
    net.add("Add", x, named(f"{prefix}.to_img.bias"))
    return net


def members(mapping=None, synthesis=None):
    mapping, synthesis = mapping or mapping_network(), synthesis or synthesis_network()
    return dict(zip(MEMBERS, (mapping.xml, mapping.binary, synthesis.xml, synthesis.binary), strict=True))


def filtered(x, kernel, groups):
    """3x3 correlation with zero padding: (C, h, w) with (O, C / groups, 3, 3)."""
    height, width = x.shape[1:]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.stack([[padded[:, i : i + height, j : j + width] for j in range(3)] for i in range(3)])
    if groups == 1:
        return np.einsum("ijchw,ocij->ohw", windows, kernel)
    return np.einsum("ijchw,cij->chw", windows, kernel[:, 0])


def wavelet(x):
    """The export's order of bands: C / 4 of LL, then (LH, HL, HH) of each."""
    c = x.shape[0] // 4
    ll, rest = x[:c], x[c:].reshape(c, 3, *x.shape[1:])
    y = np.zeros((c, 2 * x.shape[1], 2 * x.shape[2]))
    for a in (0, 1):
        for b in (0, 1):
            signs = (-1) ** a, (-1) ** b, (-1) ** (a + b)
            y[:, a::2, b::2] = (ll + sum(s * rest[:, i] for i, s in enumerate(signs))) / 2
    return y


def image_of(rows):
    """What the export computes, if every convolution had its own row of a W+ code: (2 * resolutions, WIDTH)."""
    c = {name: value.astype(np.float64) for name, value in constants().items()}

    def style(prefix, row):
        return (c[f"{prefix}.modulation.weight"] @ rows[row] + c[f"{prefix}.modulation.bias"][0])[:, None, None]

    def styled(x, prefix, row):
        x = x * style(f"{prefix}.conv", row) * SCALE
        kernel = c[f"{prefix}.kernel"]
        if f"{prefix}.conv.weight_dw" in c:
            x = filtered(x, c[f"{prefix}.conv.weight_dw"][:, 0], groups=len(x))
            x = np.einsum("chw,oc->ohw", x, kernel[:, :, 0, 0])
        else:
            x = filtered(x, kernel, groups=1)
        x = x + c[f"{prefix}.noise"][0] + c[f"{prefix}.bias"][0]
        return np.where(x > 0, x, 0.2 * x)

    x = styled(c["m.input.input"][0], "m.conv1", 0)
    for k in range(len(CHANNELS) - 1):
        prefix = f"m.layers.{k}"
        x = wavelet(x * style(f"{prefix}.up", 2 * k + 1))
        x = styled(x, f"{prefix}.conv1", 2 * k + 1)
        x = styled(x, f"{prefix}.conv2", 2 * k + 2)
    x = x * style(f"{prefix}.to_img.conv", -1) * SCALE
    x = np.einsum("chw,oc->ohw", x, c[f"{prefix}.to_img.conv.weight"][:, :, 0, 0]) + c[f"{prefix}.to_img.bias"][0]
    return wavelet(x).transpose(1, 2, 0)


def w_of(z):
    c = {name: value.astype(np.float64) for name, value in constants().items()}
    x = z / np.sqrt(np.mean(z**2, axis=1, keepdims=True))
    for index in range(2):
        x = x @ c[f"mapping.{index}.weight"].T + c[f"mapping.{index}.bias"]
        x = GAIN * np.where(x > 0, x, 0.2 * x)
    return x


@functools.cache
def generator():
    return files.from_tree(*convert_mobile.convert(members()), path="export")


def test_sizes():
    arch = generator().arch
    assert (arch.channels, arch.z_dim, arch.w_dim, arch.mapping_layers) == (CHANNELS, WIDTH, WIDTH, 2)
    assert (arch.resolution, arch.num_ws, arch.num_blocks) == (32, 6, 4)


def test_mapping_and_its_mean():
    G, z = generator(), np.random.RandomState(1).randn(5, WIDTH)
    assert_close(G.map(z), w_of(z), 1e-6)
    random = np.random.RandomState(0)
    assert_close(G.w_avg, w_of(random.randn(convert_mobile.W_AVG_SAMPLES, WIDTH)).mean(0), 1e-5)


def test_image():
    ws = np.random.RandomState(2).randn(2, 6, WIDTH)
    assert_close(generator().synthesize(jnp.asarray(ws, jnp.float32)), np.stack([image_of(rows) for rows in ws]), 1e-5)


def test_styles_are_the_affine_layers_output():
    ws = np.random.RandomState(2).randn(1, 6, WIDTH)
    styles = generator().styles(jnp.asarray(ws, jnp.float32))
    c = constants()
    want = c["m.conv1.conv.modulation.weight"] @ ws[0, 0] + c["m.conv1.conv.modulation.bias"][0]
    assert [s.shape[1] for s in styles] == [8, 8, 2, 8, 8, 2, 4, 4]
    assert_close(styles[0][0], want, 1e-6)


def test_noise_maps_are_of_unit_power():
    G, c = generator(), constants()
    for noise in G.noise:
        assert float(jnp.mean(jnp.square(noise))) == pytest.approx(1, abs=1e-5)
    strength = G.params["synthesis"]["b8"]["conv_a"]["noise_strength"]
    assert_close(strength * G.noise[1], c["m.layers.0.conv1.noise"][0, 0], 1e-6)


def test_a_missing_file():
    given = members()
    del given["data/SynthesisNetwork.bin"]
    with pytest.raises(CheckpointError, match=r"0 files SynthesisNetwork\.bin"):
        convert_mobile.convert(given)


@pytest.mark.parametrize("name", ["m.input.input", "m.conv1.bias", "m.layers.1.conv2.conv.modulation.bias"])
def test_a_missing_constant(name):
    with pytest.raises(CheckpointError, match=f"no constant '{name}'"):
        convert_mobile.convert(members(synthesis=synthesis_network(left_out=name)))


def test_another_activation():
    with pytest.raises(CheckpointError, match=r"slope \[0\.1\]"):
        convert_mobile.convert(members(mapping=mapping_network(slope=0.1)))


def test_shapes_that_do_not_fit():
    wrong = {"m.layers.0.conv1.bias": np.zeros((1, 4, 1, 1), np.float32)}
    with pytest.raises(CheckpointError, match=r"b8/conv_a/bias has shape \(4,\), not \(8,\)"):
        convert_mobile.convert(members(synthesis=synthesis_network(**wrong)))


def test_not_a_generator():
    with pytest.raises(CheckpointError, match="no MatMul"):
        convert_mobile.convert(members(mapping=Network("MappingNetwork")))
