import json
import os

import numpy as np
import pytest

from lsap_jax.data import results
from lsap_jax.errors import ResultError

pytestmark = pytest.mark.fast

SETTINGS = {"generator": "toy", "seed": 0, "versions": {"jax": "1"}}


def put(out, image_id="a", value=1.0):
    return results.write(
        out, image_id, {"ws": np.full((2, 3), value)}, {"kind": "inversion"}, {"mse": value}, {"x.png": b"p"}
    )


def test_what_is_written_is_read(tmp_path):
    out = results.open_folder(tmp_path / "new" / "out", SETTINGS)
    put(out)
    latents, meta, metrics = results.read(out, "a")
    np.testing.assert_array_equal(latents["ws"], np.ones((2, 3)))
    assert (meta, metrics) == ({"kind": "inversion"}, {"mse": 1.0})
    assert results.finished(out) == ["a"]
    assert results.read_settings(out) == SETTINGS


def test_a_folder_goes_on_with_its_own_settings_only(tmp_path):
    results.open_folder(tmp_path, SETTINGS)
    results.open_folder(tmp_path, {**SETTINGS, "versions": {"jax": "2"}})
    with pytest.raises(ResultError, match=r"seed=0.*1.*--out"):
        results.open_folder(tmp_path, {**SETTINGS, "seed": 1})


@pytest.mark.parametrize("stop", range(1, 4))
def test_a_write_cut_off_at_any_point_leaves_nothing_finished(tmp_path, monkeypatch, stop):
    out = results.open_folder(tmp_path, SETTINGS)
    calls, real = [], os.replace

    def cut(source, target):
        calls.append(target)
        if len(calls) == stop:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        put(out)
    monkeypatch.undo()
    assert results.finished(out) == []
    results.open_folder(tmp_path, SETTINGS)
    assert list((out / "images").iterdir()) == []
    put(out)
    assert results.finished(out) == ["a"]


def test_an_existing_result_is_replaced_whole(tmp_path):
    put(tmp_path, value=1.0)
    put(tmp_path, value=2.0)
    assert results.read(tmp_path, "a")[2] == {"mse": 2.0}


def test_errors_name_the_folder_and_the_cure(tmp_path):
    with pytest.raises(ResultError, match="no results folder"):
        results.read_settings(tmp_path)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ResultError, match="damaged"):
        results.read_settings(tmp_path)
    with pytest.raises(ResultError, match="has no image 'b'"):
        results.read(tmp_path, "b")
    for bad in ("", ".", "..", ".a", "a/b"):
        with pytest.raises(ResultError, match="cannot name a folder"):
            put(tmp_path, bad)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResultError, match="another --out"):
        results.open_folder(tmp_path / "file", SETTINGS)


def test_a_full_disk_is_a_users_error(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultError, match="No space left"):
        put(tmp_path)


def test_settings_are_plain_json(tmp_path):
    out = results.open_folder(tmp_path, {"method": {"terms": (("l2", 1.0),)}})
    assert json.loads((out / "settings.json").read_text()) == {"method": {"terms": [["l2", 1.0]]}}
    results.open_folder(tmp_path, {"method": {"terms": (("l2", 1.0),)}})
