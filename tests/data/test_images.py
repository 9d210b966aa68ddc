import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from lsap_jax.data import images
from lsap_jax.errors import ImageError, ResultError

pytestmark = pytest.mark.fast

H, W = 20, 30


def gradient() -> np.ndarray:
    """A picture whose every corner, row and column differs."""
    y, x = np.mgrid[:H, :W]
    return np.stack([x * 8, y * 12, 255 - x * 4 - y * 3], axis=-1).astype(np.uint8)


def save(path, picture, **options):
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tif", ".ppm", ".tga"])
def test_lossless_formats_come_back_exactly(tmp_path, extension):
    got = images.read(save(tmp_path / f"a{extension}", gradient()))
    np.testing.assert_array_equal(got, gradient())
    assert got.dtype == np.uint8
    assert got.flags.writeable


@pytest.mark.parametrize("extension", [".jpg", ".webp"])
def test_lossy_formats_come_back_nearly(tmp_path, extension):
    got = images.read(save(tmp_path / f"a{extension}", gradient(), quality=95)).astype(int)
    assert got.shape == (H, W, 3)
    assert np.abs(got - gradient()).mean() < 6


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_exif_rotation_is_applied(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = images.read(save(tmp_path / "a.png", gradient(), exif=exif))
    np.testing.assert_array_equal(got, upright(gradient()))


def test_grey_and_one_bit_become_three_equal_channels(tmp_path):
    grey = gradient()[..., 0]
    got = images.read(save(tmp_path / "grey.png", grey))
    np.testing.assert_array_equal(got, np.repeat(grey[..., None], 3, axis=-1))
    bits = grey > 100
    got = images.read(save(tmp_path / "bits.png", Image.fromarray(bits)))
    np.testing.assert_array_equal(got, np.repeat(bits[..., None] * np.uint8(255), 3, axis=-1))


def test_transparent_pixels_are_laid_over_white(tmp_path):
    alpha = np.zeros((H, W), np.uint8)
    alpha[:, 10:20], alpha[:, 20:] = 128, 255
    rgba = np.dstack([gradient(), alpha])
    want = np.rint(gradient() * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255))
    for extension in (".png", ".webp"):
        got = images.read(
            save(tmp_path / f"a{extension}", rgba, **({"lossless": True} if extension == ".webp" else {}))
        )
        assert np.abs(got.astype(int) - want).max() <= 1
        np.testing.assert_array_equal(got[:, :10], 255)
    grey_alpha = Image.fromarray(gradient()).convert("L")
    grey_alpha.putalpha(Image.fromarray(alpha))
    got = images.read(save(tmp_path / "la.png", grey_alpha))
    np.testing.assert_array_equal(got[:, :10], 255)
    np.testing.assert_array_equal(got[:, 20:, 0], np.asarray(grey_alpha)[:, 20:, 0])


def test_palette_with_and_without_transparency(tmp_path):
    indices = np.tile(np.arange(W, dtype=np.uint8) % 3, (H, 1))
    picture = Image.fromarray(indices).convert("P")
    picture.putdata(indices.flatten().tolist())
    picture.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 255])
    colours = np.array([[10, 20, 30], [200, 100, 50], [0, 0, 255]], np.uint8)
    np.testing.assert_array_equal(images.read(save(tmp_path / "p.png", picture)), colours[indices])
    np.testing.assert_array_equal(images.read(save(tmp_path / "p.gif", picture)), colours[indices])
    colours[1] = 255
    np.testing.assert_array_equal(images.read(save(tmp_path / "t.png", picture, transparency=1)), colours[indices])
    alphas = bytes([255, 0, 255])  # one alpha for every colour: Pillow warns when this becomes RGB directly
    np.testing.assert_array_equal(images.read(save(tmp_path / "b.png", picture, transparency=alphas)), colours[indices])


def test_cmyk_without_a_profile(tmp_path):
    cmyk = Image.fromarray(gradient()).convert("CMYK")
    np.testing.assert_array_equal(images.read(save(tmp_path / "a.tif", cmyk)), gradient())


