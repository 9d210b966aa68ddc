import numpy as np
import pytest

from lsap_jax.data import face_parts
from lsap_jax.data.outlines import box
from lsap_jax.edit.regions import NAMED, resize
from lsap_jax.errors import FaceError, RegionError

pytestmark = pytest.mark.fast

POINTS = face_parts.MEAN_LANDMARKS * 256 - 0.5


def middle(region):
    """(row, column) of the centre, counted as regions count."""
    rows, columns = np.indices(region.shape) + 0.5
    return np.array([(rows * region).sum(), (columns * region).sum()]) / region.sum()


def turned(points, degrees, about=128.0):
    turn = np.exp(1j * np.radians(degrees))
    z = (points - about + 0.5) @ np.array([1, 1j]) * turn
    return np.stack([z.real, z.imag], axis=1) + about - 0.5


def test_face_parts_lie_where_they_should():
    at = {name: middle(face_parts.face_part(POINTS, name, 256)) for name in face_parts.FACE_PARTS}
    np.testing.assert_allclose(at["left_eye"][::-1], POINTS[0] + 0.5, atol=0.1)
    np.testing.assert_allclose(at["right_eye"][::-1], POINTS[1] + 0.5, atol=0.1)
    assert at["left_eye"][1] < at["nose"][1] < at["right_eye"][1]
    order = ["hair", "brows", "eyes", "nose", "lips", "chin"]
    assert [at[name][0] for name in order] == sorted(at[name][0] for name in order)
    for name in ("eyes", "brows", "skin", "hair", "mouth", "face"):
        assert at[name][1] == pytest.approx(128, abs=0.1)
    # The mean face's parts lie on LowRankGAN's boxes.
    for name in ("left_eye", "right_eye", "nose", "mouth", "chin"):
        inside = face_parts.face_part(POINTS, name, 256)
        assert (inside * box(*NAMED[name], 256)).sum() > 0.4 * inside.sum()


@pytest.mark.parametrize("name", ["eyes", "mouth", "hair", "left_cheek"])
def test_face_parts_turn_scale_and_mirror_with_the_face(name):
    part = face_parts.face_part(POINTS, name, 256)
    moved = face_parts.face_part(turned(POINTS, 25), name, 256)
    where = middle(part)[::-1][None] - 0.5
    np.testing.assert_allclose(middle(moved)[::-1] - 0.5, turned(where, 25)[0], atol=0.2)
    assert moved.sum() == pytest.approx(part.sum(), rel=0.01)
    double = face_parts.face_part((POINTS + 0.5) * 2 - 0.5, name, 512)
    np.testing.assert_allclose(resize(double, 256), part, atol=0.13)
    mirrored = POINTS[[1, 0, 2, 4, 3]] * [-1, 1] + [255, 0]
    other = name.replace("left", "right")
    np.testing.assert_allclose(face_parts.face_part(mirrored, other, 256)[:, ::-1], part, atol=1e-4)


def test_face_parts_refuse_what_is_no_face():
    with pytest.raises(RegionError, match="left_eye"):
        face_parts.face_part(POINTS, "beard", 256)
    with pytest.raises(FaceError):
        face_parts.face_part(np.zeros((5, 2)), "eyes", 256)
    with pytest.raises(FaceError):
        face_parts.face_part(POINTS[[1, 0, 2, 4, 3]], "eyes", 256)
