import io
import os
import pickle
import struct

import numpy as np
import pickled
import pytest
from pickled import Call, Name

from lsap_jax.checkpoints import numpy_file
from lsap_jax.errors import CheckpointError

pytestmark = pytest.mark.fast
BOUNDARY = {
    "boundary": np.arange(28, dtype=np.float64).reshape(1, 14, 2),
    "meta_data": {"manipulate_layers": np.array([0, 1, 2]), "name": "age"},
}
ARRAYS = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(10)[::2],
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 3), np.float16),
    "bool": np.array([True, False]),
    "text": np.array(["a", "bcé"]),
    "bytes": np.array([b"a", b"bc"]),
    "complex": np.array([1 + 2j]),
    "big endian": np.arange(3, dtype=">i4"),
    "unsigned": np.arange(3, dtype=np.uint64),
}


def saved(array, **kwargs):
    buffer = io.BytesIO()
    np.save(buffer, array, **kwargs)
    return buffer.getvalue()


def assert_same(found, array):
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.shape == array.shape
    assert found.flags.c_contiguous
    assert found.flags.writeable


def assert_boundary(found):
    assert list(found) == list(BOUNDARY)
    assert_same(found["boundary"], BOUNDARY["boundary"])
    assert_same(found["meta_data"]["manipulate_layers"], np.array([0, 1, 2]))
    assert found["meta_data"]["name"] == "age"


@pytest.mark.parametrize("name", ARRAYS)
def test_reads_npy(tmp_path, name):
    path = tmp_path / "a.npy"
    np.save(path, ARRAYS[name])
    assert_same(numpy_file.load(path), ARRAYS[name])


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_reads_every_version(version):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, ARRAYS["float"], version)
    assert_same(numpy_file.load(buffer.getvalue()), ARRAYS["float"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_npz(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, **ARRAYS, boundary=np.array(BOUNDARY, dtype=object))
    found = numpy_file.load(path)
    assert_boundary(found.pop("boundary"))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert_same(found[name], array)


def test_reads_an_object_in_an_npy():
    assert_boundary(numpy_file.load(saved(np.array(BOUNDARY, dtype=object))))


def test_reads_arrays_of_objects():
    array = np.empty((2, 2), object)
    array[0, 0], array[0, 1], array[1, 0] = [1, 2], "a", np.arange(2)
    for given in (array, np.asfortranarray(array)):
        found = numpy_file.load(saved(given))
        assert found.shape == (2, 2)
        assert found[0, 0] == [1, 2]
        assert found[0, 1] == "a"
        assert found[1, 1] is None
        assert_same(found[1, 0], np.arange(2))


def test_reads_headers_of_python_2():
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1L, 2L), }\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + np.array([1, 2], np.float32).tobytes()
    assert_same(numpy_file.load(data), np.array([[1, 2]], np.float32))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_pickles_of_arrays(tmp_path, protocol):
    path = tmp_path / "vgg16.ckpt"
    path.write_bytes(pickle.dumps({**ARRAYS, "boundary": BOUNDARY, "number": np.float32(1.5)}, protocol))
    found = numpy_file.load_pickle(path)
    for name, array in ARRAYS.items():
        assert_same(found[name], array)
    assert_boundary(found["boundary"])
    assert found["number"] == np.float32(1.5)
    assert type(found["number"]) is np.float32


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_reads_both_homes_of_numpy_and_python_2_strings(module):
    kind = Call(Name("numpy", "dtype"), ("f4", 0, 1), (3, "<", None, None, None, -1, -1, 0))
    contents = np.array([1, -1e30], np.float32).tobytes().decode("latin-1")
    array = Call(Name(module, "_reconstruct"), (Name("numpy", "ndarray"), (0,), "b"), (1, (2,), kind, False, contents))
    assert_same(numpy_file.load_pickle(pickled.dumps(array)), np.array([1, -1e30], np.float32))


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_nothing_is_executed(tmp_path):
    marker = tmp_path / "ran"
    evil = np.array({"boundary": Evil(marker)}, dtype=object)
    path = tmp_path / "age.npz"
    np.savez(path, evil=evil)
    for read, source in [
        (numpy_file.load, saved(evil)),
        (numpy_file.load, path),
        (numpy_file.load_pickle, pickle.dumps(Evil(marker))),
    ]:
        with pytest.raises(CheckpointError, match=r"\w+\.system.*nothing was executed"):
            read(source)
    assert not marker.exists()


def npy(header, contents=b""):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + contents


