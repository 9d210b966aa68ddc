import io
import pathlib
import re
import struct
import time
import zipfile
from collections import OrderedDict

import numpy as np
import pickled
import pytest
from pickled import Call, Name

from lsap_jax.checkpoints import torch_file
from lsap_jax.errors import CheckpointError

pytestmark = pytest.mark.fast
BASE = np.arange(48, dtype=np.float32).reshape(6, 8)
FOLDER = pathlib.Path(__file__).parents[1] / "fixtures" / "checkpoints"
SAMPLES = ["sample.pt", "sample_legacy.pt"]


def assert_arrays(found, expected):
    """The same arrays under the same keys: values, shapes and dtypes; and each its own."""
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert type(found[key]) is np.ndarray
        assert found[key].dtype == array.dtype
        assert found[key].flags.c_contiguous
        assert found[key].flags.writeable
        np.testing.assert_array_equal(found[key], array, strict=True)


@pytest.mark.parametrize("file", SAMPLES)
def test_reads_what_pytorch_writes(file):
    saved = torch_file.load(FOLDER / file)
    batch_norm = {
        "weight": np.ones(3, np.float32),
        "bias": np.zeros(3, np.float32),
        "running_mean": np.zeros(3, np.float32),
        "running_var": np.ones(3, np.float32),
        "num_batches_tracked": np.array(0),
    }
    assert_arrays(saved["state_dict"], batch_norm)
    assert type(saved["state_dict"]) is dict
    shared = {"whole": BASE, "transposed": BASE.T, "every_other": BASE[1:4, ::2], "row": BASE[2]}
    assert_arrays(saved["shared"], shared)
    rest = {"expanded": np.tile(np.arange(3, dtype=np.float32), (4, 1)), "scalar": np.array(3.5, np.float32)}
    rest["empty"] = np.empty((0, 3), np.float32)
    assert_arrays({key: saved[key] for key in rest}, rest)
    values = [np.arange(4, dtype=np.float32) / np.float32(3), np.ones(2, np.float32), np.ones(1, np.float32)]
    assert_arrays(dict(enumerate(saved["parameters"])), dict(enumerate(values)))
    dtypes = {name: np.array([0, 1, 5]).astype("float32" if name == "bfloat16" else name) for name in saved["dtypes"]}
    assert len(dtypes) == 13
    assert_arrays(saved["dtypes"], dtypes)
    assert saved["opts"] == {"lr": 0.5, "name": "x", "layers": [1, 2], "device": "cuda:0", "path": "a/b"}
    assert saved["size"] == (1, 2)
    assert saved["dtype"] == "float32"
    assert_arrays({"a": saved["numpy"]["array"]}, {"a": np.arange(6.0).reshape(2, 3)})
    assert saved["numpy"]["scalar"] == np.float32(2.5)
    assert saved["plain"] == [1, -(10**20), 1.5, True, None, "é", b"\xff", (1, (2,)), {3}, {"a": [1]}]


@pytest.mark.parametrize("file", SAMPLES)
def test_paths_and_bytes_give_the_same(file):
    assert repr(torch_file.load(str(FOLDER / file))) == repr(torch_file.load((FOLDER / file).read_bytes()))


@pytest.mark.parametrize("file", SAMPLES)
def test_tensors_of_one_storage_do_not_share_memory(file):
    shared = torch_file.load(FOLDER / file)["shared"]
    shared["whole"][:] = -1
    np.testing.assert_array_equal(shared["row"], BASE[2])


def test_reads_archives_without_checksums():
    np.testing.assert_array_equal(torch_file.load(FOLDER / "no_checksums.pt")["x"], [0, 1, 2])


# Files made here


