import os

import numpy as np
import pytest

from lsap_jax.checkpoints import store
from lsap_jax.errors import CheckpointError

pytestmark = pytest.mark.fast

TREE = {"a": {"weight": np.arange(6.0).reshape(2, 3), "b": {"c": np.int32(4)}}, "d": np.zeros((0, 2), np.uint8)}


def test_round_trip_keeps_values_dtypes_order_and_description(tmp_path):
    store.save(tmp_path / "new" / "w.npz", TREE, {"kind": "test", "n": [1, 2]})
    tree, meta = store.load(tmp_path / "new" / "w.npz")
    assert meta == {"kind": "test", "n": [1, 2]}
    assert list(store.flatten(tree)) == list(store.flatten(TREE))
    for got, want in zip(store.flatten(tree).values(), store.flatten(TREE).values(), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_every_truncation_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "w.npz"
    store.save(path, TREE, {})
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"w\.npz"):
            store.load(path)


def test_foreign_npz_and_missing_file_are_refused(tmp_path):
    np.savez(tmp_path / "foreign.npz", x=np.ones(3))
    with pytest.raises(CheckpointError, match="convert_checkpoint"):
        store.load(tmp_path / "foreign.npz")
    with pytest.raises(CheckpointError, match="no such file"):
        store.load(tmp_path / "absent.npz")


def test_objects_are_not_unpickled(tmp_path):
    meta = np.frombuffer(b"{}", np.uint8)
    np.savez(tmp_path / "w.npz", **{store.META_KEY: meta, "x": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(CheckpointError, match="not a readable"):
        store.load(tmp_path / "w.npz")


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "w.npz"
    store.save(path, TREE, {"version": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.save(path, TREE, {"version": 2})
    assert store.load(path)[1] == {"version": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["w.npz"]


def test_keys_that_are_not_names_are_refused():
    with pytest.raises(CheckpointError, match="'a/b'"):
        store.flatten({"a/b": 1})
