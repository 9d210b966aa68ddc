"""Shards, parts, manifests and their merging, without any network."""

import json

import numpy as np
import pytest

from lsap_jax.data import merge, results, shards
from lsap_jax.data.photos import Failure
from lsap_jax.data.shards import Part, Shard
from lsap_jax.errors import CheckpointError, LsapError, ResultError

pytestmark = pytest.mark.fast

STORE = {"entries": 10, "list": "abc", "shard_size": 3}
SETTINGS = {"generator": "toy", "seed": 0, "store": STORE, "versions": {"jax": "1"}}


def part(out, index=0, count=1) -> Part:
    return Part(out, index, count, STORE["entries"], STORE["shard_size"])


def piece(stretch: range, settings=SETTINGS) -> Shard:
    """Entry 4 cannot be used; every other one gives one image."""
    good = [n for n in stretch if n != 4]
    return Shard(
        stretch.start,
        len(stretch),
        [f"id{n}" for n in good],
        [f"/photos/{n}" for n in good],
        [["a note"] for _ in good],
        np.array([np.full((2, 3), n, np.float32) for n in good]).reshape(-1, 2, 3),
        {"mse": np.array(good, np.float32), "sncd": np.ones((len(good), 4), np.float32)} if good else {},
        [Failure("id4", "/photos/4", "no face")] if 4 in stretch else [],
        settings,
    )


def make(out, index=0, count=1, settings=SETTINGS) -> Part:
    results.open_folder(out, settings, inside="shards")
    made = part(out, index, count)
    for shard in made.shards:
        pieces = [range(n, n + 1) for n in made.stretch(shard)]
        for stretch in pieces:
            shards.write(made.piece(stretch), piece(stretch, settings))
        shards.finish(made, shard, pieces)
    shards.finish_part(made, settings)
    return made


