import numpy as np
import pytest
from PIL import Image

from lsap_jax import pretrained
from lsap_jax.data import detect
from lsap_jax.errors import ImageError

# facenet-pytorch 2.6.0 under PyTorch 2.13, min_face_size 20, on the sample photo.
BOX = [181.05141, 62.15613, 267.74731, 172.05016]
LANDMARKS = [
    [205.01091, 101.72745],
    [246.76257, 103.71408],
    [224.67136, 128.96500],
    [201.71611, 139.24617],
    [245.26549, 141.85701],
]


@pytest.fixture(scope="module")
def mtcnn():
    return pretrained.load("mtcnn")[0]


@pytest.fixture(scope="module")
def photo():
    return pretrained.load("sample-photo")[0]["image"]


@pytest.mark.fast
def test_area_means_over_overlapping_bins_and_black_beyond_the_border():
    image = np.random.default_rng(0).integers(0, 256, (11, 9, 3)).astype(np.uint8)
    table = detect._summed_area_table(image)
    boxes = np.array([[0, 0, 9, 11], [2, 3, 8, 4], [-4, 5, 6, 30], [20, 20, 30, 30]])
    got = detect._resample(table, boxes, 4, 5)
    assert got.shape == (4, 4, 5, 3)
    for box, result in zip(boxes, got, strict=True):
        left, top, right, bottom = box
        black = np.zeros((60, 60, 3))
        black[10:21, 10:19] = image
        patch = black[top + 10 : bottom + 10, left + 10 : right + 10]
        h, w = patch.shape[:2]
        for i in range(4):
            for j in range(5):
                rows, columns = slice(i * h // 4, -(-(i + 1) * h // 4)), slice(j * w // 5, -(-(j + 1) * w // 5))
                np.testing.assert_allclose(result[i, j], patch[rows, columns].mean(axis=(0, 1)), rtol=1e-6)


@pytest.mark.fast
def test_overlapping_boxes_are_suppressed_best_first():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [2, 2, 5, 5]], np.float32)
    scores = np.array([0.7, 0.9, 0.8, 0.6], np.float32)
    assert detect.nms(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert detect.nms(boxes, scores, 0.9).tolist() == [1, 2, 0, 3]
    assert detect.nms(boxes, scores, 0.7, of_smaller=True).tolist() == [1, 2]  # the fourth lies inside of the first two
    assert detect.nms(boxes[:0], scores[:0], 0.5).tolist() == []


@pytest.mark.fast
def test_canvases_are_few_and_large_enough():
    lengths = range(13, 700)
    sides = [detect._canvas_side(n) for n in lengths]
    assert all(side >= n for n, side in zip(lengths, sides, strict=True))
    assert len(set(sides)) <= 13
    assert detect._canvas_side(601) == 601  # the largest level of every photo beyond 1000 pixels fits exactly


@pytest.mark.fast
@pytest.mark.parametrize(
    "image", [np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3)), np.zeros((40, 40, 4), np.uint8)]
)
def test_only_photos_are_searched(image):
    with pytest.raises(ImageError, match="of uint8"):
        detect.detect({}, image)


@pytest.mark.weights("mtcnn", "sample-photo")
def test_the_sample_photo_as_the_reference_sees_it(mtcnn, photo):
    (face,) = detect.detect(mtcnn, photo)
    np.testing.assert_allclose(face.box, BOX, atol=2e-3)
    np.testing.assert_allclose(face.landmarks, LANDMARKS, atol=2e-3)
    assert face.score > 0.99999
    assert face.area == pytest.approx((BOX[2] - BOX[0]) * (BOX[3] - BOX[1]), rel=1e-4)


@pytest.mark.weights("mtcnn", "sample-photo")
def test_a_face_cut_by_the_border_keeps_its_landmarks(mtcnn, photo):
    for x, y in ((194, 0), (0, 84)):
        face = detect.detect(mtcnn, np.ascontiguousarray(photo[y:, x:]))[0]
        # In pixels, of a face 87 wide; cut off instead of filled up, the crop would lead to errors of 5 on average.
        np.testing.assert_allclose(face.landmarks + np.array([x, y]), LANDMARKS, atol=3)


@pytest.mark.weights("mtcnn", "sample-photo")
def test_large_photos_give_coordinates_of_the_photo_itself(mtcnn, photo):
    large = np.asarray(Image.fromarray(photo).resize((4608, 4608)))
    face = detect.detect(mtcnn, large)[0]
    np.testing.assert_allclose((face.landmarks + 0.5) / 9 - 0.5, LANDMARKS, atol=2)


@pytest.mark.weights("mtcnn", "sample-photo")
def test_two_faces_largest_first(mtcnn, photo):
    small = np.asarray(Image.fromarray(photo[:256, 96:352]).resize((160, 160)))
    both = np.full((300, 500, 3), 127, np.uint8)
    both[20:180, 10:170] = small
    both[20:276, 200:456] = photo[:256, 96:352]
    faces = detect.detect(mtcnn, both)
    assert len(faces) == 2
    assert faces[0].area > faces[1].area
    np.testing.assert_allclose(faces[0].landmarks, LANDMARKS + np.array([200 - 96, 20]), atol=2)
    assert faces[1].landmarks[:, 0].max() < 170
    assert detect.detect(mtcnn, both, min_size=301) == []  # no such window fits into 300 rows


@pytest.mark.weights("mtcnn")
def test_where_there_is_no_face(mtcnn):
    rng = np.random.default_rng(0)
    for image in (
        np.full((100, 150, 3), 200, np.uint8),
        rng.integers(0, 256, (90, 120, 3)).astype(np.uint8),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((16, 400, 3), np.uint8),
    ):
        assert detect.detect(mtcnn, image) == []


@pytest.mark.weights("mtcnn", "sample-photo")
def test_photos_of_many_sizes_share_their_compiled_programs(mtcnn, photo):
    rng = np.random.default_rng(0)

    def search():
        height, width = rng.integers(150, 700, 2)
        detect.detect(mtcnn, np.asarray(Image.fromarray(photo).resize((width, height))))

    for program in (detect._pnet, detect._rnet, detect._onet):
        program.clear_cache()  # of what other tests searched
    for _ in range(12):
        search()
    assert detect._pnet._cache_size() <= 13  # canvases
    assert detect._rnet._cache_size() == detect._onet._cache_size() == 1