SHAPE = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"), "contents of 0 bytes"),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "impossible shape"),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': 3}"), "impossible shape"),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 1" + b"0" * 200 + b")}"), "damaged"),
        (npy(b"{'descr': '<f4', 'shape': ()}"), "fortran_order"),
        (npy(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}"), "numpy dtype"),
        (npy(b"{'descr': '<M8[s]', 'fortran_order': False, 'shape': ()}"), "numpy dtype"),
        (npy(b"{'descr': '|V4', 'fortran_order': False, 'shape': ()}"), "numpy dtype"),
        (npy(b"{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,)}"), "lacks its contents"),
        (npy(b"{'descr': '<U999999999', 'fortran_order': False, 'shape': ()}"), "damaged"),
        (npy(b"__import__('os').system('true')"), "damaged"),
        (npy(b"(" * 5000), "damaged"),
        (npy(b"{'descr': '|O', 'fortran_order': False, 'shape': ()}", b"\x80\x02}."), "holds a dict instead"),
        (npy(b"{'descr': '|O', 'fortran_order': False, 'shape': ()}"), "cut short"),
        (b"\x93NUMPY\x09\x00", "version"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "does not end"),
        (b"<html></html>", "web page"),
        (b"\x80\x04}.", "not an .npy or .npz file but a plain pickle"),
        (saved(ARRAYS["float"])[:-1], "24 bytes has contents of 23"),
        (saved(ARRAYS["float"]) + b"x", "24 bytes has contents of 25"),
    ],
)
def test_wrong_files_are_refused(tmp_path, data, message):
    path = tmp_path / "age.npy"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"age.npy: .*{message}"):
        numpy_file.load(path)


def dtype(text="f4", order="<", names=None):
    return Call(Name("numpy", "dtype"), (text, False, True), (3, order, None, names, None, -1, -1, 0))


def reconstructed(state, cls="ndarray"):
    return Call(Name("numpy.core.multiarray", "_reconstruct"), (Name("numpy", cls), (0,), b"b"), state)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (reconstructed((1, (2,), dtype(), False, bytes(4))), "8 bytes has contents of 4"),
        (reconstructed((1, (2**60,), dtype(), False, bytes(4))), "contents of 4"),
        (reconstructed((1, (1,), "f4", False, bytes(4))), "lacks its dtype"),
        (reconstructed((1, (1,), dtype(), False, 5)), "lacks its contents"),
        (reconstructed((1, (2,), dtype("O8", "|"), False, [1])), "as many items"),
        (reconstructed((1, (2,), dtype("O8", "|"), False, b"ab")), "as many items"),
        (reconstructed((1,)), "damaged"),
        (reconstructed((1, (0,), dtype(), False, b""), "matrix"), "numpy.matrix, which is not on the list"),
        (dtype("V8", "|", ("a", "b")), "numpy dtype 'V8' is not read"),
        (dtype("f4", "<", ("a",)), "structured"),
        (dtype("f4", "?"), "structured"),
        (dtype("f4,f4"), "is not read"),
        (Call(Name("numpy.core.multiarray", "scalar"), (dtype(), bytes(3))), "contents of 3"),
        (Call(Name("numpy.core.multiarray", "scalar"), (dtype("O8", "|"), [1])), "no usable dtype"),
        (Call(Name("numpy._core.numeric", "_frombuffer"), (bytes(4), dtype(), (1,), "K")), "memory order"),
        (Name("numpy", "load"), "not on the list"),
    ],
)
def test_wrong_pickles_are_refused(value, message):
    with pytest.raises(CheckpointError, match=message):
        numpy_file.load_pickle(pickled.dumps(value))


def test_large_array_cannot_be_copied_over_and_over():
    kind, contents = dtype(), bytes(4 * 10**5)
    array = [Call(Name("numpy._core.numeric", "_frombuffer"), (contents, kind, (10**5,), "C")) for _ in range(10**3)]
    with pytest.raises(CheckpointError, match="beyond its own size"):
        numpy_file.load_pickle(pickled.dumps(array, 4))


@pytest.mark.parametrize("source", ["npy", "object", "npz", "pickle"])
def test_damage_is_always_a_checkpoint_error(source):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=ARRAYS["float"], b=np.array(BOUNDARY, dtype=object))
    data = {
        "npy": saved(ARRAYS["float"]),
        "object": saved(np.array(BOUNDARY, dtype=object)),
        "npz": buffer.getvalue(),
        "pickle": pickle.dumps(BOUNDARY, 4),
    }[source]
    failures = 0
    for broken in pickled.damaged(data, flips=300):
        try:
            (numpy_file.load_pickle if source == "pickle" else numpy_file.load)(broken)
        except CheckpointError:
            failures += 1
    assert failures >= 30
