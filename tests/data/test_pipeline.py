"""Training and evaluation batches: order, resume, hosts, padding, and what is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny

from lsap_jax.data import images, pipeline, samples
from lsap_jax.errors import ConfigError, ImageError

pytest.importorskip("grain")
COUNT = 10


@pytest.fixture
def G():
    return tiny.shallow()


@pytest.fixture
def folder(tmp_path):
    """Ten images whose left half is white, and whose right half is the image's number."""
    for number in range(COUNT):
        pixels = np.full((32, 32, 3), number, np.uint8)
        pixels[:, :16] = 255
        images.write_png(tmp_path / "faces" / f"{number}.png", pixels)
    return tmp_path / "faces"


def train(folder, G, **changes):
    settings = {"resolution": 16, "batch_size": 4, "seed": 0, "flip": True, "G": G} | changes
    return pipeline.train_batches(f"folder:{folder}", **settings)


def evaluate(folder, G, **changes):
    settings = {"resolution": 16, "batch_size": 4, "limit": 100, "G": G} | changes
    return list(pipeline.eval_batches(f"folder:{folder}", **settings))


def numbers(batch):
    return [int(image[:, [0, -1]].min()) for image in batch["image"]]


def take(batches, count):
    return [next(batches) for _ in range(count)]


def assert_equal(a, b):
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        for field in left:
            np.testing.assert_array_equal(left[field], right[field])


