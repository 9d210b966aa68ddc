"""Inversion of sets: every entry once, whatever happens on the way."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_encoder

import lsap_jax as lj
from lsap_jax.commands import invert as command
from lsap_jax.config import Config, Invert
from lsap_jax.data import images, merge, photos, results, shards, sources
from lsap_jax.embed import dataset, presets
from lsap_jax.embed.optimize import Method, Stage
from lsap_jax.errors import ConfigError, ResultError
from lsap_jax.generators import files
from lsap_jax.metrics import reconstruction
from lsap_jax.networks import encoder_files

ENCODE = presets.preset("encoder")
PIXELS = Method("w+", (Stage(4, (("l2", 1.0), ("encoder", 0.5)), learning_rate=0.1),), resolution=32)


class Colours(flax.struct.PyTreeNode):
    """An encoder that compiles in no time: codes are linear in the mean colour."""

    kernel: jax.Array
    name: str = flax.struct.field(pytree_node=False, default="colours")

    def __call__(self, images):
        return jnp.einsum("bc,clw->blw", images.mean((1, 2)), self.kernel)


def colours() -> Colours:
    return Colours(jnp.asarray(np.random.RandomState(0).randn(3, 3, 8), jnp.float32))


def write_photos(folder, count, side=32):
    random_ = np.random.RandomState(0)
    for n in range(count):
        images.write_png(folder / f"{n:03}.png", random_.randint(0, 255, (side, side, 3)).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    write_photos(tmp_path / "photos", 11)
    (tmp_path / "photos" / "004.png").write_text("no picture")
    return tmp_path / "photos"


def run(folder, out, embed=None, part=(0, 1), shard_size=4, prepare=None, settings=None):
    source = sources.open_source(folder)
    settings = settings or {
        "generator": "shallow",
        "fingerprint": tiny.shallow().fingerprint,
        "store": {"entries": source.count, "list": source.digest, "shard_size": shard_size},
    }
    embed = embed or dataset.Embedder(tiny.shallow(), ENCODE, encoder=colours(), batch_size=2)
    results.open_folder(out, settings, inside="shards")
    prepare = prepare or photos.Preparation(32, "aligned")
    return dataset.invert_part(source, prepare, embed, shards.Part(out, *part, source.count, shard_size), settings)


def contents(out) -> dict[str, str]:
    """{file: hash} of all that lies in a store."""
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


@pytest.mark.fast
def test_every_photo_has_the_code_that_the_encoder_gives_it(folder, tmp_path):
    out = tmp_path / "out"
    assert run(folder, out) == {"images": 10, "failures": 1}
    records = list(results.read_store(out))
    assert [r.id for r in records] == [f"{n:03}.png" for n in range(11) if n != 4]
    E = colours()
    for record in records:
        pixels = images.to_float(images.read(folder / record.id))
        np.testing.assert_allclose(record.ws, E(pixels[None])[0], atol=1e-5)
    assert set(contents(out)) == {
        "settings.json",
        "shards/part-00000-of-00001/manifest.json",
        *(f"shards/part-00000-of-00001/shard-{g:05d}.npz" for g in range(3)),
    }

    loaded = lj.Inversion.load(out, ["007.png", "001.png"], tiny.shallow())
    np.testing.assert_array_equal(loaded.ws[1], records[1].ws)
    np.testing.assert_array_equal(loaded.render(), loaded.images)
    assert loaded.take([0]).targets is None
    with pytest.raises(ResultError, match="do not keep the photos"):
        loaded.save(tmp_path / "folders")
    with pytest.raises(ResultError, match=r"no image 'x.png'"):
        lj.Inversion.load(out, ["x.png"], tiny.shallow())
    assert len(lj.Inversion.load(out, generator=tiny.shallow()).ws) == 10
    assert run(folder, out) == {"images": 10, "failures": 1}  # and nothing to do


@pytest.mark.fast
def test_metrics_and_renders_are_those_of_the_code(folder, tmp_path):
    G, out = tiny.shallow(), tmp_path / "out"
    embed = dataset.Embedder(G, ENCODE, encoder=colours(), batch_size=4, metrics="pixels", renders=True)
    run(folder, out, embed)
    target = images.to_float(images.read(folder / "009.png"))[None]
    (record,) = [r for r in results.read_store(out) if r.id == "009.png"]
    image = G.synthesize(record.ws[None])
    saved = images.read(out / "renders" / "shard-00002" / "009.png.png")
    np.testing.assert_array_equal(saved, images.to_uint8(np.asarray(image[0])))
    assert record.metrics.keys() == set(reconstruction.PIXELS)
    for name, value in reconstruction.pixels(image, target).items():
        np.testing.assert_allclose(record.metrics[name], value[0], rtol=1e-3)


@pytest.mark.fast
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 7, 8, 9, 10])
def test_stopped_before_any_file_it_ends_the_same(folder, tmp_path, monkeypatch, stop):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    embed = dataset.Embedder(tiny.shallow(), ENCODE, encoder=colours(), batch_size=2)
    run(folder, straight, embed)
    calls, replace = [], os.replace

    def cut(source, target):
        calls.append(str(target))
        if len(calls) == stop + 1:  # the first is settings.json
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        run(folder, stopped, embed)
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(str(b)), replace(a, b)))
    before = [name for name in calls[:-1] if "pieces" in name]
    del calls[:]
    run(folder, stopped, embed)
    assert contents(stopped) == contents(straight)
    assert not set(before) & set(calls)  # nothing was done twice


@pytest.mark.fast
def test_other_batches_go_on_with_a_stopped_run(folder, tmp_path, monkeypatch):
    out, written = tmp_path / "out", shards.write

    def two(path, shard):
        if path.name.startswith("0000000002"):
            raise KeyboardInterrupt
        written(path, shard)

    monkeypatch.setattr(shards, "write", two)
    with pytest.raises(KeyboardInterrupt):
        run(folder, out)
    monkeypatch.undo()
    run(folder, out, dataset.Embedder(tiny.shallow(), ENCODE, encoder=colours(), batch_size=3))
    assert [r.id for r in results.read_store(out)] == [f"{n:03}.png" for n in range(11) if n != 4]
    assert not (out / "shards" / "part-00000-of-00001" / "pieces").exists()


@pytest.mark.fast
def test_several_faces_none_and_codes_that_are_not_finite(folder, tmp_path):
    def prepare(entry):
        number = int(entry.id[:3])
        if number % 3 == 0:
            return photos.Failure(entry.id, entry.source, "nobody")
        image = np.full((32, 32, 3), number, np.uint8)
        return [photos.Photo(f"{entry.id}-face{i}", entry.source, image, ()) for i in range(number % 4)] or (
            photos.Failure(entry.id, entry.source, "nobody")
        )

    class Bad(Colours):
        def __call__(self, images):
            codes = super().__call__(images)
            return jnp.where(images[:, :1, :1, 0] > 7.5 / 127.5 - 1, jnp.nan, codes)

    bad = Bad(colours().kernel)
    embed = dataset.Embedder(tiny.shallow(), ENCODE, encoder=bad, batch_size=2, renders=True)
    out = tmp_path / "out"
    total = run(folder, out, embed, prepare=prepare)
    records = list(results.read_store(out))
    assert [r.id for r in records] == [f"{n:03}.png-face{i}" for n in (1, 2, 5, 7) for i in range(n % 4)]
    assert all(np.isfinite(r.ws).all() for r in records)
    (manifest,) = (out / "shards").glob("*/manifest.json")
    failures = [f for line in shards.manifest_shards(manifest) for f in line["failures"]]
    assert [f["id"] for f in failures if "not finite" in f["reason"]] == ["010.png-face0", "010.png-face1"]
    assert total == {"images": 7, "failures": len(failures)}
    assert len(list((out / "renders").rglob("*.png"))) == 7


@pytest.mark.fast
def test_a_part_without_a_usable_photo_is_written_down(tmp_path):
    (tmp_path / "photos").mkdir()
    for n in range(3):
        (tmp_path / "photos" / f"{n}.png").write_text("no picture")
    assert run(tmp_path / "photos", tmp_path / "out", shard_size=2) == {"images": 0, "failures": 3}
    assert list(results.read_store(tmp_path / "out")) == []
    assert merge.merge(tmp_path / "out") == {"images": 0, "failures": 3}


def test_optimisation_from_an_encoder_is_that_of_the_library(folder, tmp_path):
    G, E, out = tiny.shallow(), colours(), tmp_path / "out"
    embed = dataset.Embedder(G, PIXELS, encoder=E, batch_size=4, metrics="pixels")
    run(folder, out, embed)
    for record in list(results.read_store(out))[:3]:
        image = images.to_float(images.read(folder / record.id))[None]
        found = lj.invert(G, image, PIXELS, encoder=E, metrics="pixels")
        np.testing.assert_allclose(record.ws, found.ws[0], atol=1e-4)
        assert abs(record.metrics["psnr"] - found.metrics["psnr"][0]) < 1e-2
        # The term holds the code where the encoder, shown the render, says the same.
        free = lj.invert(
            G,
            image,
            Method("w+", (Stage(4, (("l2", 1.0),), learning_rate=0.1),), resolution=32),
            encoder=E,
            metrics="none",
        )
        apart = [float(jnp.square(x.ws - E(x.images)).mean()) for x in (found, free)]
        assert apart[0] < apart[1]


@pytest.mark.fast
def test_what_cannot_be_done_is_refused(tmp_path):
    G = tiny.shallow()
    with pytest.raises(ConfigError, match="noise maps"):
        dataset.Embedder(G, presets.preset("projector-w+"))
    with pytest.raises(ConfigError, match="needs an encoder"):
        lj.invert(G, jnp.zeros((1, 32, 32, 3)), "encoder")
    E = tiny_encoder.encoder("ir-se", num_ws=3)
    with pytest.raises(ConfigError, match="'restyle' needs a ReStyle encoder"):
        lj.invert(G, jnp.zeros((1, 32, 32, 3)), "restyle", encoder=E)
    with pytest.raises(ConfigError, match="term 'encoder' needs an encoder"):
        lj.invert(G, jnp.zeros((1, 32, 32, 3)), PIXELS)
    with pytest.raises(ConfigError, match="not made for one another"):
        lj.invert(G, jnp.zeros((1, 32, 32, 3)), "encoder", encoder=tiny_encoder.encoder("ir-se"))


DEVICES = """
import sys
import jax, numpy as np
import test_dataset as t
from lsap_jax import distributed
images = np.random.RandomState(0).randint(0, 255, (7, 32, 32, 3)).astype(np.uint8)
found = {}
for name, method in (("encoder", t.ENCODE), ("pixels", t.PIXELS)):
    embed = t.dataset.Embedder(t.tiny.shallow(), method, encoder=t.colours(), batch_size=7, metrics="pixels")
    got = embed(images)
    assert len(got.ws.sharding.device_set) == jax.device_count(), got.ws.sharding
    found |= {name: np.asarray(got.ws)[:7], name + "_psnr": np.asarray(got.metrics["psnr"])[:7]}
