"""The edit command on a results folder of a tiny generator."""

import json
import runpy
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from lsap_jax.commands import edit
from lsap_jax.data import images, results
from lsap_jax.edit import named
from lsap_jax.edit.directions import apply_direction, save_bank, w_pca
from lsap_jax.embed.inversion import Inversion
from lsap_jax.errors import ConfigError, DirectionError, ResultError
from lsap_jax.generators import files as generator_files
from lsap_jax.metrics import reconstruction

IDS = ["a.jpg", "b.jpg"]

pytestmark = pytest.mark.usefixtures("module_cache")


def judge(a, b):
    return -jnp.abs(a - b).mean((1, 2, 3))


@pytest.fixture(scope="module")
def G():
    return tiny.generator()


@pytest.fixture(scope="module")
def original(tmp_path_factory, G):
    """A results folder of two inversions, rendered as one batch; its generator is a file."""
    folder = tmp_path_factory.mktemp("inversions")
    generator_files.save(folder / "G.npz", G)
    ws = G.broadcast(G.map(jnp.asarray(np.random.RandomState(0).randn(2, G.z_dim), jnp.float32)))
    ws = ws.at[0, 0, 0].set(-0.0)
    layers = len(G.styles(ws))
    metrics = {name: np.zeros((2, layers) if "sncd" in name else 2) for name in reconstruction.METRICS}
    settings = {"generator": str(folder / "G.npz"), "fingerprint": G.fingerprint, "preset": "test"}
    rendered = G.synthesize(ws)
    Inversion(ws, None, rendered, rendered, metrics, settings, G).save(folder / "out", IDS)
    return folder / "out"


@pytest.fixture
def out(original, tmp_path):
    return shutil.copytree(original, tmp_path / "out")


def run(out, *specs, strengths=(-1.0, 0.0, 2.0), **options):
    edit.edit_folder(out, specs or ["pca0"], strengths, judges={"id": judge, "lpips_alex": judge}, **options)


def series(out, image_id="a.jpg", label="pca0"):
    return json.loads((out / "images" / image_id / "edits" / label / "edit.json").read_text())


def times(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("edits/*/*")}


def test_pictures_are_the_renders_of_the_edit_law(out, G):
    run(out)
    found = Inversion.load(out, generator=G)
    for strength in (-1.0, 2.0):
        rendered = found.render(apply_direction(found.ws, w_pca(G, 0), strength))
        for index, image_id in enumerate(IDS):
            saved = images.read(out / "images" / image_id / "edits" / "pca0" / f"{strength:g}.png")
            wanted = images.to_uint8(np.asarray(rendered[index])).astype(int)
            assert np.abs(saved - wanted).max() <= 1  # another batch size: other last bits
            assert not np.array_equal(saved, images.read(out / "images" / image_id / "inversion.png"))


def test_strength_zero_is_the_inversion_bit_for_bit(out, G):
    run(out, "pca0", "pca1:0-3")
    for image_id in IDS:
        folder = out / "images" / image_id
        assert (folder / "edits/pca0+pca1_0-3/0.png").read_bytes() == (folder / "inversion.png").read_bytes()
    found = Inversion.load(out, generator=G)
    ws = edit.edited(found.ws, [w_pca(G, 0), w_pca(G, 1)], 0.0)
    np.testing.assert_array_equal(np.asarray(ws).view(np.uint32), np.asarray(found.ws).view(np.uint32))
    np.testing.assert_array_equal(found.render(ws), found.images)


def test_record_of_a_series(out, G):
    run(out)
    record = series(out)
    assert record["strengths"] == [-1.0, 0.0, 2.0]
    assert record["files"] == ["-1.png", "0.png", "2.png"]
    assert (record["unit"], record["fingerprint"]) == ("sigma", G.fingerprint)
    assert record["directions"][0]["origin"].startswith("principal axis 0")
    assert record["metrics"].keys() == {"id", "lpips_alex", "sncd_z_max"}
    changed = record["metrics"]["lpips_alex"]
    assert changed[1] == 0
    assert changed[2] < changed[0] < 0
    assert np.isfinite(record["metrics"]["sncd_z_max"]).all()
    text = (out / "index.html").read_text()
    assert "images/a.jpg/edits/pca0/-1.png" in text
    assert "+2 sigma" in text


def test_directions_are_applied_together(out, G):
    run(out, "pca0", "pca1", strengths=[1.0], label="both")
    found = Inversion.load(out, ["a.jpg"], G)
    ws = found.ws + sum(d.scale * d.vector[None, None] for d in (w_pca(G, 0), w_pca(G, 1)))
    wanted = images.to_uint8(np.asarray(found.render(ws)[0])).astype(int)
    assert np.abs(images.read(out / "images/a.jpg/edits/both/1.png") - wanted).max() <= 1


