import dlib_networks
import numpy as np
import pytest

from lsap_jax.checkpoints import convert_dlib, dlib_file, dlib_stream
from lsap_jax.errors import CheckpointError

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def data() -> bytes:
    return dlib_networks.serialise(dlib_networks.random_params())


def test_a_network_comes_back_with_affine_layers_folded_in(data):
    tree, description = convert_dlib.convert({"face.dat": data})
    assert description == {"kind": "dlib-face"}
    want = dlib_networks.random_params()
    assert tree.keys() == want.keys()
    np.testing.assert_array_equal(tree["mean"], want["mean"])
    for name in ("stem", "head"):
        for leaf, value in want[name].items():
            np.testing.assert_allclose(tree[name][leaf], value, atol=1e-6)
    for i in range(14):
        for conv, leaves in want[f"block{i}"].items():
            for leaf, value in leaves.items():
                np.testing.assert_allclose(tree[f"block{i}"][conv][leaf], value, atol=1e-6)


def test_what_a_file_holds(data, tmp_path):
    path = tmp_path / "face.dat"
    path.write_bytes(data)
    network = dlib_file.load(path)
    assert network.input == {
        "kind": "input_rgb_image_sized",
        "mean": (122.75, 117.0, 104.25),
        "height": 150,
        "width": 150,
    }
    assert network.versions.count(2) == len(network.layers) - 1
    assert [layer.kind for layer in network.layers[:4]] == ["con_4", "affine_", "relu_", "max_pool_2"]
    assert network.layers[0].fields["stride"] == (2, 2)


@pytest.mark.parametrize("value", [0, 1, 255, 256, -1, -70000, 2**40])
def test_integers(value):
    assert dlib_stream.Stream(dlib_networks.integer(value)).integer() == value


@pytest.mark.parametrize("value", [0.0, 1.0, -0.75, 122.78199768066406, 1e-20])
def test_floats(value):
    assert dlib_stream.Stream(dlib_networks.number(value)).float() == pytest.approx(value, rel=2**-23)


def test_truncated_files_are_refused(data):
    for length in [*range(0, 400, 7), len(data) // 2, len(data) - 1]:
        with pytest.raises(CheckpointError, match="fetch it again"):
            dlib_file.load(data[:length])
    with pytest.raises(CheckpointError, match="too many"):
        dlib_file.load(data + b"\0")


def test_damaged_files_are_refused_or_harmless(data):
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(data), 100):
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.integers(8)
        try:
            convert_dlib.convert({"face.dat": bytes(damaged)})
        except CheckpointError:
            refused += 1
    assert refused > 10


def test_absurd_sizes_cost_nothing(data):
    start = data.index(b"con_4") + len("con_4")
    huge = dlib_networks.shape(2, 2**60, 2**60, 2**60, 2**60)
    with pytest.raises(CheckpointError, match="bytes wanted"):
        dlib_file.load(data[:start] + huge + data[start + 20 :])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"loss_metric_2", b"loss_multicla", "metric loss"),
        (b"relu_", b"tanh_", "unknown kind"),
        (b"input_rgb_image_sized", b"input_rgb_image_piped", "RGB images"),
    ],
)
def test_other_networks_are_refused(data, old, new, message):
    with pytest.raises(CheckpointError, match=message):
        dlib_file.load(data.replace(old, new))


def test_another_structure_is_refused():
    layer = dlib_networks.layer("relu_")
    params = dlib_networks.random_params()
    data = dlib_networks.serialise(params)
    with pytest.raises(CheckpointError, match="another network"):
        convert_dlib.convert({"face.dat": data.replace(layer, dlib_networks.layer("add_prev_"), 1)})
    params["block5"]["conv2"] = params["block12"]["conv2"]
    with pytest.raises(CheckpointError, match="fit together"):
        convert_dlib.convert({"face.dat": dlib_networks.serialise(params)})


def test_missing_and_wrong_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.dat"):
        dlib_file.load(tmp_path / "nothing.dat")
    with pytest.raises(CheckpointError, match="one dlib file"):
        convert_dlib.convert({})
