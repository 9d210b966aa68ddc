"""How good an inversion is: one set of numbers for every method.

| metric         | shape  | what                                                                                      |
| -------------- | ------ | ----------------------------------------------------------------------------------------- |
| `lpips_vgg`    | (B,)   | LPIPS v0.1 with VGG16 at 256 pixels; smaller is better                                    |
| `lpips_alex`   | (B,)   | LPIPS v0.1 with AlexNet at 256 pixels                                                     |
| `mse`          | (B,)   | mean squared error at 256 pixels, images in [-1, 1]                                       |
| `psnr`         | (B,)   | dB at 256 pixels with peak 2                                                              |
| `ssim`         | (B,)   | at 256 pixels                                                                             |
| `id`           | (B,)   | cosine of dlib's face descriptors                                                         |
| `sncd`         | (B, L) | cosine distance of each layer's style to the generator's own                              |
| `sncd_z`       | (B, L) | the same in standard deviations among generator samples                                   |

Reconstructions are judged as they are saved: clipped to [-1, 1] and rounded to 8 bits.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.data import resize
from lsap_jax.generators.base import Generator
from lsap_jax.latent import alignment
from lsap_jax.metrics import image as image_metrics
from lsap_jax.networks import identity, lpips

RESOLUTION = 256
PIXELS = ("mse", "psnr")  # those that cost little beside a rendering
KINDS = ("full", "pixels", "none")
METRICS = ("lpips_vgg", "lpips_alex", "mse", "psnr", "ssim", "id", "sncd", "sncd_z")


@functools.cache
def _distances() -> dict[str, Callable[[jax.Array, jax.Array], jax.Array]]:
    return {
        "lpips_vgg": lpips.load("vgg"),
        "lpips_alex": lpips.load("alex"),
        "mse": image_metrics.mse,
        "psnr": image_metrics.psnr,
        "ssim": image_metrics.ssim,
        "id": identity.identity(),
    }


def measure(
    G: Generator, ws: jax.Array, images: jax.Array, targets: jax.Array, kind: str = "full"
) -> dict[str, np.ndarray]:
    """Metrics of a batch of reconstructions.

    Args:
      G: the generator.
      ws: (B, num_ws, w_dim) the codes.
      images: (B, H, W, 3) what they render.
      targets: (B, H, W, 3) the photos.
      kind: "full" for all, "pixels" for those of `PIXELS`, "none".
    """
    if kind != "full":
        return {name: np.asarray(value) for name, value in pixels(images, targets).items()} if kind == "pixels" else {}
    seen, wanted = resize.area(as_saved(images), RESOLUTION), resize.area(targets, RESOLUTION)
    metrics = {name: distance(seen, wanted) for name, distance in _distances().items()}
    A = alignment.fit(G)
    metrics |= {"sncd": alignment.sncd(G, A, ws), "sncd_z": alignment.calibrated(G, A, ws)}
    return {name: np.asarray(value) for name, value in metrics.items()}


@jax.jit
def pixels(images: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """The metrics of `PIXELS`: (B, H, W, 3) twice -> (B,) each."""
    seen, wanted = resize.area(as_saved(images), RESOLUTION), resize.area(targets, RESOLUTION)
    return {"mse": image_metrics.mse(seen, wanted), "psnr": image_metrics.psnr(seen, wanted)}


def as_saved(images: jax.Array) -> jax.Array:
    """What an 8-bit file keeps of images in [-1, 1]."""
    return jnp.round((jnp.clip(images, -1, 1) + 1) * 127.5) / 127.5 - 1
