import importlib.util
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from lsap_jax import pretrained
from lsap_jax.data import images

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "align_faces.py"
FACE = [[75, 95], [125, 95], [100, 120], [80, 145], [120, 145]]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("align_faces", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    """Three photos, two of them with the same name, and a file that is none."""
    rng = np.random.default_rng(0)
    for name in ("photos/me.png", "photos/me.jpg", "photos/sub/me.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (220, 240, 3)).astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "photos" / "text.png").write_text("no image")
    return tmp_path / "photos"


def run(tool, folder, *more):
    return tool.main(["--images", str(folder), "--out", str(folder.parent / "out"), "--size", "64", *map(str, more)])


@pytest.mark.fast
def test_failures_are_listed_and_the_others_go_on(tool, folder, capsys, monkeypatch):
    monkeypatch.setattr(pretrained, "load", lambda name: ({}, {}))
    faces = {"me.png": FACE, "me.jpg": FACE, "sub/me.png": [FACE, (np.array(FACE) / 2).tolist()], "typo.png": FACE}
    (folder.parent / "landmarks.json").write_text(json.dumps(faces))
    status = run(tool, folder, "--landmarks", folder.parent / "landmarks.json", "--all_faces")
    out, err = capsys.readouterr()
    assert status == 0
    assert "aligned 3 of 4 photos" in out
    assert f"failed: {folder / 'text.png'}: not an image" in err
    assert "1 names are none of the photos: typo.png" in err
    written = folder.parent / "out"
    names = {file.name for file in written.iterdir()}
    assert names == {"me.png.png", "me.jpg.png", "sub+me.png.png", "sub+me.png.face2.png", "landmarks.json"}
    assert images.read(written / "me.jpg.png").shape == (64, 64, 3)
    used = json.loads((written / "landmarks.json").read_text())
    assert used["sub/me.png"] == faces["sub/me.png"]
    # What it wrote, it reads: the same faces again.
    before = (written / "me.png.png").read_bytes()
    assert run(tool, folder, "--landmarks", written / "landmarks.json") == 0
    assert (written / "me.png.png").read_bytes() == before


@pytest.mark.fast
def test_nothing_to_do_or_nowhere_to_write(tool, folder, capsys):
    landmarks = folder.parent / "landmarks.json"
    landmarks.write_text(json.dumps({"me.png": FACE}))
    one = ["--size", "64", "--images", str(folder / "me.png"), "--landmarks", str(landmarks)]
    for argv, message in (
        (["--images", str(folder / "absent"), "--out", "x"], "absent: no such file or folder"),
        (["--images", str(folder), "--out", "x", "--size", "4"], "--size 4: must be at least 16"),
        (
            ["--images", str(folder), "--out", "x", "--landmarks", "absent.json"],
            "absent.json: landmarks cannot be read",
        ),
        ([*one, "--out", str(folder / "text.png")], "cannot be written"),
    ):
        assert tool.main(argv) == 1
        assert message in capsys.readouterr().err
    landmarks.write_text(json.dumps({"me.png": (np.array(FACE) + 500).tolist()}))
    assert tool.main([*one, "--out", str(folder / "out")]) == 1
    assert "lies outside of the 240 x 220 image" in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.weights("mtcnn", "sample-photo")
def test_faces_are_found_and_an_own_output_folder_is_no_input(tool, folder, capsys):
    photo = pretrained.load("sample-photo")[0]["image"]
    images.write_png(folder / "astronaut.png", photo)
    argv = ["--images", str(folder), "--out", str(folder / "aligned"), "--size", "128"]
    for _ in range(2):
        assert tool.main(argv) == 0
        out, err = capsys.readouterr()
        assert "aligned 1 of 5 photos" in out
        assert err.count("no face was found") == 3
    assert {file.name for file in (folder / "aligned").iterdir()} == {"astronaut.png.png", "landmarks.json"}
