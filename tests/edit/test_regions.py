import numpy as np
import pytest
from PIL import Image, ImageDraw

from lsap_jax.data.face_parts import MEAN_LANDMARKS
from lsap_jax.edit import regions
from lsap_jax.errors import RegionError

pytestmark = pytest.mark.fast

POINTS = MEAN_LANDMARKS * 256 - 0.5
EYES = regions.box(*regions.NAMED["eyes"], 256)


def middle(region):
    """(row, column) of the centre, counted as regions count."""
    rows, columns = np.indices(region.shape) + 0.5
    return np.array([(rows * region).sum(), (columns * region).sum()]) / region.sum()


def test_set_identities():
    a, b = regions.feather(EYES, 5), regions.feather(regions.box(130, 128, 40, 40, 256), 3)
    np.testing.assert_array_equal(regions.union(a, a), a)
    np.testing.assert_array_equal(regions.union(a, b), regions.union(b, a))
    np.testing.assert_allclose(regions.complement(regions.complement(a)), a, atol=1e-7)
    both = regions.intersection(regions.complement(a), regions.complement(b))
    np.testing.assert_allclose(regions.complement(regions.union(a, b)), both, atol=1e-7)
    np.testing.assert_array_equal(regions.union(regions.complement(EYES), EYES), 1)
    with pytest.raises(RegionError, match="resize"):
        regions.union(a, b[:128])


def test_feather():
    edge = regions.box(32, 16, 64, 32, 64)  # the left half
    soft = regions.feather(edge, 4)
    np.testing.assert_array_equal(regions.feather(edge, 0), edge)
    assert (soft[:, 31] + soft[:, 32]).tolist() == pytest.approx([1] * 64)
    assert (soft[30, 27] + soft[30, 28]) / 2 == pytest.approx(0.841, abs=2e-3)  # one standard deviation inside
    np.testing.assert_allclose(soft[:, :10], 1, atol=1e-5)  # the image's border is no edge
    np.testing.assert_allclose(soft[0], soft[30], atol=1e-6)
    spot = regions.box(32, 32, 6, 6, 64)
    assert regions.feather(spot, 3).sum() == pytest.approx(36, rel=1e-4)
    again = regions.complement(regions.feather(regions.complement(spot), 3))
    np.testing.assert_allclose(again, regions.feather(spot, 3), atol=1e-6)
    with pytest.raises(RegionError, match="feather"):
        regions.feather(spot, -1)


@pytest.mark.parametrize("size", [128, 100, 37, (64, 200)])
def test_resizing_keeps_the_covered_part(size):
    soft = regions.feather(EYES, 2)
    small = regions.resize(soft, size)
    assert small.shape == (size if isinstance(size, tuple) else (size, size))
    assert small.mean() == pytest.approx(soft.mean(), rel=1e-4)
    assert small.min() >= 0
    assert small.max() <= 1
    grown = regions.resize(soft, 512)
    assert grown.mean() == pytest.approx(soft.mean(), rel=1e-4)
    np.testing.assert_allclose(middle(grown) / 2, middle(soft), atol=1e-3)


def test_check():
    np.testing.assert_array_equal(regions.check(EYES.astype(np.float64)), EYES)
    for bad, message in (
        (np.zeros((8, 8)), "empty"),
        (np.ones((8, 8)), "whole image"),
        (EYES * 255, "divide"),
        (EYES * np.nan, "0..1"),
        (EYES[None], "shape"),
        ([["a"]], "numbers"),
    ):
        with pytest.raises(RegionError, match=message):
            regions.check(bad)


def save(path, values, mode=None):
    Image.fromarray(np.asarray(values, np.uint8), mode).save(path)
    return path


def test_masks_from_files(tmp_path):
    grey = np.zeros((32, 48), np.uint8)
    grey[4:12, 20:30], grey[12, 20:30] = 255, 51
    got = regions.from_png(save(tmp_path / "mask.png", grey))
    np.testing.assert_allclose(got, grey / 255, atol=1e-6)
    assert got[12, 25] == pytest.approx(0.2)
    assert regions.from_png(tmp_path / "mask.png", 16).mean() == pytest.approx((grey / 255).mean(), rel=1e-4)

    rgba = np.random.default_rng(0).integers(0, 256, (32, 48, 4), np.uint8)
    rgba[..., 3] = grey
    np.testing.assert_allclose(regions.from_png(save(tmp_path / "alpha.png", rgba)), grey / 255, atol=1e-6)
    with pytest.raises(RegionError, match="paint"):
        regions.from_png(save(tmp_path / "colours.png", rgba[..., :3]))
    for name in ("nothing.png", "text.png"):
        (tmp_path / "text.png").write_text("no picture")
        with pytest.raises(RegionError, match=name):
            regions.from_png(tmp_path / name)


