import numpy as np
import pytest
from PIL import Image

from lsap_jax import pretrained
from lsap_jax.data import detect, faces
from lsap_jax.errors import ConfigError, FaceError, ImageError

UPRIGHT = np.array([[0.375, 0.475], [0.625, 0.475], [0.5, 0.6], [0.4, 0.725], [0.6, 0.725]])
PHOTO = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)


def landmarks(side: float, x: float, y: float) -> np.ndarray:
    return (UPRIGHT - 0.5) * side + [x, y]


@pytest.fixture
def detected(monkeypatch):
    """A list to put landmarks in, which the detector will then find."""
    found = []

    def fake(params, image):
        return [detect.Face(np.zeros(4), 1.0, face) for face in found]

    monkeypatch.setattr(faces, "detect", fake)
    return found


@pytest.mark.fast
def test_of_several_faces_the_largest_or_all(detected):
    detected += [landmarks(120, 100, 150), landmarks(80, 300, 150)]
    (face,) = faces.faces_of(PHOTO, {}, size=64)
    assert face.image.shape == (64, 64, 3)
    assert face.notes == ("2 faces: the largest was taken",)
    np.testing.assert_array_equal(face.landmarks, detected[0])
    both = faces.faces_of(PHOTO, {}, which="all", size=64)
    assert [face.notes for face in both] == [(), ()]
    assert np.abs(both[0].image.astype(int) - both[1].image).max() > 50


@pytest.mark.fast
def test_given_landmarks_need_no_detector_and_are_sorted_too():
    given = [landmarks(80, 300, 150), landmarks(120, 100, 150)]
    (face,) = faces.faces_of(PHOTO, landmarks=given, size=64)
    np.testing.assert_array_equal(face.landmarks, given[1])


@pytest.mark.fast
def test_enlargement_is_noted():
    (face,) = faces.faces_of(PHOTO, landmarks=[landmarks(60, 100, 150)], size=256)
    assert face.notes == ("enlarged: the crop is 60 pixels wide in the photo, 256 here",)


@pytest.mark.fast
def test_detections_that_cannot_be_cropped_are_left_out_with_a_note(detected):
    turned_away = landmarks(120, 100, 150)[[1, 0, 2, 4, 3]]
    detected += [turned_away, landmarks(100, 300, 150), landmarks(90, 450, 150)]
    (face,) = faces.faces_of(PHOTO, {}, which="all", size=64)
    np.testing.assert_array_equal(face.landmarks, detected[1])
    assert face.notes == ("2 faces left out: turned away, or mostly outside of the photo",)


@pytest.mark.fast
def test_an_aligned_image_is_left_as_it_is():
    image = PHOTO[:, :300]
    given = [landmarks(306, 150, 148)]
    (face,) = faces.faces_of(image, landmarks=given, size=300)
    np.testing.assert_array_equal(face.image, image)
    assert face.notes == ("already aligned: left as it is",)
    (face,) = faces.faces_of(image, landmarks=given, size=150)
    assert np.abs(face.image.mean() - image.mean()) < 1
    assert face.image.shape == (150, 150, 3)
    (face,) = faces.faces_of(image, landmarks=given, size=300, keep_aligned=False)
    assert np.any(face.image != image)


@pytest.mark.fast
def test_bad_requests(detected):
    with pytest.raises(FaceError, match=r"no face was found; .*JSON.*taken as aligned"):
        faces.faces_of(PHOTO, {})
    with pytest.raises(FaceError, match="no face was found"):
        faces.faces_of(PHOTO, landmarks=[])
    with pytest.raises(FaceError, match="outside of the 400 x 300 image"):
        faces.faces_of(PHOTO, landmarks=[landmarks(60, 900, 150)])
    with pytest.raises(ImageError, match="of uint8"):
        faces.faces_of(PHOTO / 255.0, {})
    with pytest.raises(ConfigError, match="'largest' or 'all'"):
        faces.faces_of(PHOTO, {}, which="first")
    with pytest.raises(ConfigError, match="landmarks"):
        faces.faces_of(PHOTO)


@pytest.mark.weights("mtcnn", "sample-photo")
def test_an_aligned_photo_is_not_aligned_again():
    mtcnn = pretrained.load("mtcnn")[0]
    photo = pretrained.load("sample-photo")[0]["image"]
    (face,) = faces.faces_of(photo, mtcnn, size=512)
    assert face.notes == ("enlarged: the crop is 167 pixels wide in the photo, 512 here",)
    (again,) = faces.faces_of(face.image, mtcnn, size=512)
    assert again.notes == ("already aligned: left as it is",)
    np.testing.assert_array_equal(again.image, face.image)


@pytest.mark.weights("mtcnn", "sample-photo")
@pytest.mark.parametrize("degrees", [0, 25])
def test_eyes_and_mouth_come_where_ffhq_has_them(degrees):
    mtcnn = pretrained.load("mtcnn")[0]
    photo = Image.fromarray(pretrained.load("sample-photo")[0]["image"])
    photo = np.asarray(photo.rotate(degrees, Image.Resampling.BICUBIC))
    (face,) = faces.faces_of(photo, mtcnn, size=512)
    (seen,) = detect.detect(mtcnn, face.image)
    left_eye, right_eye, _, left_mouth, right_mouth = seen.landmarks / 512
    np.testing.assert_allclose((left_eye + right_eye) / 2, [0.5, 0.475], atol=0.03)
    np.testing.assert_allclose((left_mouth + right_mouth) / 2, [0.5, 0.71], atol=0.03)
    assert abs(left_eye[1] - right_eye[1]) < 0.02
