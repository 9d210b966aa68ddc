"""Does an edit stay where it should? The change of an image inside and outside of a region.

    R = mean |dx| outside / mean |dx| inside

0 is a perfectly local edit, 1 one that changes everything alike. R depends on how strong an edit is, so directions are
compared at equal inside change: `strength_for` finds the strength, `locality_at` does both. |dx| is the mean over the
three colours of images in [-1, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.errors import ConfigError, ImageError, RegionError

Render = Callable[[jax.Array], jax.Array]  # strengths (B,), one for each image -> images (B, H, W, 3)


class Change(NamedTuple):
    """How much images changed.

    Attributes:
      inside: (B,) mean |dx| over the region, weighted by its softness.
      outside: (B,) mean |dx| over its complement.
    """

    inside: np.ndarray
    outside: np.ndarray

    @property
    def locality(self) -> np.ndarray:
        """R, (B,); infinite if only the outside changed, NaN if nothing did."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.outside / self.inside


class Reached(NamedTuple):
    """Strengths that change the inside of a region by a given amount.

    Attributes:
      strength: (B,), NaN where it cannot be reached.
      inside: (B,) the change at that strength; where it cannot be reached, the largest that was seen.
      reached: (B,) bool.
    """

    strength: np.ndarray
    inside: np.ndarray
    reached: np.ndarray


def change(before: jax.Array, after: jax.Array, region: np.ndarray) -> Change:
    """Compare images with their edited versions.

    Args:
      before: (B, H, W, 3).
      after: the same shape.
      region: (H, W) soft mask in [0, 1].

    Raises:
      ImageError: if the images are not of one shape.
      RegionError: if the region is of another size, or nothing lies inside of it, or outside.
    """
    if np.ndim(before) != 4 or np.shape(before) != np.shape(after):
        raise ImageError(f"images of one shape (B, H, W, 3) are compared, not {np.shape(before)} and {np.shape(after)}")
    mask = np.asarray(region, np.float64)
    if mask.shape != np.shape(before)[1:3]:
        raise RegionError(f"the region is {mask.shape}, the images {np.shape(before)[1:3]}: resize the region")
    if not (mask.min() >= 0 and mask.max() <= 1):
        raise RegionError("the region's weights must lie in [0, 1]")
    inside, outside = mask.sum(), (1 - mask).sum()
    if not inside > 0 or not outside > 0:
        which = "empty" if not inside > 0 else "the whole picture"
        raise RegionError(f"the region is {which}: there must be something inside and something outside")
    moved = np.asarray(jnp.abs(jnp.asarray(after) - jnp.asarray(before)).mean(-1), np.float64)
    return Change((moved * mask).sum((1, 2)) / inside, (moved * (1 - mask)).sum((1, 2)) / outside)


def strength_for(
    render: Render,
    count: int,
    region: np.ndarray,
    target: float,
    limit: float = 6.0,
    *,
    steps: int = 6,
    halvings: int = 8,
) -> Reached:
    """The smallest strength, for each image, whose inside change is `target`.

    The change grows with the strength up to a point, beyond which images fall apart: strengths are tried in equal steps
    from 0 to `limit`, the first interval in which the target is passed is halved, and nothing is assumed beyond it.

    Args:
      render: strengths (B,) -> images (B, H, W, 3), `lambda s: G.synthesize(apply_direction(ws, d, s))`.
      count: B.
      region: (H, W) soft mask.
      target: mean |dx| inside that is wanted.
      limit: of the strength; a negative one goes the other way.
      steps: intervals tried first; with `halvings`, B x (1 + steps + halvings) renders in all.
      halvings: of the interval found: the strength is exact to |limit| / steps / 2^halvings.

    Raises:
      ConfigError: if the target is not above 0, or limit 0.
      ImageError: as `change`.
      RegionError: as `change`.
    """
    if not target > 0 or not np.isfinite(limit) or limit == 0 or steps < 1:
        raise ConfigError(
            f"target {target}, limit {limit}, {steps} steps: the target is above 0 and the limit is not 0"
        )
    original = render(jnp.zeros(count))

    def inside(strengths):
        return change(original, render(jnp.asarray(strengths, jnp.float32)), region).inside

    low, high, top = np.zeros(count), np.zeros(count), np.zeros(count)
    passed, at_low, at_high = np.zeros(count, bool), np.zeros(count), np.zeros(count)
    for step in range(1, steps + 1):
        at = limit * step / steps
        found = inside(np.full(count, at))
        top = np.maximum(top, found)
        new = ~passed & (found >= target)
        high, at_high = np.where(new, at, high), np.where(new, found, at_high)
        passed |= new
        low, at_low = np.where(passed, low, at), np.where(passed, at_low, found)
        if passed.all():
            break
    for _ in range(halvings if passed.any() else 0):
        middle = (low + high) / 2
        found = inside(np.where(passed, middle, 0))
        above = found >= target
        high, at_high = np.where(above, middle, high), np.where(above, found, at_high)
        low, at_low = np.where(above, low, middle), np.where(above, at_low, found)
    nearer = np.abs(at_high - target) <= np.abs(at_low - target)
    strength = np.where(nearer, high, low)
    return Reached(np.where(passed, strength, np.nan), np.where(passed, np.where(nearer, at_high, at_low), top), passed)


def locality_at(
    render: Render, count: int, region: np.ndarray, target: float, limit: float = 6.0, **options: int
) -> tuple[np.ndarray, Reached]:
    """R (B,) at the strength that changes the inside by `target`, NaN where that cannot be reached (`strength_for`)."""
    found = strength_for(render, count, region, target, limit, **options)
    strengths = np.where(found.reached, found.strength, 0)
    changed = change(render(jnp.zeros(count)), render(jnp.asarray(strengths, jnp.float32)), region)
    return np.where(found.reached, changed.locality, np.nan), found
