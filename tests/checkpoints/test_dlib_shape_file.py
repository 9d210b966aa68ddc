import dlib_predictors
import numpy as np
import pytest
from dlib_networks import integer, number

from lsap_jax.checkpoints import dlib_shape_file
from lsap_jax.checkpoints.dlib_stream import FormatError, Stream, as_floats
from lsap_jax.errors import CheckpointError

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def data() -> bytes:
    return dlib_predictors.serialise(dlib_predictors.random_predictor())


def test_a_predictor_comes_back(data, tmp_path):
    tree, description = dlib_shape_file.convert({"shape.dat": data})
    assert description == {"kind": "dlib-landmarks"}
    want = dlib_predictors.random_predictor()
    assert tree.keys() == want.keys()
    for name, value in want.items():
        assert tree[name].dtype == value.dtype
        np.testing.assert_array_equal(tree[name], value)
    path = tmp_path / "shape.dat"
    path.write_bytes(data)
    np.testing.assert_array_equal(dlib_shape_file.load(path)["leaves"], want["leaves"])


def test_floats_of_any_length():
    values = np.array([0.1, -0.1, 1 / 3, 0.0, 1.0, -0.75, 65537.0, 1e-30, -1e30, 0.3, 0.7], np.float32)
    for written in (dlib_predictors.floats(values), b"".join(number(float(v)) for v in values)):
        stream = Stream(written + b"rest")
        np.testing.assert_array_equal(as_floats(stream.pairs(len(values))), values)
        assert bytes(stream.data[stream.at :]) == b"rest"
    with pytest.raises(FormatError, match="infinite"):
        as_floats(np.array([[0, 32000]]))
    with pytest.raises(FormatError, match="range"):
        as_floats(np.array([[1, 500]]))


def test_truncated_files_are_refused(data):
    for length in [*range(0, 300, 7), *np.linspace(300, len(data) - 1, 40).astype(int)]:
        with pytest.raises(CheckpointError, match="fetch it again"):
            dlib_shape_file.load(data[:length])
    with pytest.raises(CheckpointError, match="too many"):
        dlib_shape_file.load(data + b"\0")


def test_damaged_files_are_refused_or_harmless(data):
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(data), 100):
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.integers(8)
        try:
            tree = dlib_shape_file.load(bytes(damaged))
        except CheckpointError:
            refused += 1
        else:
            assert tree["anchors"].max() < 68
            assert tree["pixels"].max() < 400
    assert refused > 10


def test_absurd_sizes_cost_nothing(data):
    mean = dlib_predictors.matrix(dlib_predictors.random_predictor()["mean"])
    assert data.startswith(integer(1) + mean)
    huge = integer(2**60)
    for bad in (
        integer(1) + integer(-(2**60)) + integer(-1) + data[9:],
        integer(1) + mean + huge + data[len(mean) + 3 :],
        integer(1) + mean + integer(1) + integer(1) + huge + data[len(mean) + 6 :],
    ):
        with pytest.raises(CheckpointError, match=r"elements|wanted"):
            dlib_shape_file.load(bad)


def test_impossible_numbers_are_refused():
    params = dlib_predictors.random_predictor()
    params["anchors"][1, 7] = 68
    with pytest.raises(CheckpointError, match=r"landmark number outside of 0\.\.67"):
        dlib_shape_file.load(dlib_predictors.serialise(params))
    params = dlib_predictors.random_predictor()
    params["pixels"][0, 0, 0, 1] = 400
    with pytest.raises(CheckpointError, match="pixel number"):
        dlib_shape_file.load(dlib_predictors.serialise(params))
    params = dlib_predictors.random_predictor()
    params["leaves"] = params["leaves"][:, :, :3]
    with pytest.raises(CheckpointError, match="3 splits and 3 leaves"):
        dlib_shape_file.load(dlib_predictors.serialise(params))
    params = dlib_predictors.random_predictor()
    params["deltas"] = params["deltas"][:, :-1]
    with pytest.raises(CheckpointError, match="as many pixels"):
        dlib_shape_file.load(dlib_predictors.serialise(params))


def test_other_predictors_and_files_are_refused(tmp_path):
    five = dlib_predictors.serialise(dlib_predictors.random_predictor(landmarks=5))
    assert dlib_shape_file.load(five)["mean"].shape == (5, 2)
    with pytest.raises(CheckpointError, match="predictor of 5 landmarks"):
        dlib_shape_file.convert({"shape.dat": five})
    with pytest.raises(CheckpointError, match="one dlib file"):
        dlib_shape_file.convert({})
    with pytest.raises(CheckpointError, match=r"nothing\.dat"):
        dlib_shape_file.load(tmp_path / "nothing.dat")
    with pytest.raises(CheckpointError, match="version"):
        dlib_shape_file.load(integer(2) + five[2:])
