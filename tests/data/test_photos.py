"""Preparing photos, and doing so ahead on threads."""

import threading
import time

import numpy as np
import pytest

from lsap_jax.data import images, photos, sources
from lsap_jax.errors import ConfigError

pytestmark = pytest.mark.fast


def test_ahead_keeps_the_order_and_reads_no_further_than_asked():
    taken, running = [], threading.Semaphore(0)

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    def work(n):
        running.release()
        time.sleep(0.002 * (n % 3))
        return n * n

    outcomes = photos.ahead(work, items(), threads=3, most=4)
    assert [next(outcomes) for _ in range(5)] == [(n, n * n) for n in range(5)]
    assert len(taken) <= 5 + 4
    assert list(outcomes) == [(n, n * n) for n in range(5, 100)]


def test_what_a_thread_raises_is_raised_where_it_is_taken():
    def work(n):
        if n == 2:
            raise RuntimeError("of a thread")
        return n

    outcomes = photos.ahead(work, range(1000), threads=2, most=4)
    assert next(outcomes) == (0, 0)
    with pytest.raises(RuntimeError, match="of a thread"):
        list(outcomes)


def test_a_photo_becomes_aligned_or_a_failure_with_its_reason(tmp_path):
    images.write_png(tmp_path / "good.png", np.full((64, 64, 3), 7, np.uint8))
    images.write_png(tmp_path / "wide.png", np.zeros((32, 64, 3), np.uint8))
    (tmp_path / "text.png").write_text("no picture")
    entries = {e.id: e for e in sources.open_source(tmp_path).entries(0, 3)}
    prepare = photos.Preparation(32, "aligned")
    (photo,) = prepare(entries["good.png"])
    assert photo.image.shape == (32, 32, 3)
    assert photo.image.dtype == np.uint8
    assert (photo.id, photo.source) == ("good.png", str(tmp_path / "good.png"))
    wide, text = prepare(entries["wide.png"]), prepare(entries["text.png"])
    assert isinstance(wide, photos.Failure)
    assert "64 x 32" in wide.reason
    assert isinstance(text, photos.Failure)
    assert text.id == "text.png"
    with pytest.raises(ConfigError, match="faces='both'"):
        photos.Preparation(32, "both")


def test_landmarks_take_the_place_of_detection(tmp_path):
    images.write_png(tmp_path / "two.png", np.random.RandomState(0).randint(0, 255, (300, 300, 3)).astype(np.uint8))
    face = np.array([[100, 120], [180, 120], [140, 160], [110, 200], [170, 200]], float)
    (entry,) = sources.open_source(tmp_path).entries(0, 1)
    found = photos.Preparation(32, "all", {"two.png": [face, face * 0.5]})(entry)
    assert [photo.id for photo in found] == ["two.png-face0", "two.png-face1"]
    assert not np.array_equal(found[0].image, found[1].image)
