"""StyleGAN2 against golden outputs of both public implementations, and its properties."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from golden import FIXTURES, assert_close, assert_close_l2, expected, nhwc, normal, state_dict

from lsap_jax.checkpoints.convert_stylegan2 import generator_from_checkpoint
from lsap_jax.checkpoints.nvidia_pickle import Module
from lsap_jax.errors import ConfigError
from lsap_jax.generators import stylegan2
from lsap_jax.generators.base import architecture_record
from lsap_jax.generators.stylegan2 import StyleGAN2

NVIDIA = ["g_nv64_tiny", "g_nv64_cond_skip", "g_nv64_resnet", "g_nv64_orig_clamp"]
FULL_WIDTH = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}


def full(resolution):
    return StyleGAN2(resolution, tuple((r, c) for r, c in FULL_WIDTH.items() if r <= resolution))


@functools.cache
def rosinality(case):
    """A generator read from the reference's names; the truncation centre is the case's own input."""
    latent_avg = expected(case)["in_truncation_latent"]
    return generator_from_checkpoint({"g_ema": state_dict(case), "latent_avg": latent_avg}, case)


@functools.cache
def nvidia(case):
    clamp = 1.5 if case.endswith("clamp") else None
    kwargs = {"z_dim": 64, "synthesis_kwargs": {"conv_clamp": clamp}, "mapping_kwargs": {"num_layers": 2}}
    return generator_from_checkpoint({"G_ema": Module("Generator", (), kwargs, state_dict(case), {})}, case)


@jax.jit
def gradient(G, ws, cotangent):
    return jax.grad(lambda ws: jnp.vdot(G.synthesize(ws), cotangent))(jnp.asarray(ws))


def codes(G, seed, batch=2):
    """The same shapes in every test, so that few programs are compiled."""
    random = np.random.RandomState(seed)
    ws, direction = random.randn(2, batch, G.num_ws, G.w_dim).astype(np.float32)
    return jnp.asarray(ws), jnp.asarray(direction), jnp.asarray(random.randn(batch, 32, 32, 3), jnp.float32)


@pytest.mark.parametrize("case", ["a_gen64", "a_gen128"])
def test_images_of_rosinality(case):
    G, e = rosinality(case), expected(case)
    assert_close(G.map(e["in_z"]), e["w_of_z"])
    assert_close(G.synthesize(G.broadcast(e["in_w"])), nhwc(e["image_w"]))
    assert_close(G.synthesize(e["in_wplus"]), nhwc(e["image_wplus"]))
    truncated = G.map(e["in_z"], truncation=0.7)
    assert_close(G.synthesize(G.broadcast(truncated)), nhwc(e["image_z_trunc0.7"]))
    noise = explicit_noise(G, len(e["in_w"]))
    assert_close(G.synthesize(G.broadcast(e["in_w"]), noise=noise), nhwc(e["image_w_noise_explicit"]))
    if "in_z2" in e:
        mixed = jnp.where(
            jnp.arange(G.num_ws)[None, :, None] < 4, G.broadcast(G.map(e["in_z"])), G.broadcast(G.map(e["in_z2"]))
        )
        assert_close(G.synthesize(mixed), nhwc(e["image_mix_z_z2_inject4"]))


def explicit_noise(G, batch):
    return tuple(
        jnp.asarray(normal(f"input:noise_explicit_{i}", (batch, 1, *shape)).reshape(batch, *shape))
        for i, shape in enumerate(G.arch.noise_shapes)
    )


def test_gradients_of_rosinality():
    G, e = rosinality("a_gen64"), expected("a_gen64")
    cotangent = nhwc(normal("input:grad_out64", (2, 3, 64, 64)))
    assert_close_l2(gradient(G, e["in_wplus"], cotangent), e["vjp_wplus_f64"], 1e-3)
    ws, noise = G.broadcast(e["in_w"]), explicit_noise(G, 2)
    to_noise = jax.grad(lambda noise: jnp.vdot(G.synthesize(ws, noise=noise), cotangent))(noise)
    assert_close_l2(to_noise[2], e["vjp_noise_explicit_2"][:, 0], 1e-3)
    assert_close_l2(to_noise[-1], e["vjp_noise_explicit_last"][:, 0], 1e-3)


def test_gradient_of_rosinality_at_128():
    e = expected("a_gen128")
    cotangent = nhwc(normal("input:grad_out128", (len(e["in_wplus"]), 3, 128, 128)))
    assert_close_l2(gradient(rosinality("a_gen128"), e["in_wplus"], cotangent), e["vjp_wplus"], 1e-3)


def test_images_of_rosinality_at_1024():
    G, e = rosinality("a_gen1024"), expected("a_gen1024")
    for name, ws in (("wplus", jnp.asarray(e["in_wplus"])), ("z_trunc0.7", G.broadcast(G.map(e["in_z"], 0.7)))):
        image = np.asarray(G.synthesize(ws))
        scale = np.abs(e[f"image_{name}_stride16"]).max()
        parts = {"stride16": image[:, ::16, ::16]}
        if name == "wplus":
            parts |= {
                "crop480": image[:, 480:544, 480:544],
                "corner": image[:, :16, :16],
                "corner_end": image[:, -16:, -16:],
            }
        for part, got in parts.items():
            np.testing.assert_allclose(got, nhwc(e[f"image_{name}_{part}"]), rtol=0, atol=1e-4 * scale)
        image = image.astype(np.float64)
        moments = np.stack([image.mean((0, 1, 2)), image.std((0, 1, 2), ddof=1)])
        np.testing.assert_allclose(moments, e[f"image_{name}_mean_std"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", [pytest.param(NVIDIA[0], marks=pytest.mark.fast), *NVIDIA[1:], "g_nv64_configf"])
def test_nvidia(case):
    G, e = nvidia(case), expected(case)
    labels = e.get("in_c")
    assert G.arch.architecture == {"g_nv64_resnet": "resnet", "g_nv64_orig_clamp": "orig"}.get(case, "skip")
    assert_close(G.map(e["in_z"], labels=labels), e["ws_of_z"])
    assert_close(G.synthesize(e["in_ws"]), nhwc(e["image_ws"]))
    if "image_ws_noise_none" in e:
        assert_close(G.synthesize(e["in_ws"], noise="none"), nhwc(e["image_ws_noise_none"]))
    w, truncated = (G.map(e["in_z"], truncation=psi, labels=labels) for psi in (1.0, 0.5))
    cut = jnp.where(jnp.arange(G.num_ws)[None, :, None] < 4, G.broadcast(truncated), G.broadcast(w))
    assert_close(G.synthesize(cut), nhwc(e["image_z_psi0.5_cutoff4"]))
    cotangent = nhwc(normal(f"input:nvgout_{case}", (2, 3, 64, 64)))
    assert_close_l2(gradient(G, e["in_ws"], cotangent), e["vjp_ws"], 1e-3)


@pytest.mark.fast
def test_sizes_of_config_f():
    sums = {1024: 6080, 512: 6016, 256: 5888, 128: 5632, 64: 5120}
    counts = {1024: 30_370_060, 512: 30_276_583, 256: 30_034_338, 128: 29_328_669, 64: 27_032_600}
    for resolution, total in sums.items():
        arch = full(resolution)
        shapes = stylegan2.param_shapes(arch)
        leaves = jax.tree.leaves(shapes, is_leaf=lambda x: isinstance(x, tuple))
        assert sum(int(np.prod(s)) for s in leaves) == counts[resolution]
        params = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s, "float32"), shapes, is_leaf=lambda x: isinstance(x, tuple)
        )
        ws = jax.ShapeDtypeStruct((1, arch.num_ws, 512), "float32")
        styles = jax.eval_shape(lambda p, ws, arch=arch: arch.alignment_styles(arch.styles(p, ws)), params, ws)
        assert len(styles) == arch.num_ws == 2 * int(np.log2(resolution)) - 2
        assert sum(s.shape[1] for s in styles) == total


@pytest.mark.fast
def test_only_the_last_torgb_sees_the_length_of_its_style():
    G = tiny.generator()
    ws = codes(G, 0)[0]
    styles = G.arch.styles(G.params, ws)
    noise = G.noise_maps("const", 2)

    @jax.jit
    def render(styles):
        features = G.arch.initial_features(G.params, 2)
        for index, maps in enumerate(G.arch.noise_of_block):
            features = G.arch.run_block(G.params, index, features, styles, tuple(noise[n] for n in maps))
        return G.arch.to_image(G.params, features)

    image = render(styles)
    assert_close(image, G.synthesize(ws), 1e-6)
    for i, layer in enumerate(G.arch.layers):
        changed = render((*styles[:i], 2.5 * styles[i], *styles[i + 1 :]))
        if layer.name == "torgb":
            assert np.abs(changed - image).max() > 0.1
        else:
            assert_close(changed, image, 2e-6)


def test_a_batch_is_its_images_and_blocks_are_the_whole():
    G = tiny.generator()
    ws = codes(G, 1)[0]
    images = G.synthesize(ws)
    for i in range(2):
        assert_close(images[i : i + 1], G.synthesize(ws[i : i + 1]), 1e-6)
    features = G.initial_features(2)
    for stop in range(1, G.num_blocks + 1):
        features = G.run_blocks(features, ws, start=stop - 1, stop=stop)
        assert features.x.shape == (2, 2 << stop, 2 << stop, dict(G.arch.channels)[2 << stop])
    assert_close(G.to_image(features), images, 1e-6)


def convolutions(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            yield eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            if hasattr(value, "jaxpr"):
                yield from convolutions(value.jaxpr)
            elif hasattr(value, "eqns"):
                yield from convolutions(value)


@pytest.mark.fast
def test_no_grouped_convolution_in_a_batched_gradient():
    G = tiny.generator()

    def loss(ws, target):
        return jnp.mean((G.synthesize(ws[None])[0] - target) ** 2)

    ws = jnp.zeros((4, G.num_ws, 16))
    jaxpr = jax.make_jaxpr(jax.vmap(jax.grad(loss)))(ws, jnp.zeros((4, 32, 32, 3)))
    found = list(convolutions(jaxpr.jaxpr))
    assert len(found) > 10
    assert all(eqn.params["feature_group_count"] == eqn.params["batch_group_count"] == 1 for eqn in found)


def test_vmapped_gradient_is_the_batched_one():
    G = tiny.generator()
    ws, _, cotangent = codes(G, 2)
    one = jax.jit(jax.vmap(jax.grad(lambda w, c: jnp.vdot(G.synthesize(w[None])[0], c))))(ws, cotangent)
    assert_close(one, gradient(G, ws, cotangent), 1e-5)


def test_forward_mode_agrees_with_reverse_mode():
    G = tiny.generator()
    ws, direction, cotangent = codes(G, 3)
    _, tangent = jax.jit(lambda ws, direction: jax.jvp(G.synthesize, (ws,), (direction,)))(ws, direction)
    assert_close(jnp.vdot(tangent, cotangent), jnp.vdot(gradient(G, ws, cotangent), direction), 1e-4)


def test_gradient_to_weights_is_the_directional_derivative():
    G = tiny.generator()
    ws, _, cotangent = codes(G, 4)
    random = np.random.RandomState(5)
    direction = jax.tree.map(lambda p: jnp.asarray(random.randn(*p.shape), jnp.float32), G.params["synthesis"])

    def loss(synthesis):
        return jnp.vdot(G.replace(params={**G.params, "synthesis": synthesis}).synthesize(ws), cotangent)

    along, grads = jax.jit(
        lambda p: (jax.jvp(loss, (p,), (direction,))[1], jax.grad(loss)(p))  # forward and reverse mode
    )(G.params["synthesis"])
    dots = jax.tree.map(jnp.vdot, grads, direction)
    assert_close(sum(jax.tree.leaves(dots)), along, 1e-4)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_a_sharded_batch_with_explicit_axes():
    G = tiny.generator()
    ws, _, cotangent = codes(G, 6)
    want = gradient(G, ws, cotangent)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        batch = jax.NamedSharding(mesh, jax.P("data"))
        everywhere = jax.device_put(G, jax.NamedSharding(mesh, jax.P()))
        own = jax.jit(jax.grad(lambda ws: jnp.sum(everywhere.synthesize(ws) * jax.device_put(cotangent, batch))))(
            jax.device_put(ws, batch)
        )
        assert own.sharding.spec[0] == "data"
    assert_close(own, want, 1e-5)


def test_bfloat16_is_close_and_the_picture_stays_float32():
    G = tiny.generator()
    half = G.replace(arch=dataclasses.replace(G.arch, activation_dtype="bfloat16"))
    ws, _, cotangent = codes(G, 7)
    features = half.run_blocks(half.initial_features(2), ws)
    assert features.x.dtype == jnp.bfloat16
    images = half.to_image(features)
    assert images.dtype == jnp.float32
    assert_close_l2(images, G.synthesize(ws), 0.03)
    assert_close_l2(gradient(half, ws, cotangent), gradient(G, ws, cotangent), 0.1)
    assert half.fingerprint == G.fingerprint


@pytest.mark.parametrize("architecture", stylegan2.ARCHITECTURES)
def test_random_generators(architecture):
    arch = StyleGAN2(8, ((4, 6), (8, 4)), z_dim=5, w_dim=7, label_dim=3, mapping_layers=2, architecture=architecture)
    G = stylegan2.init(jax.random.key(0), arch)
    w = G.map(jnp.ones((2, 5)), labels=jnp.eye(3)[:2])
    image = G.synthesize(G.broadcast(w))
    assert image.shape == (2, 8, 8, 3)
    assert np.isfinite(image).all()
    assert np.std(image) > 0.1
    assert stylegan2.from_record(json.loads(json.dumps(architecture_record(arch)))) == arch
    shapes = jax.tree.map(jnp.shape, G.params)
    assert shapes == stylegan2.param_shapes(arch)


def test_mean_w_is_the_mean_over_codes_and_classes():
    arch = StyleGAN2(8, ((4, 4), (8, 4)), z_dim=4, w_dim=4, label_dim=2, mapping_layers=1)
    G = stylegan2.init(jax.random.key(1), arch)
    z = jax.random.normal(jax.random.key(2), (20_000, 4))
    labels = jnp.eye(2)[jnp.arange(20_000) % 2]
    w = arch.map(G.params, z, labels)
    assert np.abs(G.w_avg - w.mean(0)).max() < 0.05
    assert (stylegan2.mean_w(arch, G.params, 4000, 3) == stylegan2.mean_w(arch, G.params, 4000, 3)).all()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "power of two"),
        ({"channels": ((4, 4),)}, "one \\(size, width\\)"),
        ({"architecture": "tree"}, "architecture 'tree'"),
        ({"activation_dtype": "float16"}, "activation_dtype 'float16'"),
        ({"depth": 3}, "depth"),
    ],
)
def test_impossible_records_are_refused(changes, message):
    record = architecture_record(StyleGAN2(8, ((4, 4), (8, 4))))
    with pytest.raises(ConfigError, match=message):
        stylegan2.from_record({**record, **changes})


@pytest.mark.fast
def test_fixtures_cover_what_is_claimed():
    listed = json.loads((FIXTURES / "a_gen1024" / "keys.json").read_text())
    assert (
        sum(int(np.prod(shape)) for key, shape, *_ in listed if "noises" not in key and "kernel" not in key)
        == 30_370_060
    )
