"""Fetching, verifying and caching of pretrained assets, with a small asset of our own in place of the real ones."""

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from lsap_jax import pretrained
from lsap_jax.checkpoints import store
from lsap_jax.errors import CheckpointError, FetchError, LsapError


def convert(members):
    return {"x": np.frombuffer(members["weights.bin"], np.uint8)}, {"kind": "toy"}


def wheel(content: bytes = b"abc") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("toy/data/weights.bin", content)
    return buffer.getvalue()


@pytest.fixture
def toy(own_cache, monkeypatch):
    """The asset "toy", and its package file laid into the cache's folder for brought files."""
    data = wheel()
    asset = pretrained.Asset(
        requirement="lsap-jax-toy-asset==1.0",
        file="lsap_jax_toy_asset-1.0-py3-none-any.whl",
        sha256=hashlib.sha256(data).hexdigest(),
        members=("toy/data/weights.bin",),
        convert=convert,
        version=1,
        licence="CC0",
        about="for tests",
    )
    monkeypatch.setitem(pretrained.ASSETS, "toy", asset)
    brought = own_cache / "packages" / asset.file
    brought.parent.mkdir(parents=True)
    brought.write_bytes(data)
    return brought


def replace(monkeypatch, **changes):
    monkeypatch.setitem(pretrained.ASSETS, "toy", dataclasses.replace(pretrained.ASSETS["toy"], **changes))


@pytest.mark.fast
def test_a_brought_package_file_becomes_a_self_describing_entry(toy):
    tree, meta = pretrained.load("toy")
    assert tree["x"].tobytes() == b"abc"
    assert meta["licence"] == "CC0"
    assert meta["source"] == {
        "package": "lsap-jax-toy-asset==1.0",
        "file": toy.name,
        "sha256": hashlib.sha256(wheel()).hexdigest(),
    }
    toy.unlink()
    assert pretrained.load("toy")[0]["x"].tobytes() == b"abc"  # from the cache now


@pytest.mark.fast
def test_a_wrong_package_file_is_not_used(toy):
    toy.write_bytes(wheel(b"evil"))
    with pytest.raises(FetchError, match="sha256"):
        pretrained.load("toy")
    assert not pretrained.where("toy").exists()


def test_without_a_network_the_error_says_what_to_bring_and_where(toy, monkeypatch):
    toy.unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FetchError) as caught:
        pretrained.load("toy")
    message = str(caught.value)
    for part in ("toy", "lsap_jax_toy_asset-1.0-py3-none-any.whl", "lsap-jax-toy-asset==1.0", str(toy.parent)):
        assert part in message
    assert not pretrained.where("toy").exists()
    assert not [p for p in toy.parent.parent.iterdir() if p.name.startswith(".fetch-")]


@pytest.mark.fast
def test_a_damaged_entry_is_made_again(toy):
    path = pretrained.fetch("toy")
    path.write_bytes(path.read_bytes()[:-30])
    assert pretrained.load("toy")[0]["x"].tobytes() == b"abc"


@pytest.mark.fast
def test_a_full_disk_leaves_no_entry_and_says_so(toy, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FetchError, match=r"No space left on device.*LSAP_JAX_CACHE"):
        pretrained.load("toy")
    monkeypatch.undo()
    assert not list(toy.parent.parent.glob("weights/*.npz"))


@pytest.mark.fast
def test_a_conversion_that_dies_leaves_no_entry(toy, monkeypatch):
    def interrupted(members):
        raise KeyboardInterrupt

    replace(monkeypatch, convert=interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrained.load("toy")
    replace(monkeypatch, convert=convert)
    assert pretrained.load("toy")[0]["x"].tobytes() == b"abc"


@pytest.mark.fast
def test_a_package_file_without_the_member_is_named(toy, monkeypatch):
    replace(monkeypatch, members=("toy/data/other.bin",))
    with pytest.raises(FetchError, match=r"has no toy/data/other\.bin"):
        pretrained.load("toy")


@pytest.mark.fast
def test_a_new_conversion_leaves_old_entries_alone(toy, monkeypatch):
    first = pretrained.fetch("toy")
    replace(monkeypatch, version=2)
    assert pretrained.fetch("toy") != first
    assert first.exists()


def test_two_processes_at_once_convert_once(toy, tmp_path):
    """Both get the whole entry; the second waits for the first instead of doing the work again."""
    program = tmp_path / "fetch.py"
    program.write_text(
        "import sys, time\n"
        "from lsap_jax import pretrained\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "import dataclasses, test_pretrained as t\n"
        "def slow(members):\n"
        "    print('converting', flush=True); time.sleep(2); return t.convert(members)\n"
        f"pretrained.ASSETS['toy'] = pretrained.Asset('lsap-jax-toy-asset==1.0', {toy.name!r},\n"
        f"    {pretrained.ASSETS['toy'].sha256!r}, ('toy/data/weights.bin',), slow, 1, 'CC0', '')\n"
        "print(bytes(pretrained.load('toy')[0]['x']))\n"
    )
    runs = [subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert all("b'abc'" in output for output in outputs)
    assert sum(output.count("converting") for output in outputs) == 1


@pytest.mark.fast
def test_unknown_names_list_the_known_ones():
    with pytest.raises(FetchError, match="ffhq-mobile"):
        pretrained.fetch("ffhq")
    with pytest.raises(CheckpointError, match="ffhq-mobile"):
        pretrained.load_generator("nowhere.pt")


@pytest.mark.fast
def test_the_command_lists_licences_and_reports_errors(toy, capsys):
    from lsap_jax import weights

    assert weights.main(["list"]) == 0
    listed = capsys.readouterr().out
    for name, asset in pretrained.ASSETS.items():
        assert name in listed
        assert asset.licence in listed
    assert weights.main(["fetch", "toy"]) == 0
    assert str(pretrained.where("toy")) in capsys.readouterr().out
    assert store.load(pretrained.where("toy"))
    assert weights.main(["fetch", "nothing"]) == 1
    assert "no pretrained asset is named 'nothing'" in capsys.readouterr().err
    assert weights.main(["eat"]) == 2


@pytest.mark.fast
def test_every_fetch_error_is_a_users_error():
    assert issubclass(FetchError, LsapError)