@pytest.mark.parametrize("entries", [1, 9, 10, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_parts_cover_every_entry_once_by_the_same_shards(tmp_path, entries, count):
    covered = [
        (shard, n)
        for index in range(count)
        for p in [Part(tmp_path, index, count, entries, 3)]
        for shard in p.shards
        for n in p.stretch(shard)
    ]
    assert covered == [(n // 3, n) for n in range(entries)]


def test_a_shard_is_its_pieces_whatever_their_size(tmp_path):
    whole, single = part(tmp_path / "a"), part(tmp_path / "b")
    shards.write(whole.piece(range(3, 6)), piece(range(3, 6)))
    shards.finish(whole, 1, [range(3, 6)])
    pieces = [range(n, n + 1) for n in range(3, 6)]  # the one of entry 4 has no image
    for stretch in pieces:
        shards.write(single.piece(stretch), piece(stretch))
    shards.finish(single, 1, pieces)
    assert whole.path(1).read_bytes() == single.path(1).read_bytes()
    assert not list((single.folder / "pieces").iterdir())
    shard = shards.read(single.path(1))
    assert shard.ids == ["id3", "id5"]
    assert shard.ws[:, 0, 0].tolist() == [3, 5]
    assert shard.metrics["sncd"].shape == (2, 4)
    assert shard.failures == [Failure("id4", "/photos/4", "no face")]
    assert shard.settings == SETTINGS


def test_the_merged_manifest_is_the_same_by_any_number_of_parts(tmp_path):
    make(tmp_path / "one")
    assert merge.merge(tmp_path / "one") == {"images": 9, "failures": 1}
    for index in (2, 0, 1):
        make(tmp_path / "three", index, 3)
    merge.merge(tmp_path / "three")
    one, three = (json.loads((tmp_path / n / "manifest.json").read_text()) for n in ("one", "three"))
    assert [s["sha256"] for s in one["shards"]] == [s["sha256"] for s in three["shards"]]
    assert [i for s in one["shards"] for i in s["ids"]] == [f"id{n}" for n in range(10) if n != 4]
    assert one["shards"][1]["failures"] == [{"id": "id4", "source": "/photos/4", "reason": "no face"}]
    assert (one["images"], one["failures"], one["settings"]) == (9, 1, SETTINGS)
    assert {**one, "shards": 0, "parts": 3} == {**three, "shards": 0}
    assert shards.manifest_total(tmp_path / "three" / "manifest.json") == {"images": 9, "failures": 1}
    # A second merge, or one by somebody else, writes the same bytes.
    before = (tmp_path / "three" / "manifest.json").read_bytes()
    merge.merge(tmp_path / "three")
    assert (tmp_path / "three" / "manifest.json").read_bytes() == before


def test_merge_says_what_is_missing_and_what_to_run(tmp_path):
    with pytest.raises(ResultError, match="no results folder"):
        merge.merge(tmp_path)
    results.open_folder(tmp_path, SETTINGS, inside="shards")
    with pytest.raises(ResultError, match="no parts yet"):
        merge.merge(tmp_path)
    make(tmp_path, 0, 3)
    broken = make(tmp_path, 1, 3)
    (broken.folder / "manifest.json").unlink()
    broken.path(1).unlink()
    with pytest.raises(ResultError) as error:
        merge.merge(tmp_path)
    text = str(error.value)
    assert "part 1 of 3 lacks 1 of 1 shards (shard-00001.npz)" in text
    assert "part 2 of 3 was never begun" in text
    assert f"run the invert command of {tmp_path} with --shard 2/3" in text
    assert not merge.is_complete(tmp_path, 3)
    for index in (1, 2):
        make(tmp_path, index, 3)
    assert merge.is_complete(tmp_path, 3)
    merge.merge(tmp_path)


def test_merge_refuses_damage_strangers_and_mixtures(tmp_path):
    made = make(tmp_path / "damaged")
    data = bytearray(made.path(2).read_bytes())
    data[200] ^= 1
    made.path(2).write_bytes(data)
    with pytest.raises(ResultError, match=r"shard-00002.npz is damaged.*--shard 0/1"):
        merge.merge(tmp_path / "damaged")
    made.path(2).unlink()
    with pytest.raises(ResultError, match="is missing"):
        merge.merge(tmp_path / "damaged", verify=False)

    make(tmp_path / "mixed", 0, 2)
    make(tmp_path / "mixed", 0, 3)
    with pytest.raises(ResultError, match="different splits"):
        merge.merge(tmp_path / "mixed")

    make(tmp_path / "other", 0, 2, {**SETTINGS, "seed": 1})
    (tmp_path / "other" / "settings.json").write_text(json.dumps(SETTINGS))
    make(tmp_path / "other", 1, 2)
    with pytest.raises(ResultError, match="made with other settings"):
        merge.merge(tmp_path / "other")

    make(tmp_path / "cut")
    manifest = tmp_path / "cut" / "shards" / "part-00000-of-00001" / "manifest.json"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:-1]))
    with pytest.raises(ResultError, match="cut short"):
        merge.merge(tmp_path / "cut")
    manifest.write_text("".join([*lines[:2], *lines[3:]]))
    with pytest.raises(ResultError, match="does not belong there"):
        merge.merge(tmp_path / "cut")
    manifest.write_text("".join([*lines[:-2], lines[-1]]))
    with pytest.raises(ResultError, match="shard 3 is not in it"):
        merge.merge(tmp_path / "cut")

    results.open_folder(tmp_path / "folders", {"seed": 0})
    with pytest.raises(ResultError, match="nothing to merge"):
        merge.merge(tmp_path / "folders")


def test_a_store_is_read_one_by_one_in_order_and_images_once(tmp_path):
    make(tmp_path, 0, 2)
    make(tmp_path, 1, 2)
    records = list(results.read_store(tmp_path))
    assert [r.id for r in records] == [f"id{n}" for n in range(10) if n != 4]
    assert records[-1].ws.tolist() == [[9, 9, 9]] * 2
    assert records[-1].source == "/photos/9"
    assert records[-1].metrics == {"mse": 9, "sncd": [1, 1, 1, 1]}
    make(tmp_path, 0, 1)  # the same shards once more, in another split
    assert [r.id for r in results.read_store(tmp_path)] == [r.id for r in records]


def test_a_part_is_for_one_process_and_other_sets_are_refused(tmp_path):
    results.open_folder(tmp_path, SETTINGS, inside="shards")
    with (
        part(tmp_path).claimed(),
        pytest.raises(ResultError, match="another process works on part 0 of 1"),
        part(tmp_path).claimed(),
    ):
        pass
    with part(tmp_path).claimed():
        pass
    with pytest.raises(ResultError, match=r"10 images \(list abc\).*11 images \(list abd\)"):
        results.open_folder(tmp_path, {**SETTINGS, "store": {**STORE, "entries": 11, "list": "abd"}}, inside="shards")


def test_what_is_no_shard_is_refused(tmp_path):
    made = make(tmp_path)
    made.path(0).write_bytes(b"not a zip")
    with pytest.raises(CheckpointError, match="shard-00000"):
        list(results.read_store(tmp_path))
    with pytest.raises(LsapError, match="missing or damaged"):
        shards.manifest_head(tmp_path / "absent.json")
    with pytest.raises(LsapError, match="missing or damaged"):
        list(shards.manifest_shards(tmp_path / "absent.json"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        shards.write(tmp_path / "file" / "x.npz", piece(range(1)))