@pytest.mark.fast
def test_batches_have_the_promised_fields(folder, G):
    batch = next(train(folder, G))
    assert batch["image"].shape == (4, 16, 16, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["ws"].shape == (4, G.num_ws, G.w_dim)
    assert batch["ws"].dtype == np.float32
    assert batch["has_ws"].dtype == bool
    assert not batch["ws"].any()
    assert not batch["has_ws"].any()


@pytest.mark.fast
def test_every_epoch_has_all_images_in_another_order(folder, G):
    seen = np.concatenate([numbers(b) for b in take(train(folder, G, batch_size=5), 6)]).reshape(3, COUNT)
    for epoch in seen:
        assert sorted(epoch) == list(range(COUNT))
    assert len({tuple(epoch) for epoch in seen}) == 3
    other = np.concatenate([numbers(b) for b in take(train(folder, G, batch_size=5, seed=1), 2)])
    assert tuple(other) != tuple(seen[0])


def test_half_of_the_images_are_mirrored(folder, G):
    batch = next(train(folder, G, batch_size=200))
    mirrored = batch["image"][:, 0, 0, 0] != 255
    assert 0.35 < mirrored.mean() < 0.65
    plain = next(train(folder, G, batch_size=200, flip=False))
    assert (plain["image"][:, 0, 0, 0] == 255).all()
    assert numbers(batch) == numbers(plain)


@pytest.mark.fast
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_make_the_batch_of_one(folder, G, hosts):
    whole = take(train(folder, G, batch_size=8), 5)
    parts = [take(train(folder, G, batch_size=8, process_index=i, process_count=hosts), 5) for i in range(hosts)]
    joined = [{k: np.concatenate([part[k] for part in step]) for k in step[0]} for step in zip(*parts, strict=True)]
    assert_equal(whole, joined)


@pytest.mark.fast
def test_resume_is_exact(folder, G):
    straight = train(folder, G)
    take(straight, 3)
    state = json.loads(json.dumps(straight.get_state()))
    expected = take(straight, 6)

    again = train(folder, G)
    take(again, 5)  # wherever it stood
    again.set_state(state)
    assert again.get_state() == state
    assert_equal(take(again, 6), expected)


@pytest.mark.fast
def test_a_position_in_other_data_is_refused(folder, G):
    state = train(folder, G).get_state()
    with pytest.raises(ConfigError, match="seed"):
        train(folder, G, seed=1).set_state(state)
    (folder / "0.png").unlink()
    with pytest.raises(ConfigError, match="digest"):
        train(folder, G).set_state(state)


@pytest.mark.fast
def test_evaluation_is_in_order_and_padded(folder, G):
    batches = evaluate(folder, G)
    assert [b["image"].shape for b in batches] == [(4, 16, 16, 3)] * 3
    assert [n for b in batches for n in numbers(b)] == [*range(COUNT), 0, 0]
    assert [m for b in batches for m in b["mask"]] == [True] * COUNT + [False] * 2
    assert [n for b in evaluate(folder, G, limit=6) for n, m in zip(numbers(b), b["mask"], strict=True) if m] == [
        *range(6)
    ]
    hosts = [evaluate(folder, G, process_index=i, process_count=2) for i in range(2)]
    joined = [{k: np.concatenate([p[k] for p in step]) for k in step[0]} for step in zip(*hosts, strict=True)]
    assert_equal(batches, joined)


@pytest.mark.fast
def test_files_that_cannot_be_used_are_listed_and_left_out(folder, G):
    images.write_png(folder / "wide.png", np.zeros((20, 30, 3), np.uint8))
    images.write_png(folder / "tiny.png", np.zeros((8, 8, 3), np.uint8))
    (folder / "text.png").write_text("no image")
    batches = train(folder, G, batch_size=5)
    problems = {os.path.basename(path): reason for path, reason in batches.records.problems.items()}
    assert problems.keys() == {"wide.png", "tiny.png", "text.png"}
    assert "30 x 20" in problems["wide.png"]
    assert sorted(np.concatenate([numbers(b) for b in take(batches, 2)])) == list(range(COUNT))


@pytest.mark.fast
def test_a_file_damaged_behind_its_header_stops_nothing(folder, G, caplog):
    noise = np.random.RandomState(0).randint(0, 255, (32, 32, 3)).astype(np.uint8)
    data = images.to_png(noise)
    (folder / "3.png").write_bytes(data[: len(data) // 2])
    batches = take(train(folder, G, batch_size=5, flip=False), 2)
    seen = np.concatenate([numbers(b) for b in batches])
    assert sorted(seen) == [0, 1, 2, 4, 4, 5, 6, 7, 8, 9]
    masks = np.concatenate([b["mask"] for b in evaluate(folder, G)])
    np.testing.assert_array_equal(masks, [True] * 3 + [False] + [True] * 6 + [False] * 2)


@pytest.mark.fast
def test_images_are_shrunk_without_aliasing(folder, G):
    pixels = np.random.RandomState(0).randint(0, 255, (48, 48, 3)).astype(np.uint8)
    images.write_png(folder / "0.png", pixels)
    (third,) = evaluate(folder, G, limit=1, batch_size=1)
    np.testing.assert_allclose(third["image"][0], pixels.reshape(16, 3, 16, 3, 3).mean((1, 3)), atol=0.6)
    (other,) = evaluate(folder, G, limit=1, batch_size=1, resolution=20)
    assert other["image"][0].std() < 0.6 * pixels.std()  # plain sampling would keep the deviation
    (same,) = evaluate(folder, G, limit=1, batch_size=1, resolution=48)
    np.testing.assert_array_equal(same["image"][0], pixels)


def test_samples_come_with_their_codes(tmp_path, G):
    list(samples.write(G, tmp_path, 12, 32, 0, samples.Settings(), 4, shard=5))
    S = samples.Samples(tmp_path)
    source = f"samples:{tmp_path}"
    (batch, *_) = pipeline.eval_batches(source, resolution=32, batch_size=12, limit=12, G=G)
    np.testing.assert_array_equal(batch["image"], np.stack([S[i]["image"] for i in range(12)]))
    np.testing.assert_array_equal(batch["ws"], np.stack([S[i]["ws"] for i in range(12)]))
    assert batch["has_ws"].all()

    batch = next(pipeline.train_batches(source, resolution=16, batch_size=8, seed=0, flip=True, G=G))
    rendered = samples.render(G, batch["ws"], 16)
    np.testing.assert_allclose(batch["image"] / 127.5 - 1, rendered, atol=0.05)  # never mirrored

    with pytest.raises(ConfigError, match="not of the one in use"):
        pipeline.train_batches(source, resolution=16, batch_size=8, seed=0, flip=True, G=tiny.shallow(1))
    with pytest.raises(ConfigError, match="--resolution 64"):
        pipeline.train_batches(source, resolution=64, batch_size=8, seed=0, flip=True, G=G)


@pytest.mark.fast
def test_what_is_missing_is_said(tmp_path, G, monkeypatch):
    options = {"resolution": 16, "batch_size": 4, "seed": 0, "flip": True, "G": G}
    with pytest.raises(ConfigError, match="use 'folder:PATH'"):
        pipeline.train_batches(str(tmp_path), **options)
    with pytest.raises(ImageError, match=r"no such file or folder.*align_faces"):
        pipeline.train_batches(f"folder:{tmp_path / 'none'}", **options)
    with pytest.raises(ImageError, match=r"render_samples\.py"):
        pipeline.train_batches(f"samples:{tmp_path}", **options)
    images.write_png(tmp_path / "wide.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(ImageError, match=r"none of 1 images can be used.*30 x 20"):
        pipeline.train_batches(f"folder:{tmp_path}", **options)
    with pytest.raises(ConfigError, match="does not divide over 3 hosts"):
        pipeline.train_batches(f"folder:{tmp_path}", **options, process_count=3)
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ConfigError, match=r"lsap_jax\[train\]"):
        pipeline.train_batches(f"folder:{tmp_path}", **options)


BUILD = """
import io, sys
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

class SquareFaces(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"image": image}))

    def _split_generators(self, download):
        return {"train": self._generate_examples(range(6)), "wide": self._generate_examples([-1, -2])}

    def _generate_examples(self, numbers):
        for number in numbers:
            file = io.BytesIO()
            Image.fromarray(np.full((32, 32 if number >= 0 else 48, 3), abs(number), np.uint8)).save(file, "PNG")
            yield number, {"image": io.BytesIO(file.getvalue())}

SquareFaces(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""
READ = """
import sys
import tiny
from lsap_jax.data import pipeline
from lsap_jax.errors import ImageError
options = dict(resolution=16, batch_size=3, seed=0, flip=True, G=tiny.shallow())
batches = pipeline.train_batches("tfds:square_faces", **options)
seen = [int(n) for _ in range(2) for n in next(batches)["image"][:, 0, 0, 0]]
assert sorted(seen) == list(range(6)), seen
try:
    pipeline.train_batches("tfds:square_faces:wide", **options)
except ImageError as error:
    assert "48 x 32" in str(error)
else:
    raise AssertionError
assert "grain" in sys.modules
assert "tensorflow" not in sys.modules
assert "torch" not in sys.modules
"""


def test_tfds_without_tensorflow(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "square_faces.py").write_text(BUILD)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(tiny.__file__))
    for program in (["build/square_faces.py", str(tmp_path)], ["-c", READ]):
        done = subprocess.run([sys.executable, *program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
