import numpy as np
import pytest

from lsap_jax import pretrained
from lsap_jax.data import align, detect, face_parts, images
from lsap_jax.errors import FaceError, ImageError
from lsap_jax.metrics import attributes

FRONT = np.array([[-0.5, 0], [0.5, 0], [0, 0.57 * 1.04], [-0.4, 1.04], [0.4, 1.04]])  # FFHQ's mean, eyes 1 apart


def seen(yaw=0.0, pitch=0.0, roll=0.0, scale=60.0):
    """Five points of a face of these proportions, its nose 0.4 in front, from a distant camera; degrees."""
    points = np.concatenate([FRONT, [[0], [0], [0.4], [0], [0]]], axis=1)  # right, down, towards the camera
    a, b = np.radians([yaw, pitch])
    up = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    right = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    x, y, _ = (points @ up.T @ right.T).T
    z = (x + 1j * y) * scale * np.exp(1j * np.radians(roll)) + 128 + 100j
    return np.stack([z.real, z.imag], axis=1)


@pytest.mark.fast
def test_the_pose_of_known_faces():
    for wanted in ({"yaw": 25.0}, {"yaw": -40.0}, {"pitch": 15.0}, {"pitch": -20.0}, {"roll": 12.0}, {"roll": -30.0}):
        got = attributes.pose(seen(**wanted))
        for name in ("yaw", "pitch", "roll"):
            assert got[name] == pytest.approx(wanted.get(name, 0.0), abs=1e-6)
    front, turned = attributes.pose(seen()), attributes.pose(seen(roll=40, scale=17))
    assert front["mouth_width"] == pytest.approx(0.8)
    assert turned["mouth_width"] == pytest.approx(0.8)
    assert attributes.pose(seen(yaw=20, pitch=10))["yaw"] == pytest.approx(20, abs=2)
    with pytest.raises(FaceError):
        attributes.pose(seen()[[1, 0, 2, 4, 3]])


@pytest.mark.fast
def test_the_signs_of_the_pose():
    nose_right, nose_up, right_eye_low = seen(), seen(), seen()
    nose_right[2, 0] += 5
    nose_up[2, 1] -= 5
    right_eye_low[1, 1] += 5
    assert attributes.pose(nose_right)["yaw"] > 5
    assert attributes.pose(nose_up)["pitch"] > 5
    assert attributes.pose(right_eye_low)["roll"] > 3


def drawn(opening=0.0, lids=0.1, lift=0.0, brows=0.3):
    """68 landmarks of a drawn face, eyes 1 apart and 0.4 wide, mouth 0.8 wide."""
    p = np.zeros((68, 2))
    p[17:27, 1] = -brows
    for first, x in ((36, -0.5), (42, 0.5)):
        p[first : first + 6] = np.array([[-2, 0], [-1, -1], [1, -1], [2, 0], [1, 1], [-1, 1]]) * (0.1, lids / 2) + (
            x,
            0,
        )
    p[48], p[54] = (-0.4, 1 - lift), (0.4, 1 - lift)
    for x, upper, lower in ((-0.1, 61, 67), (0, 62, 66), (0.1, 63, 65)):
        p[upper], p[lower] = (x, 1 - opening / 2), (x, 1 + opening / 2)
    return p


@pytest.mark.fast
def test_lids_and_lips_of_known_faces():
    got = attributes.lids_and_lips(drawn(opening=0.2, lids=0.12, lift=0.05, brows=0.25))
    want = {"mouth_open": 0.25, "eyes_open": 0.3, "smile": 0.05 + 0.4, "brow_raise": 0.25}
    assert got == pytest.approx(want)
    turn = np.exp(0.5j) * 80
    z = drawn(opening=0.2, lids=0.12, lift=0.05, brows=0.25) @ np.array([1, 1j]) * turn
    assert attributes.lids_and_lips(np.stack([z.real, z.imag], axis=1)) == pytest.approx(want)


@pytest.fixture(scope="module")
def face():
    """The sample photo in FFHQ's alignment, (256, 256, 3) in [-1, 1]."""
    photo = pretrained.load("sample-photo")[0]["image"]
    points = detect.detect(pretrained.load("mtcnn")[0], photo)[0].landmarks
    return images.to_float(align.ffhq_align(photo, points, 256))


def named(measured, rows):
    return [dict(zip(measured.names, row.tolist(), strict=True)) for row in rows]


