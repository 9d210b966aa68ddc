"""Locality on synthetic images, and strengths of equal inside change."""

import jax.numpy as jnp
import numpy as np
import pytest

from lsap_jax.errors import ConfigError, ImageError, RegionError
from lsap_jax.metrics import locality

pytestmark = pytest.mark.fast


def region():
    mask = np.zeros((4, 4), np.float32)
    mask[:2] = 1
    return mask


def test_by_hand():
    before = np.zeros((3, 4, 4, 3), np.float32)
    after = before.copy()
    after[0, :2] = 0.4
    after[1, :2], after[1, 2:] = -0.4, 0.1
    after[2, 3, 0] = [0.3, 0, 0]  # one of the eight pixels outside, one of three colours
    found = locality.change(before, after, region())
    np.testing.assert_allclose(found.inside, [0.4, 0.4, 0], atol=1e-7)
    np.testing.assert_allclose(found.outside, [0, 0.1, 0.1 / 8], atol=1e-7)
    np.testing.assert_allclose(found.locality, [0, 0.25, np.inf], atol=1e-6)
    assert np.isnan(locality.change(before, before, region()).locality).all()


def test_soft_regions_count_by_their_weights():
    mask = np.full((4, 4), 0.25)
    mask[0] = 1
    after = np.zeros((1, 4, 4, 3))
    after[0, 0], after[0, 1] = 0.7, 0.2
    found = locality.change(np.zeros((1, 4, 4, 3)), after, mask)
    np.testing.assert_allclose(found.inside, (4 * 0.7 + 0.25 * 4 * 0.2) / (4 + 3))
    np.testing.assert_allclose(found.outside, (0.75 * 4 * 0.2) / 9)


def test_strength_of_a_given_change():
    # Inside grows as s times a gain of each image, and falls again beyond 4; outside is half as much.
    gains = np.array([0.1, 0.2, 0.01])

    def render(strengths):
        s = jnp.asarray(strengths)
        inside = jnp.asarray(gains) * jnp.where(jnp.abs(s) < 4, jnp.abs(s), 8 - jnp.abs(s))
        return (
            (jnp.asarray(region())[None] * 0.5 + 0.5)[..., None] * jnp.ones((1, 1, 1, 3)) * inside[:, None, None, None]
        )

    found = locality.strength_for(render, 3, region(), 0.25, limit=6, halvings=16)
    np.testing.assert_allclose(found.strength[:2], [2.5, 1.25], atol=1e-4)
    np.testing.assert_allclose(found.inside, [0.25, 0.25, 0.04], atol=1e-4)
    np.testing.assert_array_equal(found.reached, [True, True, False])
    assert np.isnan(found.strength[2])
    back = locality.strength_for(render, 3, region(), 0.25, limit=-6, halvings=16)
    np.testing.assert_allclose(back.strength[:2], [-2.5, -1.25], atol=1e-4)
    ratio, again = locality.locality_at(render, 3, region(), 0.25, limit=6, halvings=16)
    np.testing.assert_allclose(ratio[:2], 0.5, atol=1e-5)
    assert np.isnan(ratio[2])
    np.testing.assert_array_equal(again.strength, found.strength)


def test_a_rise_that_falls_again_takes_the_first_crossing():
    def render(strengths):
        s = jnp.asarray(strengths)
        return jnp.ones((1, 4, 4, 3)) * jnp.sin(s)[:, None, None, None]

    found = locality.strength_for(render, 1, region(), 0.5, limit=3.0, steps=6, halvings=12)
    np.testing.assert_allclose(found.strength, np.pi / 6, atol=1e-3)


def test_bad_input_is_refused():
    image = np.zeros((1, 4, 4, 3))
    for mask, message in ((np.zeros((4, 4)), "empty"), (np.ones((4, 4)), "whole picture"), (np.ones((8, 8)), "resize")):
        with pytest.raises(RegionError, match=message):
            locality.change(image, image, mask)
    with pytest.raises(RegionError, match=r"\[0, 1\]"):
        locality.change(image, image, 2 * region())
    with pytest.raises(ImageError, match="one shape"):
        locality.change(image, image[:, :2], region())
    for target, limit in ((0, 1), (0.1, 0), (0.1, np.nan)):
        with pytest.raises(ConfigError, match="target"):
            locality.strength_for(lambda s: image, 1, region(), target, limit)
