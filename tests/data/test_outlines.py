import numpy as np
import pytest

from lsap_jax.data import outlines
from lsap_jax.errors import RegionError

pytestmark = pytest.mark.fast

NOSE = (142, 131, 40, 46)


def middle(region):
    """(row, column) of the centre, counted as regions count."""
    rows, columns = np.indices(region.shape) + 0.5
    return np.array([(rows * region).sum(), (columns * region).sum()]) / region.sum()


def test_a_box_is_low_rank_gans():
    want = np.zeros((256, 256), np.float32)
    want[110:130, 71:186] = 1  # 120 - 20 // 2 ..., 128 - 115 // 2 ...
    eyes = outlines.box(120, 128, 20, 115, 256)
    np.testing.assert_array_equal(eyes, want)
    assert eyes.dtype == np.float32


def test_rows_come_first():
    assert middle(outlines.box(10, 50, 4, 8, 64)).tolist() == [10, 50]
    tall = outlines.box(1, 2, 2, 2, (8, 4))
    assert tall.shape == (8, 4)
    assert tall[0:2, 1:3].min() == 1
    np.testing.assert_allclose(middle(outlines.polygon([[0, 40], [20, 40], [0, 60]], 64)), [20 / 3, 40 + 20 / 3], 2e-3)


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_boxes_cover_the_same_part_on_every_grid(size):
    region = outlines.box(*NOSE, size, grid=256)
    assert region.mean() == pytest.approx(40 * 46 / 256**2, rel=1e-5)
    np.testing.assert_allclose(middle(region) * 256 / size, [142, 131], atol=0.1)


def test_a_box_beyond_the_border_is_cut_off():
    assert outlines.box(0, 0, 10, 10, 32).sum() == 25
    with pytest.raises(RegionError, match="positive"):
        outlines.box(5, 5, 0, 4, 32)


def test_polygons():
    square = [[4.25, 6], [4.25, 10.5], [8, 10.5], [8, 6]]
    region = outlines.polygon(square, (16, 20))
    assert region.sum() == pytest.approx(3.75 * 4.5)
    assert region[4, 6] == pytest.approx(0.75)
    assert region[5, 10] == pytest.approx(0.5)
    np.testing.assert_array_equal(outlines.polygon(square[::-1], (16, 20)), region)
    twice = outlines.polygon(np.array(square) * 2, 16, grid=32)
    np.testing.assert_allclose(twice, outlines.polygon(square, 16), atol=1e-6)
    np.testing.assert_allclose(outlines.polygon([[-9, -9], [-9, 99], [99, 99], [99, -9]], 32), 1)
    ring = [[2, 2], [2, 14], [14, 14], [14, 2], [2, 2], [5, 5], [5, 11], [11, 11], [11, 5], [5, 5]]
    assert outlines.polygon(ring, 16).sum() == pytest.approx(144 - 36)
    for bad in ([[1, 2], [3, 4]], [1, 2, 3], [[0, 0], [0, np.nan], [1, 1]], "abc"):
        with pytest.raises(RegionError):
            outlines.polygon(bad, 32)


def test_ellipses():
    region = outlines.ellipse(30, 40, 20, 36, 64)
    assert region.sum() == pytest.approx(np.pi * 10 * 18, rel=2e-3)
    np.testing.assert_allclose(middle(region), [30, 40], atol=1e-3)
    quarter = outlines.ellipse(30, 40, 36, 20, 64, angle=90)
    np.testing.assert_allclose(quarter, region, atol=0.06)
    clockwise = outlines.ellipse(32, 32, 4, 50, 64, angle=30)  # its right end goes down
    assert clockwise[40:, 40:].sum() > 10 * clockwise[:24, 40:].sum()