def test_painted_regions(tmp_path):
    photo = np.full((40, 40, 3), 120, np.uint8)
    photo[5:15, 20:30] = 250, 10, 5
    save(tmp_path / "photo.png", photo)
    for colour in ("red", "#f00", "#ff0000", (255, 0, 0)):
        got = regions.painted(tmp_path / "photo.png", colour)
        assert (got.sum(), *middle(got)) == (100, 10, 25)
    for colour in ("green", "redd", (1, 2), (300, 0, 0)):
        with pytest.raises(RegionError):
            regions.painted(tmp_path / "photo.png", colour)


def test_labels(tmp_path):
    values = np.zeros((32, 32), np.uint8)
    values[4:8, 4:12], values[4:8, 20:28], values[20:24, 8:24] = 4, 5, 13
    grey = save(tmp_path / "grey.png", values)
    palette = Image.new("P", (32, 32))
    palette.putdata(values.reshape(-1).tolist())
    palette.putpalette([7, 200, 90] * 256)
    palette.save(tmp_path / "palette.png")
    for path in (grey, tmp_path / "palette.png"):
        np.testing.assert_array_equal(regions.labels(path, [4, 5]), np.isin(values, [4, 5]))
    # Between labels 4 and 13 there are others, which resizing must not invent.
    assert regions.labels(grey, [13], 16).sum() == pytest.approx(64 / 4)
    with pytest.raises(RegionError, match="there are 0, 4, 5, 13"):
        regions.labels(grey, [9])
    with pytest.raises(RegionError, match="palette"):
        regions.labels(save(tmp_path / "rgb.png", np.zeros((32, 32, 3))), [0])


def test_words(tmp_path):
    np.testing.assert_array_equal(regions.parse("eyes"), EYES)
    np.testing.assert_array_equal(regions.parse("box:120,128,20,115"), EYES)
    np.testing.assert_array_equal(regions.parse("~eyes"), 1 - EYES)
    np.testing.assert_array_equal(regions.parse("eyes + mouth"), regions.union(EYES, regions.parse("mouth")))
    np.testing.assert_array_equal(
        regions.parse("eyes@6+mouth"), regions.union(regions.feather(EYES, 6), regions.parse("mouth"))
    )
    assert regions.parse("eyes@6", 128).sum() == pytest.approx(regions.feather(EYES, 6).sum() / 4, rel=1e-3)
    outline = regions.parse("polygon:10,20,10,60,30,60,30,20", 128)
    assert (outline.sum(), *middle(outline)) == pytest.approx((200, 10, 20))
    np.testing.assert_array_equal(regions.parse("eyes", landmarks=POINTS), regions.face_part(POINTS, "eyes", 256))
    np.testing.assert_allclose(regions.parse("hair"), regions.face_part(POINTS, "hair", 256), atol=1e-5)

    values = np.zeros((32, 32), np.uint8)
    ImageDraw.Draw(image := Image.fromarray(values)).rectangle((4, 8, 11, 15), fill=5)
    image.save(tmp_path / "a-b.labels.png")
    assert regions.parse(f"{tmp_path}/a-b.labels.png#4,5", 32).sum() == 64
    save(tmp_path / "mask.png", np.asarray(image) * 51)
    assert regions.parse(f"~{tmp_path}/mask.png", 32).sum() == 32**2 - 64
    save(tmp_path / "red.png", np.asarray(image)[..., None] * np.array([51, 0, 0]))
    assert regions.parse(f"{tmp_path}/red.png=red", 32).sum() == 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ears", "there are left_eye"),
        ("", "write"),
        ("eyes+", "write"),
        ("box:1,2,3", "box:ROW"),
        ("box:1,2,3,x", "'x' is no number"),
        ("polygon:1,2,3", "polygon:ROW"),
        ("eyes@x", "write"),
        ("eyes@1.2.3", "is no number"),
        ("box:900,900,5,5", "empty"),
        ("eyes+~eyes", "whole image"),
        ("nowhere.png", "no such file"),
    ],
)
def test_words_that_are_not_understood(words, message):
    with pytest.raises(RegionError, match=message):
        regions.parse(words)
