import dlib_predictors
import numpy as np
import pytest

from lsap_jax import pretrained
from lsap_jax.data import align, detect
from lsap_jax.errors import FaceError, ImageError
from lsap_jax.networks import dlib_landmarks

# dlib 20.0.1's detector and shape_predictor on the sample photo; it rounds to whole pixels.
BOX = (175, 76, 265, 166)
# fmt: off
DLIBS = np.array([
    179, 104, 180, 116, 181, 127, 182, 139, 185, 150, 191, 160, 200, 168, 209, 176, 220, 178, 232, 177, 243, 171,
    253, 163, 260, 154, 265, 143, 268, 131, 270, 120, 272, 108, 186, 94, 192, 88, 200, 87, 208, 89, 216, 92, 236, 93,
    244, 91, 252, 91, 260, 92, 265, 99, 226, 102, 225, 111, 225, 119, 225, 127, 214, 131, 219, 133, 224, 134, 229, 133,
    234, 132, 195, 101, 200, 98, 207, 98, 212, 104, 206, 104, 199, 104, 237, 106, 243, 100, 250, 100, 255, 105,
    250, 107, 244, 107, 201, 139, 209, 139, 218, 139, 224, 141, 230, 140, 238, 140, 246, 141, 238, 151, 229, 155,
    222, 156, 216, 155, 208, 150, 204, 141, 218, 143, 223, 144, 230, 143, 243, 142, 229, 150, 223, 151, 217, 150,
]).reshape(68, 2)
# fmt: on


def picture(height: int = 90, width: int = 120) -> np.ndarray:
    coarse = np.random.default_rng(1).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return coarse.repeat(10, axis=0).repeat(10, axis=1)


def one_by_one(params, image, box):
    """The algorithm of the paper, a pixel, a split and a landmark at a time, in double precision."""
    corner, size = np.array(box[:2], float), np.array(box[2:], float) - box[:2]
    mean = shape = params["mean"].astype(float)
    for c in range(len(params["anchors"])):
        # Least squares over the similarities x -> (a, -b; b, a) x + shift.
        ones, zeros = np.ones(len(mean)), np.zeros(len(mean))
        (mx, my), (sx, sy) = mean.T, shape.T
        rows = np.concatenate([np.stack([mx, -my, ones, zeros], 1), np.stack([my, mx, zeros, ones], 1)])
        a, b, *_ = np.linalg.lstsq(rows, np.concatenate([sx, sy]), rcond=None)[0]
        grey = []
        for anchor, (dx, dy) in zip(params["anchors"][c], params["deltas"][c], strict=True):
            x, y = np.floor((shape[anchor] + (a * dx - b * dy, b * dx + a * dy)) * size + corner + 0.5).astype(int)
            inside = 0 <= y < image.shape[0] and 0 <= x < image.shape[1]
            grey.append(int(image[y, x].astype(int).sum()) // 3 if inside else 0)
        for t in range(params["pixels"].shape[1]):
            node = 0
            while node < params["pixels"].shape[2]:
                i, j = params["pixels"][c, t, node]
                node = 2 * node + (1 if grey[i] - grey[j] > params["thresholds"][c, t, node] else 2)
            shape = shape + params["leaves"][c, t, node - params["pixels"].shape[2]]
    return shape * size + corner


@pytest.mark.fast
@pytest.mark.parametrize("box", [(20, 10, 100, 80), (-30, 40, 50, 130), (31.25, 20.5, 60.75, 44)])
def test_the_cascade(box):
    params = dlib_predictors.random_predictor()
    got = dlib_landmarks.landmarks(params, picture(), np.array(box))
    assert got.shape == (68, 2)
    np.testing.assert_allclose(got, one_by_one(params, picture(), box), atol=1e-3)
    still = params["mean"] * (box[2] - box[0], box[3] - box[1]) + box[:2]
    assert np.abs(got - still).max() > 0.5  # the trees did move them


@pytest.mark.fast
def test_the_box_is_where_the_mean_shape_fits():
    params = dlib_predictors.random_predictor()
    mean = params["mean"].copy()
    mean[36:48, 1] -= 0.5  # eyes over the mouth, so that it is a face
    params["mean"] = mean
    for points in (mean, align.five_points(mean)):
        np.testing.assert_allclose(dlib_landmarks.box_from_points(params, points), [0, 0, 1, 1], atol=1e-6)
        moved = dlib_landmarks.box_from_points(params, points * 70 + np.array([30, -4]))
        np.testing.assert_allclose(moved, [30, -4, 100, 66], atol=1e-4)
    with pytest.raises(FaceError, match="upright"):
        dlib_landmarks.box_from_points(params, -mean)


@pytest.mark.fast
def test_bad_input_is_refused():
    params = dlib_predictors.random_predictor()
    for box in ([0, 0, 10], [0, 0, 0, 10], [0, 0, np.nan, 10]):
        with pytest.raises(FaceError, match="left, top, right, bottom"):
            dlib_landmarks.landmarks(params, picture(), np.array(box))
    with pytest.raises(ImageError):
        dlib_landmarks.landmarks(params, picture().astype(np.float32), np.array(BOX))


@pytest.mark.weights("dlib-landmarks-68", "mtcnn", "sample-photo")
def test_landmarks_are_dlibs():
    params, _ = pretrained.load("dlib-landmarks-68")
    image = pretrained.load("sample-photo")[0]["image"]
    np.testing.assert_array_equal(np.floor(dlib_landmarks.landmarks(params, image, np.array(BOX)) + 0.5), DLIBS)
    # From our own detector's points the start is another square, and the landmarks nearly the same.
    face = detect.detect(pretrained.load("mtcnn")[0], image)[0]
    box = dlib_landmarks.box_from_points(params, face.landmarks)
    np.testing.assert_allclose(box, BOX, atol=0.1 * (BOX[2] - BOX[0]))
    errors = np.linalg.norm(dlib_landmarks.landmarks(params, image, box) - DLIBS, axis=1)
    assert errors.mean() < 1.0  # pixels, of 45 between the eyes