@pytest.mark.weights("mtcnn", "sample-photo")
def test_a_photo_mirrored_turned_brightened_and_a_wall(face):
    measured = attributes.load()
    assert measured.names == (*attributes.POSE, *attributes.COLOURS)
    turned = images.to_float(_turned(images.to_uint8(face), 10))
    aside = _nose_pushed_right(face, 12)
    batch = [face, face[:, ::-1], 0.8 * face + 0.2, turned, turned[:, ::-1], aside, aside[:, ::-1], np.zeros_like(face)]
    batch = np.stack(batch)
    rows = measured(batch)
    assert rows.shape == (8, len(measured.names))
    assert rows.dtype == np.float32
    plain, mirrored, bright, tilted, other_tilt, right, left, wall = named(measured, rows)
    assert mirrored["yaw"] == pytest.approx(-plain["yaw"], abs=5)
    assert mirrored["mouth_width"] == pytest.approx(plain["mouth_width"], rel=0.06)
    assert tilted["roll"] - plain["roll"] == pytest.approx(10, abs=2)
    assert other_tilt["roll"] == pytest.approx(-tilted["roll"], abs=2)
    assert right["yaw"] > plain["yaw"] + 5
    assert left["yaw"] < mirrored["yaw"] - 5
    for name in ("brightness", "hair_brightness", "skin_brightness"):
        assert mirrored[name] == pytest.approx(plain[name], abs=0.04)
        assert bright[name] == pytest.approx(0.8 * plain[name] + 0.2, abs=0.02)
    assert 1 / 3 < bright["skin_redness"] < plain["skin_redness"]
    assert plain["mouth_redness"] > plain["skin_redness"]
    assert wall.pop("brightness") == pytest.approx(0.5, abs=3e-3)
    assert np.isnan(list(wall.values())).all()
    np.testing.assert_allclose(measured(batch[1:2]), rows[1:2], atol=1e-4)  # whatever else is in the batch


@pytest.mark.weights("mtcnn", "dlib-landmarks-68", "sample-photo")
def test_lids_and_lips_of_a_photo(face):
    measured = attributes.load(landmarks68=True)
    assert measured.names == (*attributes.POSE, *attributes.LIDS_AND_LIPS, *attributes.COLOURS)
    plain, mirrored, wall = named(measured, measured(np.stack([face, face[:, ::-1], np.zeros_like(face)])))
    assert mirrored["yaw"] == pytest.approx(-plain["yaw"], abs=3)
    assert mirrored["roll"] == pytest.approx(-plain["roll"], abs=2)
    for name, tolerance in (("mouth_open", 0.05), ("eyes_open", 0.05), ("smile", 0.05), ("brow_raise", 0.05)):
        assert mirrored[name] == pytest.approx(plain[name], abs=tolerance)
    assert 0.05 < plain["mouth_open"] < 0.4  # she smiles with her teeth showing, eyes open
    assert 0.15 < plain["eyes_open"] < 0.5
    assert plain["smile"] > 0.5
    assert sum(np.isnan(value) for value in wall.values()) == len(wall) - 1


@pytest.mark.weights("mtcnn", "sample-photo")
def test_a_bystander_is_not_measured(face):
    mtcnn, _ = pretrained.load("mtcnn")
    pixels = images.to_uint8(face)
    points = attributes.face_points(mtcnn, pixels)
    assert points is not None
    np.testing.assert_allclose(points, face_parts.MEAN_LANDMARKS * 256 - 0.5, atol=20)
    aside = np.full_like(pixels, 128)
    aside[128:, 128:] = pixels[::2, ::2]
    assert detect.detect(mtcnn, aside, min_size=40)
    assert attributes.face_points(mtcnn, aside) is None


@pytest.mark.fast
def test_bad_images_are_refused():
    measured = attributes.attributes({})
    for bad in (np.zeros((1, 64, 32, 3), np.float32), np.zeros((1, 64, 64, 3), np.uint8), np.zeros((64, 64, 3))):
        with pytest.raises(ImageError):
            measured(bad)


def _turned(pixels, degrees):
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).rotate(-degrees, Image.Resampling.BICUBIC))  # Pillow turns the other way


def _nose_pushed_right(image, pixels):
    """The middle of an aligned face, moved to the right."""
    y, x = np.indices(image.shape[:2])
    centre = face_parts.MEAN_LANDMARKS[2] * 256
    push = pixels * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 22**2))
    return image[y, np.rint(x - push).astype(int)]
