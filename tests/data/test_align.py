import json
import pathlib

import numpy as np
import pytest

from lsap_jax.data import align
from lsap_jax.errors import FaceError, ImageError

pytestmark = pytest.mark.fast

# In FFHQ's own frame, in units of the side: eyes 0.25 apart when they decide the crop's size.
EYES, MOUTH = 0.475, 0.725
UPRIGHT = np.array([[0.375, EYES], [0.625, EYES], [0.5, 0.6], [0.4, MOUTH], [0.6, MOUTH]])


def face(side: float = 200, centre=(150.0, 130.0), degrees: float = 0) -> np.ndarray:
    """Landmarks of a face whose FFHQ square has this side, centre and tilt (clockwise)."""
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return (UPRIGHT - 0.5) * side @ rotation + centre


def scene(height: int = 260, width: int = 300) -> np.ndarray:
    """A smooth picture with different things everywhere."""
    y, x = np.mgrid[:height, :width] / 40
    return np.rint(127 + 100 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=-1)).astype(np.uint8)


def test_the_square_of_an_upright_face():
    quad = align.ffhq_quad(face(side=200, centre=(150, 130)))
    np.testing.assert_allclose(quad, [[50, 30], [50, 230], [250, 230], [250, 30]], atol=1e-9)
    assert align.quad_side(quad) == pytest.approx(200)


def test_a_long_face_is_measured_from_eyes_to_mouth():
    landmarks = np.array([[140, 100], [160, 100], [150, 130], [140, 150], [160, 150.0]])
    assert align.quad_side(align.ffhq_quad(landmarks)) == pytest.approx(2 * 1.8 * 50)


@pytest.mark.parametrize("degrees", [-100, -20, 5, 45, 180])
def test_the_square_turns_moves_and_grows_with_the_face(degrees):
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    want = (align.ffhq_quad(face()) - [150, 130]) @ rotation * 3 + [7, 9]
    np.testing.assert_allclose(align.ffhq_quad(face(side=600, centre=(7, 9), degrees=degrees)), want, atol=1e-9)


def test_sixty_eight_points_mean_the_same():
    five = face()
    points = np.random.default_rng(0).normal(size=(68, 2)) * 50 + 100
    points[36:42] += five[0] - points[36:42].mean(axis=0)
    points[42:48] += five[1] - points[42:48].mean(axis=0)
    points[30], points[48], points[54] = five[2:]
    np.testing.assert_allclose(align.five_points(points), five, atol=1e-9)
    np.testing.assert_allclose(align.ffhq_quad(points), align.ffhq_quad(five), atol=1e-9)


@pytest.mark.parametrize("size", [200, 100, 50])
def test_a_crop_inside_the_photo_is_that_part_of_it(size):
    # Pixel centres: the square [50.5, 250.5] x [30.5, 230.5] is pixels 51..250 x 31..230.
    aligned = align.ffhq_align(scene(), face(centre=(150.5, 130.5)), size)
    assert aligned.shape == (size, size, 3)
    assert aligned.dtype == np.uint8
    block = 200 // size
    want = scene()[31:231, 51:251].reshape(size, block, size, block, 3).mean(axis=(1, 3))
    assert np.abs(aligned - want).max() < 4


def test_a_tilted_face_becomes_upright():
    picture = np.zeros((300, 300, 3), np.uint8)
    landmarks = face(side=160, centre=(150, 150), degrees=30)
    for i, (x, y) in enumerate(landmarks):
        picture[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4] = 50 * (i + 1)
    aligned = align.ffhq_align(picture, landmarks, 256)[..., 0]
    for i, (x, y) in enumerate(UPRIGHT * 256):
        assert abs(int(aligned[round(y), round(x)]) - 50 * (i + 1)) <= 2


def test_what_lies_beyond_the_photo_is_filled_smoothly():
    landmarks = face(side=200, centre=(40.5, 130.5))  # 60 columns are missing on the left
    aligned = align.ffhq_align(scene(), landmarks, 200).astype(float)
    inside = scene()[31:231, :141]
    # Fades begin before the border; well inside, the photo is untouched.
    assert np.abs(aligned[40:160, 100:] - inside[40:160, 41:]).max() < 3
    assert np.abs(np.diff(aligned[:, :70], axis=1)).max() < 20
    # The outermost columns approach one colour.
    assert aligned[:, 0].std(axis=0).max() < 0.5 * aligned[:, 100].std(axis=0).max()


def test_a_photo_of_nothing_but_the_face_can_be_extended_on_all_sides():
    aligned = align.ffhq_align(scene(40, 40), face(side=120, centre=(20, 20)), 64)
    assert aligned.shape == (64, 64, 3)
    assert align.ffhq_align(scene(16, 16), face(side=16, centre=(8, 8)), 64).shape == (64, 64, 3)


