"""Random masks of known pixels, for encoders that complete what is missing (Chai et al., latent-composition)."""

import jax
import jax.numpy as jnp

GRID = 6  # cells along each side of the noise


def sample(key: jax.Array, batch: int, resolution: int) -> jax.Array:
    """Blobs: uniform noise on a 6 x 6 grid, enlarged bilinearly, is known where it lies under a threshold.

    The threshold is uniform in 0.3..1, so on average most of an image is known, and at 1 all of it. It is drawn for
    every image; the reference draws one for the whole batch, which only adds noise to the gradient.

    Args:
      key: of the draw.
      batch: number of masks.
      resolution: their side in pixels.

    Returns:
      (batch, resolution, resolution, 1) of 0 and 1; 1 is known.
    """
    grid_key, threshold_key = jax.random.split(key)
    grid = jax.random.uniform(grid_key, (batch, GRID, GRID, 1))
    threshold = jax.random.uniform(threshold_key, (batch, 1, 1, 1), minval=0.3, maxval=1.0)
    noise = jax.image.resize(grid, (batch, resolution, resolution, 1), "linear")
    return (noise < threshold).astype(jnp.float32)