@pytest.mark.parametrize("extension", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, extension):
    values = np.linspace(0, 65535, H * W).reshape(H, W).astype(np.uint16)
    got = images.read(save(tmp_path / f"a{extension}", values))
    np.testing.assert_array_equal(got[..., 0], np.rint(values / 257))
    np.testing.assert_array_equal(got[..., 0], got[..., 2])


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour(tmp_path):
    values = np.linspace(0, 65535, H * W * 3).reshape(H, W, 3).astype(">u2")
    (tmp_path / "a.png").write_bytes(png(W, H, 16, 2, b"".join(b"\0" + row.tobytes() for row in values)))
    got = images.read(tmp_path / "a.png").astype(int)
    assert np.abs(got - np.rint(values.astype(float) / 257)).max() <= 1
    assert got.min() == 0
    assert got.max() == 255


def test_floating_point_grey(tmp_path):
    values = np.linspace(0, 1, H * W, dtype=np.float32).reshape(H, W)
    got = images.read(save(tmp_path / "a.tif", values))
    np.testing.assert_array_equal(got[..., 0], np.rint(values * 255.0))
    for bad in (values * 300, values - 0.1, np.where(values < 0.5, np.nan, values)):
        with pytest.raises(ImageError, match=r"b\.tif: grey values outside of 0\.\.1"):
            images.read(save(tmp_path / "b.tif", bad))


def test_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [Image.fromarray(np.full((H, W, 3), value, np.uint8)) for value in (50, 200)]
    for name, options in {"a.gif": {}, "a.webp": {"lossless": True}, "a.png": {}, "a.tif": {}}.items():
        got = images.read(save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options))
        np.testing.assert_array_equal(got, 50)


