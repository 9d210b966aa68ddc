import io
import pathlib
import pickle

import numpy as np
import pickled
import pytest
from pickled import Call, Name

from lsap_jax.checkpoints.read import read
from lsap_jax.errors import CheckpointError

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "checkpoints"
pytestmark = pytest.mark.fast


def test_reads_by_content_not_by_name(tmp_path):
    array = np.arange(3, dtype=np.float32)
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, array)
    np.savez(npz, x=array)
    meta = {"type": "class", "class_name": "G", "state": {"_parameters": {"x": pickled.tensor(array)}}}
    network = Call(Name("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,))
    files = {
        "torch": (FIXTURES / "no_checksums.pt").read_bytes(),
        "legacy": pickled.torch_file({"x": pickled.storage("1", 3)}, {"1": array}),
        "nvidia": pickled.dumps({"G": network}),
        "npz": npz.getvalue(),
        "npy": npy.getvalue(),
        "pickle": pickle.dumps({"x": array}),
        "old pickle": pickle.dumps({"x": array}, 0),
    }
    for kind, data in files.items():
        path = tmp_path / "weights.bin"
        path.write_bytes(data)
        found = read(path)
        found = found["G"].state if kind == "nvidia" else found
        found = found if kind == "npy" else found["x"]
        np.testing.assert_array_equal(found, array, strict=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "unknown kind; a PyTorch file"),
        (b"<html>", "web page"),
        (bytes(257) + b"ustar" + bytes(250), "tar format"),
        (pickled.dumps(Call(Name("dnnlib.tflib.network", "Network"))), "legacy.py"),
    ],
)
def test_other_files_are_refused(data, message):
    with pytest.raises(CheckpointError, match=message):
        read(data)


def test_a_zip_of_something_else_is_refused(tmp_path):
    import zipfile

    path = tmp_path / "code.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("README", "hello")
    with pytest.raises(CheckpointError, match=r"code\.zip: a zip archive of something else"):
        read(path)