np.savez(sys.argv[1], **found)
"""


def test_four_devices_find_what_one_finds(tmp_path):
    found = []
    for devices in (1, 4):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]),
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        }
        path = tmp_path / f"{devices}.npz"
        subprocess.run([sys.executable, "-c", DEVICES, str(path)], check=True, env=environment, timeout=300)
        found.append(dict(np.load(path)))
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], atol=2e-5, rtol=1e-5, err_msg=name)


@pytest.fixture
def program(tmp_path):
    """A command line of the real command: a small generator, a small encoder, 480 photos of 32 pixels."""
    G = tiny.generator()
    E = tiny_encoder.encoder("ir-se", num_ws=G.num_ws, w_dim=G.w_dim)
    files.save(tmp_path / "G.npz", G, {})
    encoder_files.save(tmp_path / "E.npz", E.replace(generator=G.fingerprint))
    write_photos(tmp_path / "photos", 480)
    (tmp_path / "photos" / "017.png").write_text("no picture")
    (tmp_path / "config.py").write_text(
        "from lsap_jax.config import Config, Invert\n"
        "def get_config():\n"
        f"    return Config({str(tmp_path / 'G.npz')!r}, Invert('encoder', encoder={str(tmp_path / 'E.npz')!r},\n"
        "                  faces='aligned', store='shards', shard_size=12, batch_size=2))\n"
    )
    return [
        sys.executable,
        "-m",
        "lsap_jax.invert",
        "--config",
        tmp_path / "config.py",
        "--images",
        tmp_path / "photos",
    ]


def progress(part) -> int:
    """How many entries of a part are on disk."""
    return 12 * len(list(part.glob("shard-*.npz"))) + 2 * len(list(part.glob("pieces/*.npz")))


def test_two_hosts_killed_ten_times_each_make_the_store_of_one_that_never_was(program, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    subprocess.run([*program, "--out", straight], check=True, capture_output=True, timeout=300)
    hosts = [
        [*program, "--out", killed, "--coordinator=127.0.0.1:1", "--num_processes=2", f"--process_id={i}"]
        for i in range(2)
    ]
    parts = [killed / "shards" / f"part-{i:05d}-of-00002" for i in range(2)]
    draw, kills, early = random.Random(0), 0, 0
    for _ in range(10):
        runs = [subprocess.Popen(h, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for h in hosts]
        # Each is killed some pieces later, at a moment of its own within the work on a piece.
        until = {i: progress(parts[i]) + 2 * draw.randrange(7) for i in range(2)}
        alive = set(until)
        while alive:
            for i in sorted(alive):
                ended = runs[i].poll() is not None
                if ended or ((parts[i] / ".lock").exists() and progress(parts[i]) >= until[i]):
                    time.sleep(draw.uniform(0, 0.01))
                    runs[i].kill()
                    kills += runs[i].wait() == -signal.SIGKILL
                    alive.discard(i)
            time.sleep(0.001)
        early += any((part / "manifest.json").exists() for part in parts)
    assert kills == 20
    assert early == 0
    with pytest.raises(ResultError, match=r"--shard [01]/2"):
        merge.merge(killed)
    # One host comes back, and later, alone, the other: the last one merges.
    for host in hosts:
        subprocess.run(host, check=True, capture_output=True, timeout=300)
    names = {path.name: path.read_bytes() for path in shards.files(killed)}
    assert names == {path.name: path.read_bytes() for path in shards.files(straight)}
    assert len(names) == 40
    one, two = (json.loads((out / "manifest.json").read_text()) for out in (straight, killed))
    for manifest in (one, two):
        del manifest["parts"]
        for shard in manifest["shards"]:
            del shard["file"]
    assert one == two
    assert (one["images"], one["failures"]) == (479, 1)
    assert not [p for p in killed.rglob("*") if p.name == "pieces" or (p.name.startswith(".") and p.name != ".lock")]
    ids = [record.id for record in results.read_store(killed)]
    assert len(set(ids)) == len(ids) == 479


@pytest.mark.fast
def test_the_command_refuses_what_does_not_go_together(tmp_path):
    write_photos(tmp_path / "photos", 1)
    files.save(tmp_path / "G.npz", tiny.generator(), {})

    def invert(part=(0, 1), **options):
        settings = {"preset": "encoder", "faces": "aligned", **options}
        command.invert_photos(
            Config(str(tmp_path / "G.npz"), Invert(**settings)), str(tmp_path / "photos"), tmp_path / "out", part
        )

    for options, message in (
        ({}, "needs config.invert.encoder"),
        ({"store": "zip"}, "store='zip'"),
        ({"metrics": "some"}, "metrics='some'"),
        ({"renders": "jpg"}, "renders='jpg'"),
        ({"shard_size": 0}, "shard_size=0"),
        ({"iterations": 0}, "iterations=0"),
        ({"preset": "lsap", "part": (0, 2)}, "store=shards"),
        ({"preset": "projector-w", "store": "shards"}, "noise maps"),
    ):
        with pytest.raises(ConfigError, match=message):
            invert(**options)
    for text in ("3/3", "x", "1/0", "-1/2"):
        with pytest.raises(ConfigError, match="--shard"):
            command._part(text)
    assert not (tmp_path / "out").exists()