def linear_profile() -> bytes:
    """An ICC profile with sRGB's primaries and white, but gamma 1: sRGB's own, its three curves replaced."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(struct.unpack_from(">I", data, 128)[0]):
        name, offset, size = struct.unpack_from(">4sII", data, 132 + 12 * i)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            data[offset : offset + 12] = b"curv" + bytes(8)  # no points: the identity
        if name == b"desc":
            text = data[offset : offset + size]
            data[offset : offset + size] = text.replace("sRGB".encode("utf-16-be"), "line".encode("utf-16-be"))
    return bytes(data)


def test_an_icc_profile_is_converted_to_srgb(tmp_path):
    got = images.read(save(tmp_path / "a.png", gradient(), icc_profile=linear_profile()))
    linear = gradient() / 255
    want = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(got - want).max() < 2
    assert np.abs(got.astype(int) - gradient()).max() > 50


def test_srgb_and_broken_profiles_leave_the_pixels_alone(tmp_path, caplog):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(images.read(save(tmp_path / "a.png", gradient(), icc_profile=srgb)), gradient())
    assert not caplog.records
    np.testing.assert_array_equal(images.read(save(tmp_path / "b.png", gradient(), icc_profile=b"no")), gradient())
    assert "b.png: its ICC colour profile cannot be used" in caplog.text


def test_what_is_no_photo_is_refused_by_name_with_the_cure(tmp_path):
    def refused(name, message, data=None):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=message) as caught:
            images.read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)

    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(whole, "PNG")
    refused("absent.png", "no such file")
    refused("empty.png", "0 bytes", b"")
    refused("text.png", "not an image", b"hello, I am a text")
    refused("half.png", "damaged", whole.getvalue()[:5000])
    refused("photo.heic", "HEIC", b"\0\0\0\x18ftypheic" + bytes(40))
    refused("bomb.png", "more than 89,478,485 pixels", png(60000, 60000, 8, 2, b"\0"))
    refused("large.png", "more than 89,478,485 pixels", png(12000, 10000, 8, 2, b"\0"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # outside of these tests Pillow warns only, up to twice that size
        refused("large.png", "more than 89,478,485 pixels")
    refused("tiny.png", "an image of 3 x 40 pixels; at least 16 x 16", png(3, 40, 8, 0, bytes(4 * 40)))
    (tmp_path / "folder.png").mkdir()
    refused("folder.png", "a folder")


def test_damage_anywhere_ends_in_an_image_or_an_image_error(tmp_path):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    survived = 0
    for extension in (".png", ".jpg", ".gif", ".tif", ".webp", ".bmp", ".tga", ".ppm"):
        options = {"exif": exif} if extension in (".png", ".jpg", ".webp") else {}
        whole = save(tmp_path / f"a{extension}", gradient(), **options).read_bytes()
        for _ in range(25):
            data = bytearray(whole)
            for at in rng.integers(0, min(len(data), 300), 3):
                data[at] = rng.integers(256)
            path = tmp_path / f"b{extension}"
            path.write_bytes(data[: rng.integers(len(data) // 2, len(data) + 1)])
            with contextlib.suppress(ImageError):
                assert images.read(path).shape[-1] == 3
                survived += 1
    assert 0 < survived < 150


def test_pixels_survive_the_way_through_floats():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    as_float = images.to_float(every)
    assert as_float.dtype == np.float32
    assert as_float.min() == -1
    assert as_float.max() == 1
    np.testing.assert_array_equal(images.to_uint8(as_float), every)
    with pytest.raises(ImageError, match="float32"):
        images.to_float(as_float)


def test_floats_are_rounded_and_clipped():
    values = np.array([-9.0, -1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 0.999, 1.0, 9.0])
    np.testing.assert_array_equal(images.to_uint8(values), [0, 0, 0, 1, 255, 255, 255])


def test_png_round_trip_and_no_partial_files(tmp_path):
    path = tmp_path / "new" / "folder" / "a.png"
    images.write_png(path, gradient())
    np.testing.assert_array_equal(images.read(path), gradient())
    images.write_png(path, images.to_float(gradient()[::-1]))
    np.testing.assert_array_equal(images.read(path), gradient()[::-1])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(images.to_png(gradient())))), gradient())
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"\(1, 20, 30, 3\)"):
        images.write_png(tmp_path / "a.png", gradient()[None])
    with pytest.raises(ImageError, match="not finite"):
        images.write_png(tmp_path / "a.png", np.full((H, W, 3), np.nan))
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"file/a\.png: cannot be written .*another folder"):
        images.write_png(tmp_path / "file" / "a.png", gradient())
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_folder_lists_its_images_below(tmp_path):
    for name in ("b.JPG", "a.png", "sub/deep/c.webp", ".hidden.png", ".cache/d.png", "notes.txt", "phone.HEIC"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = images.list_images(tmp_path)
    assert found == [tmp_path / name for name in ("a.png", "b.JPG", "phone.HEIC", "sub/deep/c.webp")]
    assert images.list_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]  # named outright: `read` will judge


def test_folders_without_images(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match=r"no images in this folder; looked for .*\.jpg.*\.png") as caught:
        images.list_images(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(ImageError, match="absent: no such file or folder"):
        images.list_images(tmp_path / "absent")


def test_ids_are_flat_and_never_coincide(tmp_path):
    names = [
        "me.jpg",
        "me.png",
        "a/me.jpg",
        "b/me.jpg",
        "a+me.jpg",
        "a%2Bme.jpg",
        "a/b/me.jpg",
        "a/b+me.jpg",
        "a%2Fme.jpg",
    ]
    names += [".me.jpg", "%2Eme.jpg", "a b/ü.jpg", "long/" * 60 + "1.jpg", "long/" * 60 + "2.jpg", "ü/" * 90 + "1.jpg"]
    ids = [images.image_id(tmp_path / name, tmp_path) for name in names]
    assert len(set(ids)) == len(names)
    for name in ids:
        assert "/" not in name
        assert not name.startswith(".")
        assert len(name.encode()) <= 200
    assert ids[:4] == ["me.jpg", "me.png", "a+me.jpg", "b+me.jpg"]
    assert images.image_id(tmp_path / "me.jpg", tmp_path / "me.jpg") == "me.jpg"
    with pytest.raises(ImageError, match="not below"):
        images.image_id("/elsewhere/me.jpg", tmp_path)
