"""MobileStyleGAN: golden outputs of the FFHQ export, and properties on a small random one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_close, expected

from lsap_jax.errors import ConfigError
from lsap_jax.generators import mobile
from lsap_jax.generators.base import Generator, architecture_record
from lsap_jax.generators.mobile import MobileStyleGAN
from lsap_jax.pretrained import load_generator

TINY = MobileStyleGAN(channels=(16, 8), z_dim=8, w_dim=8, mapping_layers=2)
FFHQ = MobileStyleGAN()


@functools.cache
def tiny() -> Generator:
    random = np.random.RandomState(0)
    params = jax.tree.map(
        lambda shape: jnp.asarray(
            random.randn(*shape) / max(1, shape[0] if len(shape) == 2 else 3) ** 0.5, jnp.float32
        ),
        mobile.param_shapes(TINY),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    noise = tuple(jnp.asarray(random.randn(*shape), jnp.float32) for shape in TINY.noise_shapes)
    return Generator(params, jnp.zeros(8), noise, TINY, name="tiny")


def codes(batch, seed=1):
    return jnp.asarray(np.random.RandomState(seed).randn(batch, TINY.num_ws, TINY.w_dim), jnp.float32)


@pytest.mark.weights("ffhq-mobile")
def test_ffhq_images():
    G, e = load_generator("ffhq-mobile"), expected("ffhq_mobile")
    w = G.map(e["z"])
    assert_close(w, e["w"], 1e-5)
    for given in (e["w"], w):
        images = np.asarray(G.synthesize(G.broadcast(given)), np.float64)
        assert_close(images[:, ::16, ::16], e["image_stride16"])
        assert_close(images[:, 480:544, 480:544], e["image_crop"])
        assert_close(images.mean((1, 2)), e["image_mean"])
        assert_close(images.std((1, 2)), e["image_std"])


@pytest.mark.weights("ffhq-mobile")
def test_ffhq_statistics():
    """The truncation centre is where other samples say it is, and S^N has the known anchors' lengths."""
    G = load_generator("ffhq-mobile")
    w = G.map(np.random.RandomState(5).randn(4096, 512))
    standard_error = w.std(0) / 4096**0.5
    assert float(jnp.abs((w.mean(0) - G.w_avg) / standard_error).max()) < 5
    units = [s / jnp.linalg.norm(s, axis=1, keepdims=True) for s in G.styles(G.broadcast(w))]
    lengths = [float(jnp.sum(jnp.square(u.mean(0)))) for u in units]
    known = """.136 .444 .867 .656 .720 .900 .838 .832 .939 .926 .925 .947 .964 .952 .975 .983 .975 .961 .986 .981
    .988 .987 .966"""
    np.testing.assert_allclose(lengths, [float(v) for v in known.split()], atol=0.006)


@pytest.mark.fast
def test_sizes():
    assert (FFHQ.resolution, FFHQ.num_ws, FFHQ.num_blocks, FFHQ.label_dim) == (1024, 16, 9, 0)
    assert [s[0] for s in FFHQ.noise_shapes] == [4, 8, 8, 16, 16, 32, 32, 64, 64, 128, 128, 256, 256, 512, 512]
    assert sum(FFHQ.noise_of_block, ()) == tuple(range(15))
    assert len(FFHQ.noise_of_block) == FFHQ.num_blocks
    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        mobile.param_shapes(FFHQ),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    styles = jax.eval_shape(FFHQ.styles, params, jax.ShapeDtypeStruct((2, 16, 512), jnp.float32))
    assert [s.shape for s in styles] == [
        (2, c)
        for c in [512, *(512, 128, 512) * 4, 512, 128, 256, 256, 64, 128, 128, 32, 64, 64]
    ]  # fmt: skip


@pytest.mark.fast
def test_shapes_and_types():
    G = tiny()
    images = G.synthesize(codes(2))
    assert images.shape == (2, 16, 16, 3)
    assert images.dtype == jnp.float32
    assert bool(jnp.isfinite(images).all())
    features = G.run_blocks(G.initial_features(2), codes(2), stop=2)
    assert features.x.shape == (2, 8, 8, 8)


def test_a_batch_equals_singles():
    G, ws = tiny(), codes(3)
    batch = G.synthesize(ws)
    assert_close(batch, jnp.concatenate([G.synthesize(ws[i : i + 1]) for i in range(3)]), 1e-5)
    one = jax.vmap(lambda ws: G.synthesize(ws[None])[0])
    assert_close(one(ws), batch, 1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("stop", range(4))
def test_blocks_compose(stop):
    G, ws = tiny(), codes(2)
    features = G.run_blocks(G.initial_features(2), ws, stop=stop)
    assert_close(G.to_image(G.run_blocks(features, ws, start=stop)), G.synthesize(ws), 1e-5)


@pytest.mark.fast
def test_each_row_makes_its_styles():
    arch = MobileStyleGAN(channels=(4, 4, 4), w_dim=3)
    ones = jax.tree.map(jnp.ones, mobile.param_shapes(arch), is_leaf=lambda x: isinstance(x, tuple))
    ws = jnp.ones((1, arch.num_ws, 3))
    before = arch.styles(ones, ws)
    for row, wanted in {0: [0], 1: [1, 2], 2: [3], 3: [4, 5], 4: [6], 5: [7]}.items():
        after = arch.styles(ones, ws.at[0, row].add(1.0))
        changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if not jnp.array_equal(a, b)]
        assert changed == wanted