def test_made_edits_are_not_made_again(out, capsys):
    run(out)
    before = times(out)
    run(out)
    assert times(out) == before
    assert "nothing left to do" in capsys.readouterr().out


def test_an_interrupted_command_goes_on(out):
    run(out, ids=["a.jpg"])
    partial = out / "images/b.jpg/edits/.partial-pca0~1"
    partial.mkdir(parents=True)
    (partial / "edit.json").write_text("{")
    before = times(out)
    run(out)
    after = times(out)
    assert all(after[path] == before[path] for path in before if "a.jpg" in path.parts)
    assert series(out, "b.jpg")["strengths"] == [-1.0, 0.0, 2.0]
    assert not partial.exists()


def test_other_strengths_join_the_series(out):
    run(out, strengths=[1.0, -2.0])
    first = (out / "images/a.jpg/edits/pca0/1.png").read_bytes()
    metrics = series(out)["metrics"]["id"]
    run(out, strengths=[0.5, 1.0])
    record = series(out)
    assert record["strengths"] == [-2.0, 0.5, 1.0]
    assert [record["metrics"]["id"][i] for i in (0, 2)] == metrics
    assert (out / "images/a.jpg/edits/pca0/1.png").read_bytes() == first
    assert sorted(p.name for p in (out / "images/a.jpg/edits/pca0").iterdir()) == [
        "-2.png",
        "0.5.png",
        "1.png",
        "edit.json",
    ]


def test_another_direction_under_the_same_label_replaces_the_series(out, capsys):
    run(out, label="mine")
    run(out, "pca1", label="mine", strengths=[3.0])
    assert series(out, label="mine")["strengths"] == [3.0]
    assert "replaced" in capsys.readouterr().err


def test_chosen_images_and_unit(out):
    run(out, ids=["b.jpg"], unit="w", strengths=[0.25])
    assert series(out, "b.jpg")["unit"] == "w"
    assert series(out, "b.jpg")["directions"][0]["scale"] == 1.0
    assert not (out / "images/a.jpg/edits").exists()


def test_published_files_are_noted_once(out, tmp_path, capsys):
    np.save(tmp_path / "smile.npy", np.ones(16) / 4)
    run(out, str(tmp_path / "smile.npy"), strengths=[1.0])
    assert capsys.readouterr().err.count("does not say which generator it was found in") == 1
    assert series(out, label="smile")["unit"] == "sigma"


def test_directions_of_other_generators_and_mixed_units_are_refused(out, tmp_path, G):
    d = w_pca(tiny.generator(1), 0)
    save_bank(tmp_path / "bank.npz", [d])
    with pytest.raises(DirectionError, match="--force"):
        run(out, str(tmp_path / "bank.npz"))
    run(out, str(tmp_path / "bank.npz"), force=True, strengths=[1.0])
    save_bank(tmp_path / "plain.npz", [w_pca(G, 0).replace(unit="w", scale=1.0)])
    with pytest.raises(DirectionError, match="different units; choose one by --unit"):
        run(out, str(tmp_path / "plain.npz"), "pca0")
    run(out, str(tmp_path / "plain.npz"), "pca0", unit="sigma", strengths=[1.0])


def test_user_errors(out, tmp_path, G):
    with pytest.raises(ResultError, match=r"has no image 'c.jpg'; it has a.jpg, b.jpg"):
        run(out, ids=["c.jpg"])
    with pytest.raises(ResultError, match="no results folder"):
        run(tmp_path)
    with pytest.raises(ResultError, match="has no finished image"):
        run(results.open_folder(tmp_path / "empty", {"generator": "x"}))
    for label in ("a/b", ".hidden", ".."):
        with pytest.raises(ConfigError, match="cannot be the name of a folder"):
            run(out, label=label)
    generator_files.save(tmp_path / "other.npz", tiny.generator(1))
    with pytest.raises(ResultError, match="fingerprint"):
        run(out, generator=str(tmp_path / "other.npz"))
    run(out, strengths=[1.0])
    (out / "images/a.jpg/edits/pca0/edit.json").write_text("{}")
    with pytest.raises(ResultError, match=r"edit\.json is damaged"):
        run(out)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("text", "strengths"),
    [
        ("2", (2.0,)),
        ("-2,0,2", (-2.0, 0.0, 2.0)),
        ("-3:3:7", (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)),
        ("0:1:11", tuple(n / 10 for n in range(11))),
        ("1:1:1", (1.0,)),
        ("1e-3", (0.001,)),
    ],
)
def test_strengths(text, strengths):
    assert edit.parse_strengths(text) == strengths


