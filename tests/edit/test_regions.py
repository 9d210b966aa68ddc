import numpy as np
import pytest
from PIL import Image, ImageDraw

from lsap_jax.edit import regions
from lsap_jax.errors import FaceError, RegionError

pytestmark = pytest.mark.fast

POINTS = regions.MEAN_LANDMARKS * 256 - 0.5
EYES = regions.box(*regions.NAMED["eyes"])


def middle(region):
    """(row, column) of the centre, counted as regions count."""
    rows, columns = np.indices(region.shape) + 0.5
    return np.array([(rows * region).sum(), (columns * region).sum()]) / region.sum()


def turned(points, degrees, about=128.0):
    turn = np.exp(1j * np.radians(degrees))
    z = (points - about + 0.5) @ np.array([1, 1j]) * turn
    return np.stack([z.real, z.imag], axis=1) + about - 0.5


def test_a_box_is_low_rank_gans():
    want = np.zeros((256, 256), np.float32)
    want[110:130, 71:186] = 1  # 120 - 20 // 2 ..., 128 - 115 // 2 ...
    np.testing.assert_array_equal(EYES, want)
    assert EYES.dtype == np.float32


def test_rows_come_first():
    assert middle(regions.box(10, 50, 4, 8, 64)).tolist() == [10, 50]
    tall = regions.box(1, 2, 2, 2, (8, 4))
    assert tall.shape == (8, 4)
    assert tall[0:2, 1:3].min() == 1
    np.testing.assert_allclose(middle(regions.polygon([[0, 40], [20, 40], [0, 60]], 64)), [20 / 3, 40 + 20 / 3], 2e-3)


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_boxes_cover_the_same_part_on_every_grid(size):
    region = regions.box(*regions.NAMED["nose"], size, grid=256)
    assert region.mean() == pytest.approx(40 * 46 / 256**2, rel=1e-5)
    np.testing.assert_allclose(middle(region) * 256 / size, [142, 131], atol=0.1)


def test_a_box_beyond_the_border_is_cut_off():
    assert regions.box(0, 0, 10, 10, 32).sum() == 25
    with pytest.raises(RegionError, match="positive"):
        regions.box(5, 5, 0, 4, 32)


def test_polygons():
    square = [[4.25, 6], [4.25, 10.5], [8, 10.5], [8, 6]]
    region = regions.polygon(square, (16, 20))
    assert region.sum() == pytest.approx(3.75 * 4.5)
    assert region[4, 6] == pytest.approx(0.75)
    assert region[5, 10] == pytest.approx(0.5)
    np.testing.assert_array_equal(regions.polygon(square[::-1], (16, 20)), region)
    np.testing.assert_allclose(regions.polygon(np.array(square) * 2, (16, 20), grid=32)[3:8], 0, atol=1)
    np.testing.assert_allclose(regions.polygon([[-9, -9], [-9, 99], [99, 99], [99, -9]], 32), 1)
    ring = [[2, 2], [2, 14], [14, 14], [14, 2], [2, 2], [5, 5], [5, 11], [11, 11], [11, 5], [5, 5]]
    assert regions.polygon(ring, 16).sum() == pytest.approx(144 - 36)
    for bad in ([[1, 2], [3, 4]], [1, 2, 3], [[0, 0], [0, np.nan], [1, 1]], "abc"):
        with pytest.raises(RegionError):
            regions.polygon(bad)


def test_ellipses():
    region = regions.ellipse(30, 40, 20, 36, 64)
    assert region.sum() == pytest.approx(np.pi * 10 * 18, rel=2e-3)
    np.testing.assert_allclose(middle(region), [30, 40], atol=1e-3)
    quarter = regions.ellipse(30, 40, 36, 20, 64, angle=90)
    np.testing.assert_allclose(quarter, region, atol=0.06)
    clockwise = regions.ellipse(32, 32, 4, 50, 64, angle=30)  # its right end goes down
    assert clockwise[40:, 40:].sum() > 10 * clockwise[:24, 40:].sum()


def test_set_identities():
    a, b = regions.feather(EYES, 5), regions.feather(regions.box(130, 128, 40, 40), 3)
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


def test_face_parts_lie_where_they_should():
    at = {name: middle(regions.face_part(POINTS, name)) for name in regions.FACE_PARTS}
    np.testing.assert_allclose(at["left_eye"][::-1], POINTS[0] + 0.5, atol=0.1)
    np.testing.assert_allclose(at["right_eye"][::-1], POINTS[1] + 0.5, atol=0.1)
    assert at["left_eye"][1] < at["nose"][1] < at["right_eye"][1]
    order = ["hair", "brows", "eyes", "nose", "lips", "chin"]
    assert [at[name][0] for name in order] == sorted(at[name][0] for name in order)
    for name in ("eyes", "brows", "skin", "hair", "mouth", "face"):
        assert at[name][1] == pytest.approx(128, abs=0.1)
    # The mean face's parts lie on LowRankGAN's boxes.
    for name in ("left_eye", "right_eye", "nose", "mouth", "chin"):
        inside = regions.face_part(POINTS, name)
        assert (inside * regions.box(*regions.NAMED[name])).sum() > 0.4 * inside.sum()


@pytest.mark.parametrize("name", ["eyes", "mouth", "hair", "left_cheek"])
def test_face_parts_turn_scale_and_mirror_with_the_face(name):
    part = regions.face_part(POINTS, name)
    moved = regions.face_part(turned(POINTS, 25), name)
    where = middle(part)[::-1][None] - 0.5
    np.testing.assert_allclose(middle(moved)[::-1] - 0.5, turned(where, 25)[0], atol=0.2)
    assert moved.sum() == pytest.approx(part.sum(), rel=0.01)
    double = regions.face_part((POINTS + 0.5) * 2 - 0.5, name, 512)
    np.testing.assert_allclose(regions.resize(double, 256), part, atol=0.13)
    mirrored = POINTS[[1, 0, 2, 4, 3]] * [-1, 1] + [255, 0]
    other = name.replace("left", "right")
    np.testing.assert_allclose(regions.face_part(mirrored, other)[:, ::-1], part, atol=1e-4)


def test_face_parts_refuse_what_is_no_face():
    with pytest.raises(RegionError, match="left_eye"):
        regions.face_part(POINTS, "beard")
    with pytest.raises(FaceError):
        regions.face_part(np.zeros((5, 2)), "eyes")
    with pytest.raises(FaceError):
        regions.face_part(POINTS[[1, 0, 2, 4, 3]], "eyes")


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
    np.testing.assert_array_equal(regions.parse("eyes", landmarks=POINTS), regions.face_part(POINTS, "eyes"))
    np.testing.assert_allclose(regions.parse("hair"), regions.face_part(POINTS, "hair"), atol=1e-5)

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
