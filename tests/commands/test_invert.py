"""The invert command from end to end: a small generator often, the real one once."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny

import lsap_jax as lj
from lsap_jax.commands import invert as command
from lsap_jax.config import Config, Invert
from lsap_jax.data import images, resize, results
from lsap_jax.errors import ConfigError, ImageError, ResultError
from lsap_jax.generators import files
from lsap_jax.metrics.reconstruction import METRICS

JUDGES = ("lpips-vgg", "lpips-alex", "dlib-face")


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("generator") / "tiny.npz"
    files.save(path, tiny.generator(), {"licence": "none needed"})
    return path


@pytest.fixture
def photos(tmp_path) -> pathlib.Path:
    folder = tmp_path / "photos"
    for i, photo in enumerate(np.asarray(tiny.photos(tiny.generator(), 3))):
        images.write_png(folder / "sub" / f"{i}.png", photo)
    return folder


def config(generator, **options) -> Config:
    settings = {"preset": "projector-w+", "noise": "const", "steps": 3, "faces": "aligned", **options}
    return Config(generator=str(generator), invert=Invert(**settings))


def latents(out) -> dict[str, bytes]:
    return {i: results.read(out, i)[0]["ws"].tobytes() for i in results.finished(out)}


@pytest.mark.weights(*JUDGES)
def test_a_folder_with_bad_files_gives_every_good_result_and_every_reason(generator, photos, tmp_path, capsys):
    (photos / "text.png").write_text("not a picture")
    images.write_png(photos / "small.png", np.zeros((3, 3, 3), np.uint8))
    images.write_png(photos / "wide.png", np.zeros((32, 64, 3), np.uint8))
    out = tmp_path / "out"
    command.invert_photos(config(generator, batch_size=2), str(photos), out)
    assert results.finished(out) == ["sub+0.png", "sub+1.png", "sub+2.png"]
    failed = {pathlib.Path(f["file"]).name: f["reason"] for f in json.loads((out / "failures.json").read_text())}
    assert set(failed) == {"text.png", "small.png", "wide.png"}
    assert "3 x 3" in failed["small.png"]
    assert "crop" in failed["wide.png"]
    for image_id in results.finished(out):
        metrics = results.read(out, image_id)[2]
        assert set(METRICS) <= set(metrics)
        assert len(metrics["sncd_z"]) == 8
        assert metrics["source"].endswith(image_id.split("+")[1])
        assert len(metrics["history"]["loss"]) == 3
        for picture in ("target.png", "inversion.png"):
            assert images.read(out / "images" / image_id / picture).shape == (32, 32, 3)
    page = (out / "index.html").read_text()
    assert "sub+1.png" in page
    assert "text.png" in page
    assert (out / "strip.png").exists()
    assert "LPIPS-VGG" in capsys.readouterr().out

    # A batch equals single runs.
    single = tmp_path / "single"
    command.invert_photos(config(generator), str(photos), single)
    for image_id in results.finished(out):
        a, b = (results.read(folder, image_id)[0]["ws"] for folder in (out, single))
        np.testing.assert_allclose(a, b, atol=1e-4)

    # Again: nothing is done twice.
    written = {p: p.stat().st_mtime_ns for p in (out / "images").rglob("*") if p.is_file()}
    command.invert_photos(config(generator, batch_size=2), str(photos), out)
    assert written == {p: p.stat().st_mtime_ns for p in (out / "images").rglob("*") if p.is_file()}

    # And what lies there is an Inversion that renders what was saved, bit for bit.
    loaded = lj.Inversion.load(out)
    np.testing.assert_array_equal(loaded.render(), loaded.images)
    saved = images.read(out / "images" / "sub+0.png" / "inversion.png")
    np.testing.assert_array_equal(images.to_uint8(np.asarray(loaded.images[0])), saved)
    with pytest.raises(ResultError, match="fingerprint"):
        lj.Inversion.load(out, generator=tiny.generator(1))


@pytest.mark.weights(*JUDGES)
def test_killed_at_any_moment_it_goes_on_to_the_same_result(generator, photos, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    program = [
        sys.executable,
        "-c",
        "import sys; from lsap_jax.commands.invert import invert_photos; from lsap_jax.config import *\n"
        f"options = Invert('projector-w+', 20, 'const', faces='aligned')\n"
        f"invert_photos(Config({str(generator)!r}, options), *sys.argv[1:])",
    ]
    began = time.monotonic()
    subprocess.run([*program, photos, straight], check=True, capture_output=True, timeout=300)
    seconds = time.monotonic() - began
    delays, last = random.Random(0), len(results.finished(straight))
    for _ in range(3):
        run = subprocess.Popen([*program, photos, killed], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delays.uniform(0.3, 0.8) * seconds)
        run.send_signal(signal.SIGKILL)
        run.wait()
    subprocess.run([*program, photos, killed], check=True, capture_output=True, timeout=300)
    assert last == 3
    assert latents(killed) == latents(straight)
    assert not list((killed / "images").glob(".*"))


@pytest.mark.weights("ffhq-mobile", "mtcnn", "sample-photo", *JUDGES)
def test_the_real_thing(tmp_path):
    """The sample portrait through the FFHQ generator: found, aligned, and closer to the photo at every look."""
    out = tmp_path / "out"
    command.invert_photos(Config("ffhq-mobile", Invert("lsap-calibrated", 4)), "", out)
    (image_id,) = results.finished(out)
    metrics = results.read(out, image_id)[2]
    history = metrics["history"]["loss"]
    assert history[-1] < history[0]
    assert np.shape(metrics["sncd_z"]) == (23,)
    target = images.read(out / "images" / image_id / "target.png")
    assert target.shape == (1024, 1024, 3)
    # The face was found in the 512-pixel portrait and cut out: skin in the middle, no longer the whole scene.
    assert target[400:700, 400:620].mean() > 90
    G = lj.load_generator("ffhq-mobile")
    mean_face = G.synthesize(G.broadcast(G.w_avg[None]))
    at_256 = [resize.area(x, 256) for x in (mean_face, images.to_float(target)[None])]
    assert metrics["lpips_vgg"] < float(lj.lpips("vgg")(*at_256)[0])


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "lsap_jax.invert", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


@pytest.fixture
def config_file(generator, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "from lsap_jax.config import Config, Invert\n"
        f"def get_config():\n    return Config({str(generator)!r}, Invert('lsap', 2, faces='aligned'))\n"
    )
    return path


def test_the_command_line_refuses_by_name(config_file, photos, tmp_path):
    done = run("--config", config_file, "--config.invert.stepz=3", "--images", photos, "--out", tmp_path / "out")
    assert done.returncode
    assert "stepz" in done.stderr
    assert "invert.steps" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("--config", tmp_path / "absent.py")
    assert done.returncode
    assert "absent.py" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("--config", config_file, "--images", tmp_path / "absent", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "no such file or folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_that_concern_all_photos_come_before_any_work(generator, photos, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="no preset is named"):
        command.invert_photos(config(generator, preset="x"), str(photos), out)
    with pytest.raises(ConfigError, match="faces='none'"):
        command.invert_photos(config(generator, faces="none"), str(photos), out)
    with pytest.raises(ConfigError, match="batch_size=0"):
        command.invert_photos(config(generator, batch_size=0), str(photos), out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no images in this folder"):
        command.invert_photos(config(generator), str(tmp_path / "empty"), out)
    assert not out.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        command.invert_photos(config(generator), str(photos), tmp_path / "file" / "out")


def test_a_folder_without_one_usable_photo_is_an_error(generator, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("text")
    with pytest.raises(ResultError, match="none of the 1 photos could be used"):
        command.invert_photos(config(generator), str(tmp_path / "photos"), tmp_path / "out")
