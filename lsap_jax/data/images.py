"""Photos on disk <-> arrays: any common file becomes (H, W, 3) uint8 RGB, or an error that names it.

uint8 exists only here, at the file boundary: everything inside the package is float32 in [-1, 1].
"""

import hashlib
import io
import os
import pathlib

import numpy as np
from absl import logging
from PIL import Image, ImageCms, ImageOps

from lsap_jax.checkpoints.store import write_atomically
from lsap_jax.errors import ImageError, ResultError

SMALLEST_SIDE = 16  # pixels
MOST_PIXELS = 89_478_485  # where Pillow begins to suspect a decompression bomb

# Pillow alone cannot read HEIC: such photos are listed all the same, to be refused by name, not left out silently.
HEIC = (".heic", ".heif")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".avif", ".jp2", ".tga", ".pbm", ".pgm", ".pnm", ".ppm"),
    *HEIC,
)


def read(path: str | os.PathLike) -> np.ndarray:
    """Read one image file as an upright sRGB photo.

    The EXIF rotation is applied; colours are brought to sRGB by the embedded ICC profile if there is a usable one;
    whatever is transparent is laid over white; 16-bit values are scaled to 8 bits; of an animation the first frame
    counts.

    Returns:
      (H, W, 3) uint8, H and W at least 16.

    Raises:
      ImageError: if there is no such file, it is no image, truncated, of an unknown kind, too small or too large.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise ImageError(f"{path}: a folder, not an image file; name a file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error}); check the file's permissions") from None
    if not data:
        raise ImageError(f"{path}: an empty file (0 bytes); copy or download it again")
    try:
        return _decode(data, str(path))
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(str(path)) from None
    except Image.UnidentifiedImageError:
        if path.suffix.lower() in HEIC:
            raise ImageError(f"{path}: HEIC photos are not supported; export the photo as JPEG or PNG") from None
        raise ImageError(f"{path}: not an image, whatever its name says; give a JPEG, PNG, WebP or TIFF file") from None
    except (
        Exception
    ) as error:  # Pillow's decoders raise nearly anything on malformed files: OSError, SyntaxError, struct.error
        raise ImageError(
            f"{path}: a damaged or unsupported image ({error}); copy it again or save it as PNG"
        ) from error


def _too_large(where: str) -> ImageError:
    return ImageError(
        f"{where}: an image of more than {MOST_PIXELS:,} pixels, perhaps a decompression bomb; reduce its size first"
    )


def _decode(data: bytes, where: str) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise _too_large(where)
        if min(width, height) < SMALLEST_SIDE:
            raise ImageError(
                f"{where}: an image of {width} x {height} pixels; at least {SMALLEST_SIDE} x {SMALLEST_SIDE} are needed"
            )
        image.load()
        profile = image.info.get("icc_profile")
        image = ImageOps.exif_transpose(image)
    image = _eight_bits(image, where)
    alpha = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        image = rgba.convert("L" if image.mode in ("L", "LA") else "RGB")  # a grey profile needs grey
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    image = (_to_srgb(image, profile, where) if profile else image).convert("RGB")
    if alpha is not None:
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        image = white
    return np.array(image)


def _eight_bits(image: Image.Image, where: str) -> Image.Image:
    """Scale 16-bit and floating-point grey to 8 bits; Pillow's own conversion would clip them."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    # 16-bit files may come as 32-bit "I"; floating-point files have no agreed range but 0..1.
    white = 1.0 if image.mode == "F" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= white):
        raise ImageError(f"{where}: grey values outside of 0..{white:g}; save it with 8 or 16 bits per channel")
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes, where: str) -> Image.Image:
    """Convert by the embedded profile; a damaged one, or one for another colour model, is reported and left out."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        if image.mode == "L" and source.profile.xcolor_space.strip() == "RGB":
            image = image.convert("RGB")
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError) as error:
        logging.warning("%s: its ICC colour profile cannot be used (%s); colours are read as sRGB", where, error)
        return image
    return converted if converted is not None else image


def check_pixels(image: np.ndarray) -> None:
    """Refuse what is not one image as `read` gives it.

    Raises:
      ImageError: if `image` is not (H, W, 3) uint8.
    """
    if np.ndim(image) != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ImageError(f"expected a photo (H, W, 3) of uint8, as images.read gives it, not {np.shape(image)}")


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 0..255 -> float32 [-1, 1], of any shape.

    Raises:
      ImageError: if the array is not uint8.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise ImageError(f"expected uint8 pixels, not {image.dtype}")
    return image.astype(np.float32) / np.float32(127.5) - 1


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float [-1, 1] -> uint8, rounded to the nearest and clipped, of any shape; the inverse of `to_float`.

    Raises:
      ImageError: if a value is not finite: rendered so, a defect would look like a dark image.
    """
    image = np.asarray(image, np.float32)
    if not np.isfinite(image).all():
        raise ImageError("the image holds values that are not finite (NaN or infinity)")
    return np.rint(np.clip(image * 127.5 + 127.5, 0, 255)).astype(np.uint8)