def archive(value, records, prefix="archive/", **kwargs):
    """PyTorch's zip format: `records` are its other records."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **kwargs) as file:
        file.writestr(f"{prefix}data.pkl", value if isinstance(value, bytes) else pickled.dumps(value))
        for name, contents in records.items():
            file.writestr(f"{prefix}{name}", contents)
    return buffer.getvalue()


def rebuilt(kind, count, size, stride, offset=0, key="0", function="_rebuild_tensor_v2", extra=()):
    storage = pickled.Persistent(("storage", Name("torch", kind), key, "cpu", count))
    args = (storage, offset, size, stride, False, OrderedDict(), *extra)
    return Call(Name("torch._utils", function), args[:4] if function == "_rebuild_tensor" else args)


def test_big_endian_files_are_swapped():
    floats, halves = np.array([1.5, -2.0], ">f4"), np.array([0x3FC0, 0xC000], ">u2")  # bfloat16 1.5 and -2
    value = [
        rebuilt("FloatStorage", 2, (2,), (1,)),
        rebuilt("BFloat16Storage", 2, (2,), (1,), key="1"),
        rebuilt("UntypedStorage", 8, (2,), (1,), function="_rebuild_tensor_v3", extra=(Name("torch", "float32"),)),
    ]
    data = archive(value, {"byteorder": b"big", "data/0": floats.tobytes(), "data/1": halves.tobytes()})
    for found in torch_file.load(data):
        np.testing.assert_array_equal(found, np.array([1.5, -2], np.float32), strict=True)


@pytest.mark.parametrize("prefix", ["", "any name/", "a/b/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_prefix_and_compression_do_not_matter(prefix, compression):
    value = rebuilt("LongStorage", 3, (2,), (2,), function="_rebuild_tensor")
    records = {"version": "3\n", "data/0": np.arange(3).tobytes()}
    data = archive(value, records, prefix, compression=compression)
    np.testing.assert_array_equal(torch_file.load(data), [0, 2], strict=True)


def test_old_views_of_storages_are_read():
    part = pickled.Persistent(("storage", Name("torch.cuda", "FloatStorage"), "9", "cuda:0", 6, ("view", 2, 3)))
    value = Call(Name("torch._utils", "_rebuild_tensor"), (part, 1, (2,), (1,)))
    data = pickled.torch_file(value, {"9": np.arange(6, dtype=np.float32)})
    np.testing.assert_array_equal(torch_file.load(data), np.array([3, 4], np.float32), strict=True)


def test_a_bare_storage_becomes_an_array():
    data = pickled.torch_file(pickled.storage("1", 2), {"1": np.array([1, 2], np.float32)})
    np.testing.assert_array_equal(torch_file.load(data), np.array([1, 2], np.float32), strict=True)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("module.pt", r"torch\.nn\.modules\.linear\.Linear.*state_dict"),
        ("complex.pt", "ComplexFloatStorage"),
        ("quantized.pt", "_rebuild_qtensor"),
        ("torchscript.pt", "TorchScript.*state_dict"),
    ],
)
def test_other_contents_are_refused_by_name(file, message):
    with pytest.raises(CheckpointError, match=f"{file}: .*{message}"):
        torch_file.load(FOLDER / file)


FLOATS = np.arange(4, dtype=np.float32).tobytes()
V3 = {"function": "_rebuild_tensor_v3"}


@pytest.mark.parametrize(
    ("value", "records", "message"),
    [
        (rebuilt("FloatStorage", 4, (4,), (1,)), {}, "data/0' is missing"),
        (rebuilt("FloatStorage", 4, (4,), (1,)), {"data/0": FLOATS[:-4]}, "has 12 bytes.*need 16"),
        (rebuilt("FloatStorage", 4, (5,), (1,)), {"data/0": FLOATS}, r"\(5,\) reaches beyond.*4 elements"),
        (rebuilt("FloatStorage", 4, (2, 2), (2, 2)), {"data/0": FLOATS}, "reaches beyond"),
        (rebuilt("FloatStorage", 4, (4,), (1,), offset=1), {"data/0": FLOATS}, "reaches beyond"),
        (rebuilt("FloatStorage", 4, (4,), (-1,), offset=3), {"data/0": FLOATS}, "negative"),
        (rebuilt("FloatStorage", 4, (1.0,), (1,)), {"data/0": FLOATS}, "fractional"),
        (rebuilt("FloatStorage", 4, (4,), (1, 1)), {"data/0": FLOATS}, "do not fit"),
        (rebuilt("FloatStorage", 4, (2**50,), (0,)), {"data/0": FLOATS}, "absurdly larger"),
        (rebuilt("FloatStorage", 4, (1,) * 100, (1,) * 100), {"data/0": FLOATS}, "damaged"),
        (rebuilt("FloatStorage", 4, (4,), (1,), extra=({"neg": True},)), {"data/0": FLOATS}, "resolve_neg"),
        (
            rebuilt("UntypedStorage", 16, (2,), (1,), extra=(Name("torch", "complex64"),), **V3),
            {"data/0": FLOATS},
            "c.*64",
        ),
        (
            rebuilt("UntypedStorage", 15, (2,), (1,), extra=(Name("torch", "float"),), **V3),
            {"data/0": FLOATS[1:]},
            "dtype",
        ),
        (rebuilt("FloatStorage", 4, (4,), (1,), key=3), {"data/3": FLOATS}, "unknown type, key or size"),
        (rebuilt("float32", 4, (4,), (1,)), {"data/0": FLOATS}, "unknown type, key or size"),
        (rebuilt("FloatStorage", -1, (4,), (1,)), {"data/0": FLOATS}, "unknown type, key or size"),
        (pickled.Persistent("x"), {}, "other than a storage"),
        (Call(Name("torch._utils", "_rebuild_tensor"), ([1.0], 0, (1,), (1,))), {}, "no storage"),
        ([], {"byteorder": b"middle"}, "neither little nor big"),
        (b"\x80\x02}", {}, "cut short"),
        (Name("os", "system"), {}, "os.system"),
    ],
)
def test_wrong_contents_are_refused(value, records, message):
    with pytest.raises(CheckpointError, match=message):
        torch_file.load(archive(value, records))


def test_wrong_legacy_contents_are_refused():
    good = pickled.torch_file([pickled.storage("1", 2)], {"1": np.ones(2, np.float32)})
    cases = {
        "storage 1 is truncated": good[:-1],
        "storage 1 is truncated or not of 2": good[:-16] + struct.pack("<q", 3) + good[-8:],
        "storage 1 is missing": pickled.torch_file([pickled.storage("1", 2)], {}),
        "belongs to no tensor": pickled.torch_file([], {"1": np.ones(2, np.float32)}),
        "used with two sizes": pickled.torch_file(
            [pickled.storage("1", 2), pickled.storage("1", 3)], {"1": np.ones(2, np.float32)}
        ),
        "unknown version": good.replace(pickled.dumps(1001), pickled.dumps(1002)),
        "os.system": pickled.torch_file(Call(Name("os", "system"), ("true",)), {}),
        "something other than a storage": pickled.torch_file(pickled.Persistent(("module", 1, 2, 3)), {}),
    }
    for message, data in cases.items():
        with pytest.raises(CheckpointError, match=message):
            torch_file.load(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>", "web page"),
        (b"\xef\xbb\xbf\n <HTML lang='en'>", "web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"", "empty"),
        (bytes(257) + b"ustar" + bytes(250), "tar format.*save it again"),
        (b"\x93NUMPY\x01\x00", r"not a PyTorch file but an \.npy"),
        (b"just text", "of an unknown kind"),
        (b"\x80\x04}.", "a plain pickle"),
        (b"PK\x03\x04" + bytes(100), "damaged or truncated zip"),
    ],
)
def test_other_files_are_recognised(tmp_path, data, message):
    path = tmp_path / "g_ema.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"g_ema.pt: .*{message}"):
        torch_file.load(path)


def test_unreadable_paths_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
        torch_file.load(tmp_path / "gone.pt")
    with pytest.raises(CheckpointError, match="a folder"):
        torch_file.load(tmp_path)


def test_archives_that_unpack_to_too_much_are_refused():
    data = archive([], {"data/0": b"x"})
    sizes = struct.pack("<II", 2**31, 2**32 - 2)  # at 20 of an entry of the directory
    data = re.sub(rb"(PK\x01\x02.{16}).{8}", lambda match: match[1] + sizes, data, flags=re.DOTALL)
    with pytest.raises(CheckpointError, match="would unpack to 8589934588"):
        torch_file.load(data)


def test_records_that_unpack_to_more_than_announced_are_refused():
    value = rebuilt("FloatStorage", 4, (4,), (1,))
    data = archive(value, {"data/0": bytes(0x12345)}, compression=zipfile.ZIP_DEFLATED)
    data = data.replace(struct.pack("<I", 0x12345), struct.pack("<I", 16))
    with pytest.raises(CheckpointError, match=r"data/0' (cannot be read|is damaged)"):
        torch_file.load(data)


@pytest.mark.parametrize("file", SAMPLES)
def test_damage_is_always_a_checkpoint_error(file):
    data = (FOLDER / file).read_bytes()
    start, failures = time.process_time(), 0
    for broken in pickled.damaged(data):
        try:
            torch_file.load(broken)
        except CheckpointError:
            failures += 1
    assert failures >= 30  # every truncation
    assert time.process_time() - start < 10


def test_damage_below_the_checksums_is_a_checkpoint_error():
    with zipfile.ZipFile(FOLDER / "sample.pt") as file:
        pickle, *others = file.namelist()
        assert pickle.endswith("/data.pkl")
        records = {name.partition("/")[2]: file.read(name) for name in others}
        good = file.read(pickle)
    failures = 0
    for broken in pickled.damaged(good, flips=300):
        try:
            torch_file.load(archive(broken, records))
        except CheckpointError:
            failures += 1
    assert failures >= 30


def test_a_large_file_takes_no_loop_over_its_elements():
    values = np.arange(2**23, dtype=np.float32)
    data = archive(rebuilt("FloatStorage", 2**23, (2**11, 2**12), (2**12, 1)), {"data/0": values.tobytes()})
    start = time.process_time()
    found = torch_file.load(data)
    assert time.process_time() - start < 0.5  # 32 MiB; about 40 ms
    np.testing.assert_array_equal(found.reshape(-1), values)
