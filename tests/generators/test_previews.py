"""Rendering small: StyleGAN2's skip sum, MobileStyleGAN's preview heads, and what cannot be had."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from golden import assert_close

from lsap_jax.data import resize
from lsap_jax.errors import CheckpointError, ConfigError
from lsap_jax.generators import mobile, ops, previews
from lsap_jax.generators.base import Generator
from lsap_jax.generators.mobile import MobileStyleGAN
from lsap_jax.generators.wavelet import inverse_haar
from lsap_jax.metrics.image import psnr
from lsap_jax.pretrained import load_generator

MOBILE = MobileStyleGAN(channels=(16, 16, 8), z_dim=8, w_dim=8, mapping_layers=1)


def small_mobile() -> Generator:
    """32 pixels, and a random head for 16 (on the block at 8 pixels, 16 channels)."""
    random = np.random.RandomState(0)

    def normal(shape):
        return jnp.asarray(0.3 * random.randn(*shape), jnp.float32)

    params = jax.tree.map(normal, mobile.param_shapes(MOBILE), is_leaf=lambda x: isinstance(x, tuple))
    noise = tuple(normal(shape) for shape in MOBILE.noise_shapes)
    head = jax.tree.map(normal, previews.shapes(16, 3, 8, 5, 4), is_leaf=lambda x: isinstance(x, tuple))
    return Generator(params, jnp.zeros(8), noise, MOBILE, name="small", previews={"16": head})


def codes(G, batch=2):
    return jnp.asarray(np.random.RandomState(1).randn(batch, G.num_ws, G.w_dim), jnp.float32)


def test_skip_sum():
    G = tiny.generator()
    ws = codes(G)
    assert G.resolutions == (4, 8, 16, 32)
    for stop, side in enumerate((4, 8, 16), start=1):
        image = G.synthesize(ws, resolution=side)
        assert image.shape == (2, side, side, 3)
        features = G.run_blocks(G.initial_features(2), ws, stop=stop)
        assert_close(image, G.to_image(features), 1e-5)
    # What the last block adds is its own picture alone.
    before, after = features, G.run_blocks(features, ws, start=3)
    added = after.image - ops.upsample2d(before.image, G.arch.resample_filter)
    assert_close(G.synthesize(ws) - added, ops.upsample2d(image, G.arch.resample_filter), 1e-4)


@pytest.mark.fast
@pytest.mark.parametrize("make", [tiny.generator, tiny.shallow, small_mobile])
def test_the_full_resolution_is_the_default(make):
    G = make()
    ws = codes(G)
    assert jnp.array_equal(G.synthesize(ws), G.synthesize(ws, resolution=G.resolution))
    assert jnp.array_equal(G.synthesize(ws), G.replace(previews={}).synthesize(ws))


@pytest.mark.fast
def test_noise_of_the_blocks_that_run():
    G = tiny.generator()
    ws = codes(G)
    image = G.synthesize(ws, resolution=16)
    assert float(jnp.abs(G.synthesize(ws, noise="none", resolution=16) - image).max()) > 1e-2
    changed = [*G.noise[:5], *(n + 1 for n in G.noise[5:])]  # 4, 8, 8, 16, 16 | 32, 32
    assert jnp.array_equal(G.synthesize(ws, noise=changed, resolution=16), image)


@pytest.mark.fast
@pytest.mark.parametrize(("make", "side", "used"), [(tiny.generator, 16, 6), (small_mobile, 16, 6)])
def test_gradient_reaches_the_rows_that_are_used(make, side, used):
    G = make()
    weight = jnp.asarray(np.random.RandomState(2).randn(2, side, side, 3), jnp.float32)
    gradient = jax.grad(lambda ws: (G.synthesize(ws, resolution=side) * weight).sum())(codes(G))
    size = jnp.abs(gradient).max(-1)
    assert bool((size[:, :used] > 0).all())
    assert bool((size[:, used:] == 0).all())


def test_a_head_reads_its_block_and_the_rows_left():
    G = small_mobile()
    ws = codes(G)
    head = G.previews["16"]
    x = G.run_blocks(G.initial_features(2), ws, stop=2).x
    assert x.shape == (2, 8, 8, 16)
    assert G.resolutions == (16, 32)
    assert_close(G.synthesize(ws, resolution=16), previews.render(head, x, ws[:, 3:]), 1e-5)
    # Without the hidden layer's part it is styled and linear, as the generator's own last block.
    head = {**head, "bands": {**head["bands"], "weight": jnp.zeros((3, 3, 5, 12))}}

    def linear(layer, x):
        return x @ layer["weight"] + layer["bias"][None]

    code = linear(head["code"], ws[:, 3:].reshape(2, -1))
    bands = jnp.einsum("bhwc,bc,co->bhwo", x, linear(head["style"], code), head["bands"]["direct"])
    bands = bands + ops.per_channel(linear(head["bands"]["shift"], code))
    assert_close(G.replace(previews={"16": head}).synthesize(ws, resolution=16), inverse_haar(bands), 1e-5)


@pytest.mark.fast
def test_heads_go_through_transformations_and_are_no_part_of_the_fingerprint():
    G = small_mobile()
    ws = codes(G)
    image = G.synthesize(ws, resolution=16)
    assert G.fingerprint == G.replace(previews={}).fingerprint
    assert_close(jax.jit(lambda G, ws: G.synthesize(ws, resolution=16))(G, ws), image, 1e-5)
    bands = jax.tree.map(lambda x: 2 * x, G.previews["16"]["bands"])
    doubled = {**G.previews["16"], "bands": bands}
    assert_close(G.replace(previews={"16": doubled}).synthesize(ws, resolution=16), 2 * image, 1e-5)


@pytest.mark.fast
def test_other_weights_drop_the_heads():
    G = small_mobile()
    tuned = jax.tree.map(lambda p: 1.01 * p, G.params)
    for other in (G.replace(params=tuned), G.replace(noise=tuple(n + 1 for n in G.noise))):
        assert other.previews == {}
        with pytest.raises(ConfigError, match=r"resolution=16: small renders at \(32,\).*a tuned one has none"):
            other.synthesize(codes(G), resolution=16)
    assert G.replace(w_avg=G.w_avg + 1).resolutions == G.resolutions
    assert G.replace(arch=dataclasses.replace(G.arch, activation_dtype="bfloat16")).resolutions == G.resolutions


@pytest.mark.fast
@pytest.mark.parametrize("architecture", ["resnet", "orig"])
def test_architectures_without_a_skip_sum(architecture):
    G = tiny.generator()
    G = G.replace(arch=dataclasses.replace(G.arch, architecture=architecture))
    with pytest.raises(ConfigError, match=r"'resnet' or 'orig' one has none.*resize.area\(G.synthesize\(ws\), 16\)"):
        G.synthesize(codes(G), resolution=16)


@pytest.mark.fast
@pytest.mark.parametrize("side", [0, 2, 24, 64])
def test_sizes_that_cannot_be_rendered(side):
    G = tiny.generator()
    with pytest.raises(ConfigError, match=rf"resolution={side}: tiny-0 renders at \(4, 8, 16, 32\)"):
        G.synthesize(codes(G), resolution=side)


@pytest.mark.fast
def test_files(tmp_path):
    G = small_mobile()
    path = tmp_path / "previews.npz"
    previews.save(path, G, G.previews, {"command": "none"})
    bare = G.replace(previews={})
    read = previews.attach(bare, path)
    assert jax.tree.map(lambda x: x.dtype, read.previews) == jax.tree.map(lambda x: x.dtype, G.previews)
    assert_close(read.synthesize(codes(G), resolution=16), G.synthesize(codes(G), resolution=16), 3e-3)
    for other in (bare.replace(noise=tuple(n + 1 for n in G.noise)), tiny.generator()):
        with pytest.raises(ConfigError, match=r"fitted to the weights of small \(.*\), not to those of"):
            previews.attach(other, path)
    previews.store.save(path, {"a": np.ones(1)}, {"kind": "statistics"})
    with pytest.raises(CheckpointError, match="holds a 'statistics', not preview heads"):
        previews.attach(bare, path)


@pytest.mark.weights("ffhq-mobile")
def test_the_shipped_heads():
    """Approximate, so not there unless asked for; on truncated samples above 24 dB of a peak of 2."""
    bare = load_generator("ffhq-mobile")
    assert bare.resolutions == (1024,)
    G = previews.attach(bare)
    assert G.resolutions == (256, 1024)
    assert G.fingerprint == bare.fingerprint
    ws = G.broadcast(G.map(np.random.RandomState(11).randn(2, 512), truncation=0.7))
    full = G.synthesize(ws)
    for side in (256,):
        found = psnr(G.synthesize(ws, resolution=side), resize.area(full, side))
        assert float(found.min()) > 24
