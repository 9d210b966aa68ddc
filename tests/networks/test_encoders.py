import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_encoder
import tiny_ir_se
from tiny_encoder import images

from lsap_jax.data import resize
from lsap_jax.errors import ConfigError, ImageError
from lsap_jax.networks import encoder_files, encoder_heads
from lsap_jax.networks.encoders import EncoderArch, module, network_input

E4E_SIZE = 267_136_704


def parameters(arch: EncoderArch) -> int:
    leaves = jax.tree.leaves(encoder_files.shapes(arch)["params"], is_leaf=lambda x: isinstance(x, tuple))
    return sum(int(np.prod(shape)) for shape in leaves)


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        (EncoderArch(head="e4e"), E4E_SIZE),
        (EncoderArch(head="psp"), E4E_SIZE),
        (EncoderArch(head="e4e", levels="last", input="rgb+render"), 205_585_792),
        (EncoderArch(head="w"), 31_212_736),
    ],
)
def test_sizes_of_the_published_encoders(arch, size):
    assert parameters(arch) == size


@pytest.mark.fast
@pytest.mark.parametrize(
    "fields",
    [
        {"trunk": trunk, "input": kind, "head": head}
        for trunk, kind, head in (
            ("ir-se", "rgb", "psp"),
            ("ir-se", "rgb+render", "e4e"),
            ("ir-se", "rgb", "w+"),
            ("dlib", "rgb+render", "e4e"),
            ("dlib", "rgb+mask", "w"),
            ("resnet", "rgb+mask", "pooled"),
            ("resnet", "rgb", "psp"),
            ("idinvert", "rgb", "dense"),
            ("idinvert", "rgb+mask", "w+"),
        )
    ],
    ids=lambda fields: "-".join(fields.values()),
)
def test_every_part_fits_every_other(fields):
    arch = tiny_encoder.arch(**fields, num_ws=5, resolution=48)
    x = jax.ShapeDtypeStruct((2, 48, 48, arch.channels), jnp.float32)
    variables = jax.eval_shape(module(arch).init, jax.random.key(0), x)
    assert jax.eval_shape(module(arch).apply, variables, x).shape == (2, 5, 8)


@pytest.mark.fast
def test_a_description_is_checked():
    for fields, message in (
        ({"trunk": "vit"}, "trunk 'vit': one of ir-se, dlib, resnet, idinvert"),
        ({"head": "E4E"}, "head 'E4E'"),
        ({"input": "rgba"}, "input 'rgba'"),
        ({"levels": "all"}, "levels"),
        ({"start": "mean"}, "start"),
        ({"stages": ((64, 3), (128, 4))}, "at least three"),
        ({"stages": "IR50"}, "pairs"),
        ({"trunk": "dlib", "stages": ((8, 1), (4, 1), (8, 1))}, "must not fall"),
        ({"num_ws": 0}, "num_ws 0: at least 1"),
        ({"resolution": 8}, "resolution"),
    ):
        with pytest.raises(ConfigError, match=message):
            EncoderArch(**fields)
    assert EncoderArch(stages=[[64, 3], [128, 4], [256, 14], [512, 3]]) == EncoderArch()  # as a file has it
    assert hash(EncoderArch()) == hash(EncoderArch())


def test_stages_mask_rows_and_their_gradients():
    E, traces = tiny_encoder.encoder(head="e4e"), []

    @jax.jit
    def rows_and_gradient(E, stage):
        traces.append(stage)

        def loss(variables):
            ws = E.replace(variables=variables).offsets(images(), stage=stage)
            return (ws**2).sum(), ws

        return jax.grad(loss, has_aux=True)(E.variables)

    everything = E.offsets(images())
    for stage in (0, 2, 5, 8):
        gradient, ws = rows_and_gradient(E, stage)
        np.testing.assert_allclose(ws[:, : stage + 1], everything[:, : stage + 1], rtol=1e-5, atol=1e-6)
        for row in range(9):
            largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient["params"]["head"][f"style{row}"]))
            if row <= stage:
                assert largest > 0, row
            else:
                np.testing.assert_array_equal(ws[:, row], ws[:, 0])
                assert largest == 0, row
    assert len(traces) == 1


def test_deltas_may_be_narrower():
    wide, narrow = tiny_encoder.arch(), tiny_encoder.arch(delta_width=2)
    heads = [encoder_files.shapes(arch)["params"]["head"] for arch in (wide, narrow)]
    assert heads[0]["style0"] == heads[1]["style0"]
    assert heads[1]["style1"]["linear"]["kernel"] == (2, 8)
    # pSp has no deltas.
    psp = encoder_files.shapes(dataclasses.replace(narrow, head="psp"))["params"]["head"]
    assert psp["style1"] == heads[0]["style1"]


def test_every_weight_gets_a_gradient():
    E = tiny_encoder.encoder("dlib")

    @jax.jit
    def gradient(E):
        return jax.grad(lambda v: (E.replace(variables=v).offsets(images()) ** 2).sum())(E.variables)

    for path, grad in jax.tree_util.tree_leaves_with_path(gradient(E)):
        assert jnp.isfinite(grad).all(), path
        assert jnp.abs(grad).max() > 0, path


