import jax
import moco_network
import numpy as np
import pytest

from lsap_jax.checkpoints import convert_moco
from lsap_jax.errors import CheckpointError

pytestmark = pytest.mark.fast
PREFIX = moco_network.PREFIX


def test_structure_and_folded_normalisation():
    tensors = moco_network.state_dict()
    params = convert_moco.convert(moco_network.checkpoint())
    depths = [len(params[f"layer{layer}"]) for layer in range(1, 5)]
    assert tuple(depths) == moco_network.DEPTHS
    kernels = [v for k, v in tensors.items() if v.ndim == 4]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(k.size + len(k) for k in kernels)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    got, name = params["layer2"]["block0"]["shortcut"], f"{PREFIX}layer2.0.downsample"
    x = np.random.default_rng(0).normal(size=(5, 16))
    y = x @ tensors[f"{name}.0.weight"][:, :, 0, 0].T
    y = (y - tensors[f"{name}.1.running_mean"]) / np.sqrt(tensors[f"{name}.1.running_var"] + 1e-5)
    y = y * tensors[f"{name}.1.weight"] + tensors[f"{name}.1.bias"]
    np.testing.assert_allclose(x @ got["kernel"][0, 0] + got["bias"], y, atol=1e-5)


def test_a_bare_state_dict_will_do():
    jax.tree.map(
        np.testing.assert_array_equal,
        convert_moco.convert(moco_network.state_dict()),
        convert_moco.convert(moco_network.checkpoint()),
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("layer3.1.conv2.weight", None, r"encoder_q\.layer3\.1\.conv2\.weight is missing"),
        ("bn1.running_var", None, r"encoder_q\.bn1\.running_var is missing"),
        ("layer1.0.downsample.0.weight", None, r"layer1\.0\.downsample\.0\.weight is missing"),
        ("layer2.1.bn1.weight", np.zeros(6), r"layer2\.1\.bn1\.weight is not a weight"),
        ("layer2.0.conv2.weight", np.zeros((6, 6, 1, 1)), r"has shape \(6, 6, 1, 1\); \(\?, 6, 3, 3\) would fit"),
        ("layer2.0.bn2.bias", np.zeros(5), r"layer2\.0\.bn2\.bias has shape \(5,\); \(6,\) would fit"),
    ],
)
def test_wrong_tensors_are_named(key, value, message):
    tensors = moco_network.state_dict() | {PREFIX + key: value}
    with pytest.raises(CheckpointError, match=message):
        convert_moco.convert({k: v for k, v in tensors.items() if v is not None})


@pytest.mark.parametrize("other", [{}, {"state_dict": {"conv1.weight": np.zeros(3)}}, [1, 2], np.zeros(3)])
def test_other_checkpoints_are_refused(other):
    with pytest.raises(CheckpointError, match="not a MoCo checkpoint"):
        convert_moco.convert(other)
