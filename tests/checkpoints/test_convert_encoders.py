import functools
from collections.abc import Mapping

import jax
import numpy as np
import pickled
import pytest
import torch_encoders
from torch_encoders import W_DIM

import lsap_jax as lj
from lsap_jax.checkpoints.convert_encoders import encoder_from_checkpoint, holds_encoder_alone
from lsap_jax.checkpoints.store import flatten
from lsap_jax.errors import CheckpointError
from lsap_jax.networks.encoders import EncoderArch
from lsap_jax.networks.ir_se import Stage

STAGES = tuple(Stage(width, 1) for width in (16, 20, 24, 28))
MEAN = np.linspace(-1, 1, W_DIM, dtype=np.float32)
DECODER = {"decoder.style.1.weight": np.zeros((2, 2), np.float32)}


def prefixed(tensors: Mapping, prefix: str) -> dict:
    return {prefix + key: value for key, value in tensors.items()}


@functools.cache
def reference():
    return encoder_from_checkpoint(torch_encoders.psp(), "psp.pt", start=MEAN)


def same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.fast
@pytest.mark.parametrize(
    "checkpoint",
    [
        lambda t: {"state_dict": prefixed(t, "encoder.") | DECODER, "latent_avg": MEAN},
        lambda t: {"state_dict": prefixed(t, "encoder.") | DECODER, "latent_avg": np.tile(MEAN, (8, 1)), "opts": {}},
        lambda t: {"encoder": prefixed(t, "encoder.") | {"latent_avg": MEAN[None]}, "decoder": {"style": MEAN}},
        lambda t: {"encoder": prefixed(t, "encoder.module.") | {"latent_avg": MEAN}, "global_step": 7},
        lambda t: {"state_dict": prefixed(t, "module.encoder.") | prefixed(DECODER, "module."), "latent_avg": MEAN},
        lambda t: prefixed(t, "encoder.") | {"latent_avg": MEAN},
        lambda t: prefixed(t, "module.") | {"latent_avg": MEAN},
    ],
    ids=["original", "rows", "GANInverter", "GANInverter-DDP", "original-DDP", "bare", "bare-DDP"],
)
def test_layouts(checkpoint):
    E = encoder_from_checkpoint(checkpoint(torch_encoders.psp()), "psp.pt")
    assert E.arch == reference().arch
    assert same((E.variables, E.start), (reference().variables, reference().start))
    np.testing.assert_array_equal(E.start, np.tile(MEAN, (8, 1)))


def test_what_the_tensors_say():
    sizes = {"w_dim": W_DIM, "width": W_DIM, "stages": STAGES}
    for tensors, arch in (
        (torch_encoders.psp(), EncoderArch(head="e4e", num_ws=8, **sizes)),
        (torch_encoders.psp(3), EncoderArch(head="e4e", num_ws=3, **sizes)),
        (torch_encoders.restyle(), EncoderArch(head="e4e", levels="last", input="rgb+render", num_ws=5, **sizes)),
        (torch_encoders.w_plus(), EncoderArch(head="w+", num_ws=4, **sizes)),
        (torch_encoders.w(), EncoderArch(head="w", num_ws=14, w_dim=W_DIM, stages=STAGES)),
    ):
        assert encoder_from_checkpoint(tensors, head="e4e", start=MEAN, num_ws=14).arch == arch
    composition = encoder_from_checkpoint(torch_encoders.latent_composition())
    stages = tuple(Stage(width, 2) for width in (16, 20, 24, 28))
    assert composition.arch == EncoderArch("resnet", stages, "pooled", input="rgb+mask", num_ws=18, start="zero")
    stages = tuple(Stage(width, 1) for width in (4, 6, 8, 8, 8))
    idinvert = encoder_from_checkpoint(torch_encoders.idinvert())
    assert idinvert.arch == EncoderArch("idinvert", stages, "dense", resolution=64, num_ws=3, start="zero")
    assert not idinvert.start.any()