@pytest.mark.parametrize("trunk", ["ir-se", "dlib", "resnet", "idinvert"])
def test_a_batch_is_its_images(trunk):
    E = tiny_encoder.encoder(trunk)
    x = images(3)
    singles = jnp.concatenate([E(x[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(E(x), singles, rtol=1e-4, atol=1e-5)


def test_output_is_added_to_the_start():
    E = tiny_encoder.encoder()
    np.testing.assert_allclose(E(images()), E.start[None] + E.offsets(images()), rtol=1e-6)


def test_larger_images_are_reduced_by_box_means():
    E = tiny_encoder.encoder()
    large = images(size=96)
    np.testing.assert_allclose(E(large), E(resize.area(large, 32)), rtol=1e-5, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 48, 48, 3), "images of 48 x 48 pixels: this encoder takes 32 x 32"),
        ((1, 16, 16, 3), "16 x 16"),
        ((1, 64, 32, 3), "images of 32 x 64 pixels"),
        ((1, 32, 32, 4), r"\(1, 32, 32, 4\)"),
        ((32, 32, 3), r"\(32, 32, 3\)"),
    ],
)
def test_wrong_sizes_are_errors(shape, message):
    with pytest.raises(ImageError, match=message):
        tiny_encoder.encoder()(jnp.zeros(shape))


@pytest.mark.fast
def test_wrong_inputs_are_errors():
    E = tiny_encoder.encoder()
    with pytest.raises(ImageError, match="uint8"):
        E(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(ConfigError, match="takes no `render`"):
        E(images(), render=images())
    with pytest.raises(ConfigError, match="takes no `mask`"):
        E(images(), mask=jnp.ones((2, 32, 32, 1)))
    with pytest.raises(ConfigError, match="needs `render`"):
        tiny_encoder.encoder(input="rgb+render")(images())
    masked = tiny_encoder.encoder("resnet", head="pooled", input="rgb+mask")
    with pytest.raises(ImageError, match=r"mask has shape \(2, 32, 32\)"):
        masked(images(), mask=jnp.ones((2, 32, 32)))
    # The network itself, as training calls it, does not take more pixels for a bigger batch.
    with pytest.raises(ImageError, match=r"takes \(B, 32, 32, 3\)"):
        module(E.arch).apply(E.variables, images(size=64))


@pytest.mark.fast
def test_too_few_pixels_for_the_trunk():
    with pytest.raises(ConfigError, match="resolution 16: too few pixels for the trunk's 4 stages"):
        encoder_files.shapes(EncoderArch("dlib", resolution=16))


@pytest.mark.fast
def test_masked_pixels_are_not_seen():
    arch = tiny_encoder.arch("resnet", head="pooled", input="rgb+mask")
    mask = jnp.ones((2, 32, 32, 1)).at[:, 8:20, 4:9].set(0)
    x = network_input(arch, images(), mask=mask)
    changed = images().at[:, 8:20, 4:9].set(0.7)
    np.testing.assert_array_equal(x, network_input(arch, changed, mask=mask))
    np.testing.assert_array_equal(x[..., 3:], mask)
    np.testing.assert_array_equal(network_input(arch, images()), jnp.concatenate([images(), mask * 0 + 1], -1))


def test_an_empty_mask_still_gives_a_code():
    E = tiny_encoder.encoder("resnet", head="pooled", input="rgb+mask")
    assert jnp.isfinite(E(images(), mask=jnp.zeros((2, 32, 32, 1)))).all()


def test_bfloat16_stays_near():
    arch = tiny_encoder.arch()
    E = tiny_encoder.encoder()
    x = images(4)
    exact, rough = (jax.jit(module(arch, dtype).apply)(E.variables, x) for dtype in (jnp.float32, jnp.bfloat16))
    assert rough.dtype == jnp.float32
    assert float(jnp.linalg.norm(rough - exact) / jnp.linalg.norm(exact)) < 0.05


@pytest.mark.fast
def test_corners_stay_when_maps_grow():
    x = jnp.array([0.0, 1.0, 4.0]).reshape(1, 1, 3, 1)
    grown = encoder_heads._align_corners(x, (2, 5))
    np.testing.assert_allclose(grown[0, :, :, 0], [[0, 0.5, 1, 2.5, 4]] * 2)
    np.testing.assert_array_equal(encoder_heads._align_corners(x, (1, 3)), x)


def test_initial_weights_are_the_references():
    head = encoder_heads.MapToStyle(width=64, w_dim=32)
    params = head.init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))["params"]
    assert sorted(params) == ["conv0", "conv1", "linear"]
    bound = 1 / np.sqrt(9 * 16)
    for leaf in params["conv0"].values():
        assert 0.9 * bound < float(jnp.abs(leaf).max()) <= bound
    assert float(params["linear"]["kernel"].std()) == pytest.approx(1, abs=0.05)
    assert not params["linear"]["bias"].any()


@pytest.mark.fast
def test_trunks_train_with_batch_statistics():
    for trunk in ("ir-se", "resnet", "idinvert"):
        shapes = encoder_files.shapes(tiny_encoder.arch(trunk, head="dense", num_ws=2))
        assert set(shapes) == {"params", "batch_stats"}
        assert set(shapes["batch_stats"]) == {"trunk", "head"}
    assert set(encoder_files.shapes(tiny_encoder.arch("dlib"))) == {"params"}
    assert tiny_encoder.arch().stages == tiny_ir_se.STAGES
