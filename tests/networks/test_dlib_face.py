import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dlib_networks import random_params

from lsap_jax import pretrained
from lsap_jax.errors import ImageError
from lsap_jax.networks import dlib_face

descriptor = jax.jit(dlib_face.descriptor)


def spots(size: int, points: np.ndarray, sigma: float) -> np.ndarray:
    """(size, size, 3): on black, a bright spot at each of five points (x, y), told apart by colour."""
    y, x = np.mgrid[:size, :size]
    colours = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
    image = np.zeros((size, size, 3))
    for (px, py), colour in zip(points, colours, strict=True):
        image += np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2))[..., None] * colour
    return (2 * image - 1).astype(np.float32)


def places(image: np.ndarray) -> np.ndarray:
    """The five points (x, y) where spots of `spots` are, by the centre of what is of their colour alone."""
    light = (np.asarray(image, np.float64) + 1) / 2
    red, green, blue = np.moveaxis(light, -1, 0)
    both, cyan = np.minimum(red, green), np.minimum(green, blue)
    masks = (red - both, green - both - cyan, blue - cyan, both, cyan)
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    return np.array([[(x * m).sum() / m.sum(), (y * m).sum() / m.sum()] for m in masks])


def test_descriptor_of_a_narrow_network():
    chips = jax.random.uniform(jax.random.key(0), (2, 150, 150, 3), minval=-1)
    both = descriptor(random_params(), chips)
    assert both.shape == (2, 8)
    np.testing.assert_allclose(descriptor(random_params(), chips[::-1])[0], both[1], rtol=1e-4)


def test_blocks_grow_with_zeros():
    """Of 8 pixels the convolution leaves 3 and the pooled shortcut 4, so the edge is the shortcut alone."""
    params = random_params()["block3"]
    x = jnp.abs(jax.random.normal(jax.random.key(0), (1, 8, 8, 2)))
    y = dlib_face._block(params, x, stride=2)
    assert y.shape == (1, 4, 4, 3)
    pooled = x.reshape(1, 4, 2, 4, 2, 2).mean((2, 4))
    np.testing.assert_allclose(y[:, 3, :, :2], pooled[:, 3], rtol=1e-6)
    np.testing.assert_array_equal(y[:, 3, :, 2], 0)
    assert dlib_face._block(params, jnp.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)]), stride=2).shape == (1, 4, 4, 3)


@pytest.mark.fast
@pytest.mark.parametrize(("scale", "angle", "shift"), [(0.8, 0, (30, 12)), (1.0, 25, (80, 20)), (3.2, -40, (40, 300))])
def test_a_chip_has_the_landmarks_where_the_network_wants_them(scale, angle, shift):
    turn = scale * np.exp(1j * np.radians(angle))
    moved = turn * (dlib_face.TEMPLATE @ np.array([1, 1j])) + complex(*shift)
    landmarks = np.stack([moved.real, moved.imag], axis=1)
    chip = dlib_face.chip(spots(640, landmarks, sigma=3 * scale), landmarks)
    assert chip.shape == (150, 150, 3)
    np.testing.assert_allclose(places(chip), dlib_face.TEMPLATE, atol=0.1)


@pytest.mark.fast
def test_a_chip_is_black_outside_of_the_photo_and_averages_inside():
    landmarks = dlib_face.TEMPLATE * 3 - 150  # the chip's left and upper third lie outside
    checkers = np.indices((300, 300)).sum(0) % 2 * 2.0 - 1
    chip = np.asarray(dlib_face.chip(np.repeat(checkers[..., None], 3, axis=-1), landmarks))
    np.testing.assert_array_equal(chip[:49, :], -1)
    np.testing.assert_array_equal(chip[:, :49], -1)
    assert np.abs(chip[52:, 52:]).max() < 0.2  # plain sampling would give -1 and 1


@pytest.mark.fast
@pytest.mark.parametrize("landmarks", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.zeros((68, 2))])
def test_unusable_landmarks_are_refused(landmarks):
    with pytest.raises(ImageError, match="five points"):
        dlib_face.chip(np.zeros((64, 64, 3), np.float32), landmarks)


@pytest.mark.parametrize("size", [128, 200, 512])
def test_the_crop_of_aligned_images(size):
    # Where FFHQ's alignment puts the mean face: eyes a quarter of the side apart, a little above the middle.
    unit = (dlib_face.MEAN_FACE + dlib_face.PADDING) / 1.5 * dlib_face.ALIGNED_SIDE + dlib_face.ALIGNED_CORNER
    np.testing.assert_allclose(unit[:2], [[0.375, 0.4733], [0.625, 0.4733]], atol=1e-3)
    points = unit * size - 0.5
    image = spots(size, points, sigma=size / 60)
    chip = dlib_face.aligned_chips(image[None])[0]
    np.testing.assert_allclose(places(chip), dlib_face.TEMPLATE, atol=0.1)
    np.testing.assert_allclose(chip, dlib_face.chip(image, points), atol=0.1)


@pytest.mark.fast
def test_aligned_chips_keep_grey_and_need_squares():
    grey = dlib_face.aligned_chips(jnp.full((1, 256, 256, 3), 0.3))
    np.testing.assert_allclose(grey, 0.3, atol=1e-6)
    for shape in ((1, 256, 192, 3), (1, 64, 64, 3)):
        with pytest.raises(ImageError, match="128"):
            dlib_face.aligned_chips(jnp.zeros(shape))


@pytest.mark.weights("dlib-face")
def test_descriptor_is_dlibs():
    """By dlib 20.0.1's `compute_face_descriptor` on the same pixels."""
    params, _ = pretrained.load("dlib-face")
    case = golden.expected("dlib_face")
    got = descriptor(params, case["chip"][None] / np.float32(127.5) - 1)
    np.testing.assert_allclose(got[0], case["descriptor"], atol=2e-6)


@pytest.mark.weights("dlib-face", "sample-photo")
def test_a_person_is_near_herself():
    params, _ = pretrained.load("dlib-face")
    photo, _ = pretrained.load("sample-photo")
    eyes_nose_mouth = np.array([[203, 102], [246, 104], [225, 127], [201, 139], [246, 141]])
    face = dlib_face.chip(photo["image"] / np.float32(127.5) - 1, eyes_nose_mouth)
    shifted = dlib_face.chip(photo["image"] / np.float32(127.5) - 1, eyes_nose_mouth + 3)
    no_face = golden.expected("dlib_face")["chip"] / np.float32(127.5) - 1
    views = jnp.stack([face, face[:, ::-1], 0.7 * face - 0.3, shifted, no_face])
    described = descriptor(params, views)
    distances = jnp.linalg.norm(described[1:] - described[:1], axis=1)
    assert (distances[:3] < 0.3).all()  # mirrored, darkened, cut 3 pixels off
    assert distances[3] > 0.6  # dlib's threshold for another person
