"""Animated pictures: GIF for everywhere, WebP for true colours."""

import io
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from lsap_jax.checkpoints import store
from lsap_jax.errors import ImageError


def there_and_back(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """First to last and back, each end once, so that a loop has no jump and no pause."""
    return [*frames, *frames[-2:0:-1]]


def write(path: str | os.PathLike, frames: Sequence[np.ndarray], side: int = 512, milliseconds: int = 80) -> None:
    """Write an endless loop.

    Args:
      path: ends in .gif or .webp.
      frames: (H, W, 3) uint8 each.
      side: larger frames are shrunk to this width in pixels.
      milliseconds: that a frame stays.

    Raises:
      ImageError: if there is no frame, or the extension is another.
      OSError: if the file cannot be written.
    """
    extension = os.path.splitext(path)[1].lower()
    if not frames or extension not in (".gif", ".webp"):
        raise ImageError(
            f"{os.fspath(path)}: an animation of {len(frames)} frames; it takes one or more, as .gif or .webp"
        )
    pictures = [Image.fromarray(frame) for frame in frames]
    if pictures[0].width > side:
        size = (side, round(side * pictures[0].height / pictures[0].width))
        pictures = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    options = {"quality": 85, "method": 4} if extension == ".webp" else {}
    data = io.BytesIO()
    pictures[0].save(
        data, extension[1:], save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, **options
    )
    store.write_atomically(path, data.getvalue())
