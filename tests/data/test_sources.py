"""Ordered lists of images: the same as `images.list_images` gives, at any size and from any start."""

import subprocess
import sys

import numpy as np
import pytest

from lsap_jax.data import images, sources
from lsap_jax.errors import ConfigError, ImageError

NAMES = ("b/1.png", "b-c/0.png", "a.png", "b/0.JPG", "b/x/2.png", "line\nbreak.png", "é.png", "z+y.png")


@pytest.fixture
def folder(tmp_path):
    for name in (*NAMES, ".hidden.png", ".cache/a.png", "notes.txt"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.to_png(np.full((16, 16, 3), len(name), np.uint8)))
    return tmp_path / "photos"


@pytest.mark.fast
@pytest.mark.parametrize(("at_once", "stride"), [(100, 100), (3, 2), (1, 1)])
def test_a_folder_is_listed_in_order_whatever_fits_in_memory(folder, monkeypatch, at_once, stride):
    digest = sources.open_source(folder).digest
    monkeypatch.setattr(sources, "_AT_ONCE", at_once)
    monkeypatch.setattr(sources, "_STRIDE", stride)
    source, listed = sources.open_source(folder), images.list_images(folder)
    assert source.count == len(listed) == len(NAMES)
    assert source.digest == digest
    entries = list(source.entries(0, 100))
    assert [e.source for e in entries] == list(map(str, listed))
    assert [e.id for e in entries] == [images.image_id(path, folder) for path in listed]
    assert [e.name for e in entries] == [path.relative_to(folder).as_posix() for path in listed]
    for start in range(len(NAMES) + 1):
        assert [e.id for e in source.entries(start, start + 3)] == [e.id for e in entries[start : start + 3]]
    # Two readers at once do not disturb each other.
    assert [(a.id, b.id) for a, b in zip(source.entries(0, 5), source.entries(2, 7), strict=True)] == [
        (entries[i].id, entries[i + 2].id) for i in range(5)
    ]
    assert entries[0].read().shape == (16, 16, 3)


@pytest.mark.fast
def test_the_digest_knows_every_name(folder):
    before = sources.open_source(folder).digest
    (folder / "a.png").rename(folder / "aa.png")
    assert sources.open_source(folder).digest != before


@pytest.mark.fast
def test_one_file_and_nothing(folder, tmp_path):
    source = sources.open_source(folder / "a.png")
    (entry,) = source.entries(0, 10)
    assert (entry.id, entry.name) == ("a.png", "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no images in this folder"):
        sources.open_source(tmp_path / "empty")
    with pytest.raises(ImageError, match="no such file or folder"):
        sources.open_source(tmp_path / "absent")


BUILD = """
import io, os, sys
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

class SmallFaces(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"image": image}))

    def _split_generators(self, download):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(5):
            file = io.BytesIO()
            Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(file, "PNG")
            yield i, {"image": io.BytesIO(b"no image" if i == 3 else file.getvalue())}

SmallFaces(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""
READ = """
import sys
from lsap_jax.data import sources
from lsap_jax.errors import ImageError
source = sources.open_source("tfds:small_faces:1.0.0:train")
values = []
for entry in source.entries(0, 9):
    try:
        values.append(int(entry.read()[0, 0, 0]))
    except ImageError as error:
        values.append(-1)
        assert entry.source in str(error)
    assert entry.id == f"small_faces-1.0.0-train-{len(values) - 1:08d}", entry.id
assert sorted(values) == [-1, 0, 1, 2, 4], values
assert [e.id for e in source.entries(2, 4)] == [f"small_faces-1.0.0-train-{i:08d}" for i in (2, 3)]
assert source.count == 5
assert "tensorflow" not in sys.modules
print(source.digest)
"""


def test_a_tfds_data_set_without_tensorflow(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "small_faces.py").write_text(BUILD)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for program in (["build/small_faces.py", str(tmp_path)], ["-c", READ]):
        done = subprocess.run([sys.executable, *program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()[-1]) == 16


def test_a_data_set_that_is_not_there_is_a_users_error(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=r"array_record.*TFDS_DATA_DIR"):
        sources.open_source("tfds:absent_faces")