def test_large_faces_are_reduced_without_aliasing():
    y, x = np.mgrid[:1600, :1600]
    checkers = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    aligned = align.ffhq_align(checkers, face(side=1400, centre=(800, 800)), 64)
    assert np.abs(aligned[8:-8, 8:-8].astype(int) - 127).max() <= 3


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (face()[[1, 0, 2, 4, 3]], "left eye, right eye"),
        (face()[[3, 4, 2, 0, 1]], "left eye, right eye"),
        (np.ones((5, 2)), "no face seen from the front"),
        (face(side=10), "crop of 10 pixels"),
        (face()[:4], r"shape \(4, 2\); give 5 or 68"),
        (np.full((5, 2), np.nan), "not a finite number"),
        ([["a", "b"]] * 5, "pairs of numbers"),
        ([[1, 2], [3]], "pairs of numbers"),
        (face(centre=(500, 130)), r"\(500, 150\) lies outside of the 300 x 260 image; .* EXIF"),
    ],
)
def test_impossible_landmarks(landmarks, message):
    with pytest.raises(FaceError, match=message):
        align.ffhq_align(scene(), landmarks)


def test_only_photos_are_aligned():
    with pytest.raises(ImageError, match="of uint8"):
        align.ffhq_align(scene() / 255.0, face())


def test_which_images_look_aligned():
    def looks(width=200, height=200, **moved):
        return align.looks_aligned(np.zeros((height, width, 3), np.uint8), face(**{"centre": (99.5, 99.5), **moved}))

    assert looks()
    assert looks(side=212, centre=(101, 97), degrees=-1.5)
    assert not looks(side=240)
    assert not looks(side=170)
    assert not looks(centre=(125, 99.5))
    assert not looks(degrees=12)
    assert not looks(width=201)
    assert not align.looks_aligned(np.zeros((200, 200, 3), np.uint8), np.ones((5, 2)))


def test_landmarks_from_a_file(tmp_path):
    path = tmp_path / "landmarks.json"
    five, other = face().tolist(), face(side=100).tolist()
    path.write_text(json.dumps({"a.jpg": five, "sub/ü.png": [five, other], "none.png": []}))
    found = align.load_landmarks(path)
    assert list(found) == ["a.jpg", "sub/ü.png", "none.png"]
    assert [len(faces) for faces in found.values()] == [1, 2, 0]
    np.testing.assert_allclose(found["sub/ü.png"][1], other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("[1]", "must be an object"),
        ('{"a.jpg": 3}', "'a.jpg': must be a list"),
        ('{"a.jpg": [[1, 2], [3, 4]]}', r"'a.jpg': landmarks of shape \(2, 2\)"),
        ('{"a.jpg": [[[1, 2], [3]]]}', "'a.jpg': landmarks must be"),
        ('{"a.jpg": [[1, 2], [3]]}', "'a.jpg': landmarks must be"),
        ('{"a.jpg": ["xy"]}', "'a.jpg': landmarks"),
        ('{"a.jpg": [null]}', "'a.jpg': landmarks"),
        ('{"a.jpg": [[[1], 2]]}', "'a.jpg': "),
        ('{"a.jpg": [[NaN, 1], [1, 1], [1, 1], [1, 1], [1, 1]]}', "'a.jpg': a landmark is not a finite"),
        ('{"a.jpg": [[1, 1], [1, 1], [1, 1], [1, 1], [1, 1]]}', "'a.jpg': the landmarks form no face"),
    ],
)
def test_malformed_landmark_files_are_refused_by_name(tmp_path, text, message):
    (tmp_path / "l.json").write_text(text)
    with pytest.raises(FaceError, match=message) as caught:
        align.load_landmarks(tmp_path / "l.json")
    assert "l.json" in str(caught.value)


def test_a_missing_landmark_file(tmp_path):
    with pytest.raises(FaceError, match="landmarks cannot be read"):
        align.load_landmarks(tmp_path / "l.json")


def test_landmarks_find_their_images():
    root = pathlib.Path("photos")
    paths = [root / "a.jpg", root / "b.jpg", root / "x" / "b.jpg", root / "x" / "c.jpg"]
    matched, unknown = align.match_landmarks({"a.jpg": [1], "x/b.jpg": [2], "c.jpg": [3], "typo.jpg": [4]}, paths, root)
    assert matched == {paths[0]: [1], paths[2]: [2], paths[3]: [3]}
    assert unknown == ["typo.jpg"]
    assert align.match_landmarks({"a.jpg": [1]}, paths[:1], paths[0]) == ({paths[0]: [1]}, [])
    with pytest.raises(FaceError, match=r"'d\.jpg': 2 images have this name; .* 'x/d\.jpg'"):
        align.match_landmarks({"d.jpg": [1]}, [root / "x" / "d.jpg", root / "y" / "d.jpg"], root)
