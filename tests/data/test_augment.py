"""Augmentation: what each strength does, who shares it, and JPEG against Pillow's own."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lsap_jax.data import augment as aug
from lsap_jax.data.augment import Augment
from lsap_jax.errors import ConfigError, ImageError

GEOMETRY = {"shift": 0.1, "scale": 0.2, "rotation": 10.0, "flip": 0.5}
COLOUR = {"brightness": 0.2, "contrast": 0.3, "saturation": 0.4, "white_balance": 0.1, "gamma": 0.3}
WEAR = {"blur": 2.0, "downscale": 1.0, "noise": 0.1, "jpeg": 80.0}
augment = jax.jit(aug.augment, static_argnums=2)
move, jpeg, blur, lose_resolution = (jax.jit(f) for f in (aug.move, aug.jpeg, aug._blur, aug._lose_resolution))
ALL = Augment(**GEOMETRY, **COLOUR, **WEAR)


def pictures(count=4, side=32, seed=0):
    """Smooth colour with some fine texture: (count, side, side, 3) in [-1, 1]."""
    random = np.random.RandomState(seed)
    coarse = random.uniform(-0.8, 0.8, (count, 4, 4, 3)).astype(np.float32)
    smooth = jax.image.resize(jnp.asarray(coarse), (count, side, side, 3), "cubic")
    return jnp.clip(smooth + 0.05 * random.randn(count, side, side, 3), -1, 1).astype(jnp.float32)


def psnr(a, b, peak):
    return 10 * np.log10(peak**2 / np.mean(np.square(np.asarray(a, float) - np.asarray(b, float))))


@pytest.mark.fast
def test_strength_0_changes_no_bit():
    images = pictures()
    for made in augment(jax.random.key(0), images, Augment()):
        np.testing.assert_array_equal(made, images)


@pytest.mark.parametrize("name", [*GEOMETRY, *COLOUR])
def test_targets_share_geometry_and_colour(name):
    images = pictures()
    inputs, targets = augment(jax.random.key(0), images, Augment(**{name: (GEOMETRY | COLOUR)[name]}))
    np.testing.assert_array_equal(inputs, targets)
    changed = np.abs(targets - images).max((1, 2, 3)) > 1e-4
    assert changed.any()
    assert changed.all() == (name != "flip")
    assert np.abs(targets).max() <= 1


@pytest.mark.parametrize("name", list(WEAR))
def test_only_inputs_are_degraded(name):
    images = pictures()
    inputs, targets = augment(jax.random.key(0), images, Augment(**{name: WEAR[name]}, degraded=1.0))
    np.testing.assert_array_equal(targets, images)
    assert (np.abs(inputs - images).max((1, 2, 3)) > 1e-3).all()
    assert np.abs(inputs).max() <= 1
    some, _ = augment(jax.random.key(0), pictures(64, 16), Augment(**{name: WEAR[name]}, degraded=0.5))
    untouched = (np.asarray(some) == pictures(64, 16)).all((1, 2, 3))
    np.testing.assert_allclose(untouched.mean(), 0.5, atol=0.2)


def test_images_are_drawn_independently_and_by_key():
    images = jnp.repeat(pictures(1), 4, axis=0)
    strengths = dataclasses.replace(ALL, degraded=1.0)
    inputs, _ = augment(jax.random.key(0), images, strengths)
    assert min(np.abs(inputs[i] - inputs[j]).max() for i in range(4) for j in range(i)) > 0.05
    again, _ = augment(jax.random.key(0), images, strengths)
    np.testing.assert_array_equal(inputs, again)
    other, _ = augment(jax.random.key(1), images, strengths)
    assert np.abs(inputs - other).max() > 0.05


def test_one_strength_leaves_the_draws_of_others():
    images = pictures()
    _, shifted = augment(jax.random.key(0), images, Augment(shift=0.1))
    _, both = augment(jax.random.key(0), images, Augment(shift=0.1, jpeg=50, noise=0.1))
    np.testing.assert_array_equal(shifted, both)


def test_jit_compiles_once():
    made = jax.jit(lambda *args: aug.augment(*args), static_argnums=2)
    for seed in range(3):
        inputs, targets = made(jax.random.key(seed), pictures(), ALL)
        assert np.isfinite(inputs).all()
        assert np.isfinite(targets).all()
    assert made._cache_size() == 1


@pytest.mark.fast
def test_move_by_whole_pixels_is_exact_and_repeats_edges():
    image = pictures(1)[0]
    moved = move(image, jnp.asarray([4 / 32, -2 / 32]), 1.0, 0.0)
    expected = np.pad(image, ((4, 0), (0, 2), (0, 0)), mode="edge")[:32, 2:]
    np.testing.assert_allclose(moved, expected, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_move_by_quarter_turns_is_exact(quarter_turns):
    image = pictures(1)[0]
    moved = move(image, jnp.zeros(2), 1.0, jnp.deg2rad(90.0 * quarter_turns))
    np.testing.assert_allclose(moved, np.rot90(image, -quarter_turns), atol=1e-4)  # rot90 turns the other way


@pytest.mark.fast
def test_move_magnifies_about_the_centre():
    wave = jnp.broadcast_to(jnp.cos((jnp.arange(33) - 16) * 0.3)[None, :, None], (33, 33, 3))
    moved = move(wave, jnp.zeros(2), 1.5, 0.0)
    expected = np.cos((np.arange(33) - 16) * 0.2)
    np.testing.assert_allclose(moved[5, :, 0], expected, atol=2e-3)


@pytest.mark.fast
def test_blur_is_a_gaussian():
    point = jnp.zeros((33, 33, 3)).at[16, 16].set(1.0)
    spread = np.asarray(blur(2.0, point))[..., 0]
    offset = np.arange(33) - 16
    np.testing.assert_allclose(spread.sum(), 1, atol=1e-5)
    np.testing.assert_allclose((spread.sum(0) * offset**2).sum(), 4, atol=0.05)
    flat = jnp.full((16, 16, 3), 0.3)
    np.testing.assert_allclose(blur(3.0, flat), flat, atol=1e-5)


@pytest.mark.fast
def test_lost_resolution_is_area_down_and_bilinear_up():
    image = pictures(1)[0]
    small = np.asarray(image).reshape(16, 2, 16, 2, 3).mean((1, 3))
    expected = jax.image.resize(small, (32, 32, 3), "linear")
    np.testing.assert_allclose(lose_resolution(jnp.log(2.0), image), expected, atol=1e-5)
    np.testing.assert_allclose(lose_resolution(0.0, image), image, atol=1e-6)


def test_colour_keeps_grey_grey():
    grey = jnp.broadcast_to(pictures(2)[..., :1], (2, 32, 32, 3))
    _, made = augment(jax.random.key(0), grey, Augment(brightness=0.1, contrast=0.2, saturation=0.5, gamma=0.2))
    np.testing.assert_allclose(made, np.repeat(made[..., :1], 3, -1), atol=2e-5)


@pytest.mark.fast
@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90, 95])
@pytest.mark.parametrize("size", [(64, 64), (61, 70)])
def test_jpeg_is_pillows(quality, size):
    """45 dB (of 8 bits) off Pillow's decoded file, which itself is 23 to 36 dB off the original."""
    rows, columns = np.mgrid[: size[0], : size[1]] / 64
    waves = [np.sin(7 * rows + 5 * columns), np.cos(11 * columns) * rows, np.sin(30 * rows * columns)]
    texture = np.random.RandomState(0).randn(*size, 1) * 6
    pixels = np.clip(128 + 90 * np.stack(waves, -1) + texture, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file))
    made = np.asarray(jpeg(jnp.asarray(pixels / np.float32(127.5) - 1, jnp.float32), quality)) * 127.5 + 127.5
    assert psnr(made, expected, 255) > 45
    assert psnr(pixels, expected, 255) < 37


@pytest.mark.fast
@pytest.mark.parametrize("bad", [{"shift": -0.1}, {"flip": 2.0}, {"jpeg": 100}, {"noise": float("nan")}])
def test_impossible_strengths(bad):
    with pytest.raises(ConfigError, match=f"augment.{next(iter(bad))}"):
        Augment(**bad)


@pytest.mark.fast
def test_integers_are_no_images():
    with pytest.raises(ImageError):
        augment(jax.random.key(0), np.zeros((1, 8, 8, 3), np.uint8), Augment())