@pytest.mark.fast
def test_kernels_are_transposed():
    tensors, params = torch_encoders.psp(), reference().variables["params"]["head"]
    np.testing.assert_array_equal(params["lateral1"]["kernel"][0, 0].T, tensors["latlayer1.weight"][:, :, 0, 0])
    conv = tensors["styles.7.convs.10.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["style7"]["conv5"]["kernel"], conv)
    np.testing.assert_array_equal(params["style0"]["linear"]["kernel"].T, tensors["styles.0.linear.weight"])


@pytest.mark.fast
def test_flattened_maps_are_read_in_pytorchs_order():
    x = np.random.default_rng(0).normal(size=(7, 7, W_DIM)).astype(np.float32)
    tensors = torch_encoders.w_plus()
    dense = encoder_from_checkpoint(tensors, start=MEAN).variables["params"]["head"]["dense"]
    want = tensors["output_layer_2.3.weight"] @ x.transpose(2, 0, 1).ravel() + tensors["output_layer_2.3.bias"]
    np.testing.assert_allclose(x.ravel() @ dense["kernel"] + dense["bias"], want, rtol=1e-3)


@pytest.mark.fast
def test_psp_or_e4e():
    tensors = torch_encoders.psp(1)

    def head(name="model.pt", opts=None, **kwargs):
        checkpoint = {"state_dict": prefixed(tensors, "encoder."), "latent_avg": MEAN, "opts": opts or {}}
        return encoder_from_checkpoint(checkpoint, name, **kwargs).arch.head

    assert head(opts={"encoder_type": "GradualStyleEncoder"}) == "psp"
    assert head(opts={"encoder_type": "Encoder4Editing"}, name="psp.pt") == "e4e"
    assert head(opts={"encoder_type": "ProgressiveBackboneEncoder"}) == "e4e"
    assert head(opts={"encoder_type": "Encoder4Editing"}, head="psp") == "psp"
    assert head("dir/e4e_ffhq_encode.pt") == "e4e"
    assert head("lsap_ffhq_encoder_wp.pt") == "e4e"
    assert head("psp_ffhq_encode.pt") == "psp"
    for name in ("model.pt", "psp_or_e4e.pt", "upsped.pt"):
        with pytest.raises(CheckpointError, match=f"{name}: pSp and e4e .* head='psp' or 'e4e'"):
            head(name)


@pytest.mark.fast
def test_rows_of_w_encoders():
    def rows(opts=None, mean=MEAN, **kwargs):
        checkpoint = {"state_dict": prefixed(torch_encoders.w(), "encoder."), "latent_avg": mean, "opts": opts or {}}
        return encoder_from_checkpoint(checkpoint, **kwargs).arch.num_ws

    assert rows({"output_size": 256}) == 14
    assert rows({"resolution": 1024}) == 18
    assert rows(mean=np.tile(MEAN, (10, 1))) == 10
    assert rows(num_ws=16) == 16
    with pytest.raises(CheckpointError, match="num_ws=18"):
        rows()


@pytest.mark.fast
def test_the_start():
    checkpoint = {
        "encoder": prefixed(torch_encoders.restyle(), "encoder."),
        "opts": {"encoder_type": "BackboneEncoder"},
    }
    with pytest.raises(CheckpointError, match=r"latent_avg is missing.*start=G\.w_avg"):
        encoder_from_checkpoint(checkpoint)
    assert encoder_from_checkpoint(checkpoint, start=MEAN).arch.start == "w_avg"
    checkpoint["opts"]["start_from_latent_avg"] = False
    E = encoder_from_checkpoint(checkpoint)
    assert (E.arch.head, E.arch.start) == ("psp", "zero")
    assert not E.start.any()
    for mean in (MEAN[:7], np.tile(MEAN, (7, 1)), MEAN * np.nan):
        with pytest.raises(CheckpointError, match="latent_avg"):
            encoder_from_checkpoint(torch_encoders.restyle() | {"latent_avg": mean}, head="psp")


NETWORKS = [
    torch_encoders.psp,
    torch_encoders.restyle,
    torch_encoders.w,
    torch_encoders.w_plus,
    torch_encoders.latent_composition,
    torch_encoders.idinvert,
]


@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_a_missing_tensor_is_named(make):
    tensors = {k: v for k, v in make().items() if "num_batches" not in k}
    for key in tensors:
        with pytest.raises(CheckpointError) as caught:
            encoder_from_checkpoint(
                {k: v for k, v in tensors.items() if k != key}, "file.pt", head="e4e", start=MEAN, num_ws=8
            )
        assert key in str(caught.value), key
        assert str(caught.value).startswith("file.pt: ")


@pytest.mark.fast
@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_a_tensor_left_over_is_named(make):
    for key in (
        "body.0.res_layer.1.bias",
        "styles.0.extra",
        "layer5.fc.weight",
        "block1.noise.weight",
        "residue.weight",
    ):
        with pytest.raises(CheckpointError, match=r"(body|styles|layer5|block1|residue)\.\S+ is "):
            encoder_from_checkpoint(make() | {key: np.zeros(3)}, head="e4e", start=MEAN, num_ws=8)


@pytest.mark.fast
def test_wrong_tensors_are_named():
    tensors = torch_encoders.psp()
    for key, value, message in (
        ("styles.3.convs.2.weight", np.zeros((W_DIM, 9, 3, 3)), r"style3/conv1/kernel has shape \(3, 3, 9, 28\)"),
        ("styles.3.convs.2.bias", np.full(W_DIM, np.inf), "style3/conv1/bias has NaN"),
        ("latlayer1.weight", np.zeros(3), r"latlayer1\.weight has shape \(3,\)"),
        ("latlayer1.weight", "text", r"latlayer1\.weight is no tensor"),
        ("input_layer.0.weight", np.zeros((16, 5, 3, 3)), "takes 5 channels"),
    ):
        with pytest.raises(CheckpointError, match=message):
            encoder_from_checkpoint(tensors | {key: value}, head="psp", start=MEAN)


@pytest.mark.fast
def test_what_is_no_encoder():
    for thing, message in (
        ([1, 2], "holds list"),
        ({}, "no encoder found"),
        ({"g_ema": {"conv1.conv.weight": MEAN}}, "no encoder found; its entries are g_ema"),
        ({"state_dict": DECODER}, "no encoder found"),
    ):
        with pytest.raises(CheckpointError, match=message):
            encoder_from_checkpoint(thing, head="psp")
        assert not holds_encoder_alone(thing)


@pytest.mark.fast
def test_from_files(tmp_path):
    path = tmp_path / "e4e_tiny.pt"
    opts = {"encoder_type": "Encoder4Editing", "start_from_latent_avg": True}
    tensors = prefixed(torch_encoders.psp(4), "encoder.")
    path.write_bytes(pickled.pytorch_file({"state_dict": tensors, "latent_avg": MEAN, "opts": opts}))
    E = lj.load_encoder(path)
    assert (E.arch.head, E.arch.num_ws, E.name) == ("e4e", 4, str(path))
    want = encoder_from_checkpoint(torch_encoders.psp(4), head="e4e", start=MEAN)
    assert flatten(jax.device_get(E.variables)).keys() == flatten(want.variables).keys()
    assert same(E.variables, want.variables)
    path = tmp_path / "bare.pth"
    path.write_bytes(pickled.pytorch_file(torch_encoders.psp(4)))
    with pytest.raises(CheckpointError, match="head='psp' or 'e4e'"):
        lj.load_encoder(path)
    assert same(lj.load_encoder(path, head="e4e", start=MEAN).variables, E.variables)