def to_png(image: np.ndarray) -> bytes:
    """A PNG file of an image: (H, W, 3) uint8, or float in about [-1, 1].

    Raises:
      ImageError: if the array is of another shape or holds values that are not finite.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ImageError(f"an array of shape {image.shape} is no image; it must be (H, W, 3)")
    if image.dtype != np.uint8:
        image = to_uint8(image)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an image as PNG, atomically; missing folders are made.

    Args:
      path: where to write.
      image: (H, W, 3) uint8, or float in about [-1, 1].

    Raises:
      ImageError: if the array is of another shape or holds values that are not finite.
      ResultError: if the file cannot be written.
    """
    png = to_png(image)
    try:
        write_atomically(path, png)
    except OSError as error:
        raise ResultError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from None


def list_images(path: str | os.PathLike) -> list[pathlib.Path]:
    """The image files of a folder and the folders in it, sorted by path; or the one file named.

    Files are chosen by extension (`EXTENSIONS`, in any case); hidden files and folders are left out.

    Raises:
      ImageError: if there is nothing at `path`, or no image in it.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"{path}: no such file or folder")
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
    ]
    if not found:
        raise ImageError(f"{path}: no images in this folder; looked for {' '.join(EXTENSIONS)}")
    return found


def name_below(path: str | os.PathLike, root: str | os.PathLike) -> str:
    """An image's path below the folder that was listed, with "/"; its bare name if `root` is the file itself.

    Raises:
      ImageError: if `path` is not below `root`.
    """
    path = pathlib.Path(path)
    try:
        below = path.relative_to(root)
    except ValueError:
        raise ImageError(f"{path}: not below {root}") from None
    return below.as_posix() if below.parts else path.name


def image_id(path: str | os.PathLike, root: str | os.PathLike) -> str:
    """A name for an image's results: flat, stable, and different for every file below `root`.

    It is the path below `root` with "+" for "/", extension included, so that neither `a/me.jpg` and `b/me.jpg` nor
    `me.jpg` and `me.png` write over each other: "a+me.jpg", "b+me.jpg", "me.jpg", "me.png". A "+", a "%" or a leading
    "." becomes "%2B", "%25" or "%2E"; a very long path is cut and ends in a hash of the whole.

    Args:
      path: an image file, of `list_images(root)`.
      root: the folder that was listed, or the file itself.

    Raises:
      ImageError: if `path` is not below `root`.
    """
    name = name_below(path, root).replace("%", "%25").replace("+", "%2B").replace("/", "+")
    if name.startswith("."):
        name = "%2E" + name[1:]  # results in hidden folders would be overlooked
    encoded = os.fsencode(name)
    if len(encoded) <= 200:  # file systems allow 255 bytes, and results add their own extensions
        return name
    return encoded[:150].decode(errors="ignore") + "~" + hashlib.sha256(encoded).hexdigest()[:16]