@pytest.mark.fast
@pytest.mark.parametrize(
    "text", ["", "a", "1:2", "1:2:3:4", "-3:3:0", "-3:3:1.5", "nan", "inf", "1,1", "1,,2", "2:2:3"]
)
def test_bad_strengths(text):
    with pytest.raises(ConfigError, match="write 2, or -2,0,2, or start:stop:count"):
        edit.parse_strengths(text)


@pytest.mark.fast
def test_flags():
    values = edit.parse(
        [
            "edit",
            "--inversions=d",
            "--direction=pca0",
            "--direction=x.pt#1",
            "--strength",
            "-3:3:7",
            "--unit=w",
            "--force",
        ]
    )
    assert values.direction == ["pca0", "x.pt#1"]
    assert (values.strength, values.images, values.unit, values.force) == ("-3:3:7", [], "w", True)
    assert edit.parse(["edit", "--images=a,b"]).images == ["a", "b"]
    assert edit.parse(["edit"]).direction == []  # nothing is left of an earlier parse


@pytest.mark.fast
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give --inversions DIR and --direction"),
        (["--inversions", "/nowhere", "--direction", "pca0"], "no results folder"),
        (["--inversions", "/nowhere", "--direction", "pca0", "--strength", "x"], "strength 'x'"),
        (["--unit", "metres"], "unit"),
        (["--nonsense"], "nonsense"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_errors_are_one_line_and_exit_1(argv, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["edit", *argv])
    monkeypatch.setattr(edit.cache, "keep_compiled_programs", lambda: None)  # a setting of the whole process
    with pytest.raises(SystemExit, match=message) as exited:
        runpy.run_module("lsap_jax.edit", run_name="__main__", alter_sys=True)
    assert isinstance(exited.value.code, str)  # printed to stderr by Python, and the exit status is 1
    assert "\n" not in exited.value.code


@pytest.mark.fast
def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        edit.main(["edit", "--help"])
    assert not end.value.code
    text = capsys.readouterr().out
    assert "--inversions" in text
    assert "start:stop:count" in text


@pytest.mark.fast
def test_shards_are_not_edited_but_say_what_to_do(tmp_path):
    results.open_folder(tmp_path, {"generator": "toy"}, inside="shards")
    with pytest.raises(ResultError, match=r"holds shards.*store=folders.*Inversion.load"):
        edit.edit_folder(tmp_path, ["pca0"], [1.0])


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_a_morph_goes_there_and_back(out, kind):
    run(out, strengths=(-1.0, 0.0, 1.0), morph=kind)
    path = out / "images" / "a.jpg" / "edits" / "pca0" / f"morph.{kind}"
    with Image.open(path) as picture:
        assert (picture.n_frames, picture.size) == (4, (32, 32))
        assert picture.info["loop"] == 0
    before = path.stat().st_mtime_ns
    run(out, strengths=(-1.0, 0.0, 1.0), morph=kind)
    assert path.stat().st_mtime_ns == before
    run(out, strengths=(-1.0, 0.0, 1.0, 2.0), morph=kind)
    with Image.open(path) as picture:
        assert picture.n_frames == 6
    assert f"morph.{kind}" in (out / "index.html").read_text()


def test_a_grid_crosses_two_directions(out, G):
    run(out, "pca0", "pca1", strengths=(-1.0, 1.0), grid=True)
    sheet = images.read(out / "images" / "a.jpg" / "edits" / "pca0+pca1" / "grid.png")
    assert sheet.shape[1] > 2 * 256
    assert sheet.shape[0] > 2 * 256
    tiles = [sheet[r : r + 256, c : c + 256].astype(int) for r in (60, sheet.shape[0] // 2 + 60) for c in (8, 272)]
    assert all(np.abs(a - b).mean() > 1 for i, a in enumerate(tiles) for b in tiles[:i])
    with pytest.raises(ConfigError, match="two directions"):
        run(out, "pca0", grid=True)


def test_listing_names_shipped_directions_with_their_commands(G, tmp_path, monkeypatch):
    path = tmp_path / "bank.npz"
    settings = {"layers": "0-3", "method": "interfacegan", "conditional": True, "attributes": ["smile", "yaw"]}
    measures = {"ID at ±2": {"mean": 0.9}}
    d = w_pca(G, 1, "0-3").replace(name="smile")
    save_bank(path, [d], {"found_by": {"smile": {"settings": settings, "measures": measures}}})
    assert edit.listing(G).startswith("no directions are shipped")
    monkeypatch.setattr(named, "_SHIPPED", {G.fingerprint: str(path)})
    _, line = edit.listing(G).split("\n")
    assert line.split() == [
        "smile",
        "layers",
        "0-3,",
        "ID",
        "at",
        "±2",
        "0.90;",
        "discover",
        "--method",
        "interfacegan",
        "--layers",
        "0-3",
        "--conditional",
        "--attributes",
        "smile,yaw",
    ]