@pytest.mark.fast
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_gradient_reaches_the_rows_of_its_blocks_and_no_others(stop):
    G, ws = tiny(), codes(2)
    gradient = jax.grad(lambda ws: G.run_blocks(G.initial_features(2), ws, stop=stop).x.sum())(ws)
    assert bool(jnp.isfinite(gradient).all())
    used = 2 * stop - 1 if stop < 3 else 4
    size = jnp.abs(gradient).max(axis=-1)
    assert bool((size[:, :used] > 0).all())
    assert bool((size[:, used:] == 0).all())


def test_noise():
    G, ws = tiny(), codes(2)
    const = G.synthesize(ws)
    assert jnp.array_equal(const, G.synthesize(ws, noise=G.noise))
    silent = G.synthesize(ws, noise="none")
    assert_close(silent, G.synthesize(ws, noise=[jnp.zeros(s) for s in TINY.noise_shapes]), 1e-6)
    fresh = G.synthesize(ws, noise=jax.random.key(0))
    assert float(jnp.abs(fresh - const).max()) > 1e-2
    assert float(jnp.abs(silent - const).max()) > 1e-2


def test_gradient_to_noise():
    G, ws = tiny(), codes(2)
    gradient = jax.grad(lambda noise: G.synthesize(ws, noise=noise).sum())(G.noise)
    assert all(float(jnp.abs(g).max()) > 0 for g in gradient)


def test_depthwise_is_a_grouped_convolution():
    random = np.random.RandomState(0)
    x, kernel, g = (random.randn(*s).astype(np.float32) for s in [(2, 5, 7, 6), (3, 3, 6), (2, 5, 7, 6)])

    def grouped(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel[:, :, None], (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=6
        )

    y, pull = jax.vjp(mobile._depthwise, x, kernel)
    wanted, wanted_pull = jax.vjp(grouped, x, kernel)
    assert_close(y, wanted, 1e-5)
    for got, want in zip(pull(g), wanted_pull(g), strict=True):
        assert_close(got, want, 1e-5)


@pytest.mark.fast
def test_depthwise_keeps_no_padded_copies_for_its_gradient():
    x, kernel = jnp.ones((1, 64, 64, 32)), jnp.ones((3, 3, 32))
    gradient = jax.jit(jax.grad(lambda x: jnp.square(mobile._depthwise(x, kernel)).sum()))
    assert gradient.lower(x).compile().memory_analysis().temp_size_in_bytes < 4 * x.nbytes


def test_forward_mode_agrees_with_reverse_mode():
    G, ws, v = tiny(), codes(1), codes(1, seed=2)
    image, tangent = jax.jvp(G.synthesize, (ws,), (v,))
    u = jnp.asarray(np.random.RandomState(3).randn(*image.shape), jnp.float32)
    _, pull = jax.vjp(G.synthesize, ws)
    assert float(jnp.vdot(pull(u)[0], v)) == pytest.approx(float(jnp.vdot(u, tangent)), rel=1e-3)


@pytest.mark.fast
def test_half_precision_activations():
    G, ws = tiny(), codes(2)
    half = G.replace(arch=MobileStyleGAN(**{**vars(TINY), "activation_dtype": "bfloat16"}))
    assert half.run_blocks(half.initial_features(2), ws, stop=2).x.dtype == jnp.bfloat16
    image = half.synthesize(ws)
    assert image.dtype == jnp.float32
    assert_close(image, G.synthesize(ws), 0.1)
    assert half.fingerprint == G.fingerprint


@pytest.mark.fast
def test_record():
    assert mobile.from_record(architecture_record(TINY)) == TINY
    assert mobile.from_record(architecture_record(FFHQ)) == FFHQ
    assert architecture_record(TINY)["kind"] == "mobile-stylegan"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"channels": [16], "colour": 1}, "colour"),
        ({"z_dim": 8}, "channels"),
        ({"channels": [16, "wide"]}, "wide"),
        ({"channels": []}, "multiple of 4"),
        ({"channels": [16, 6]}, "multiple of 4"),
    ],
)
def test_records_that_are_none(record, message):
    with pytest.raises(ConfigError, match=message):
        mobile.from_record(record)
