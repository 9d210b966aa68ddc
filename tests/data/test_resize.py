import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsap_jax.data import resize
from lsap_jax.errors import ImageError

pytestmark = pytest.mark.fast


def waves() -> np.ndarray:
    """A (5, 7, 1) picture; the numbers below are what PyTorch 2.13 makes of it."""
    y, x = np.mgrid[0:5, 0:7]
    return (np.sin(1.3 * y) + np.cos(0.9 * x) * 0.5 + 0.1 * x * y / 7).astype(np.float32)[..., None]


def random_images(*shape) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape)


def test_whole_factors_are_block_means():
    x = random_images(2, 12, 8, 3)
    want = x.reshape(2, 4, 3, 4, 2, 3).mean((2, 4))
    np.testing.assert_allclose(resize.area(x, 4), want, atol=1e-6)


def test_same_size_is_untouched():
    x = random_images(1, 6, 5, 3)
    assert resize.area(x, (6, 5)) is x


@pytest.mark.parametrize(("n", "m"), [(7, 3), (10, 4), (256, 150)])
def test_area_counts_a_border_pixel_by_its_covered_part(n, m):
    x = np.asarray(random_images(n, 1, 1))
    # Repeating every pixel m times turns n -> m into a whole factor.
    want = np.repeat(x, m, axis=0).reshape(m, n, 1, 1).mean(1)
    np.testing.assert_allclose(resize.area(jnp.asarray(x), (m, 1)), want, atol=1e-6)


def test_area_keeps_the_mean_and_grows_bilinearly():
    x = random_images(1, 30, 20, 3)
    np.testing.assert_allclose(resize.area(x, (13, 7)).mean((1, 2)), x.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(resize.area(x, (41, 67)), resize.bilinear(x, (41, 67), antialias=False), atol=1e-5)
    np.testing.assert_allclose(resize.area(x, (15, 40)), resize.bilinear(resize.area(x, (15, 20)), (15, 40)), atol=1e-5)


def test_bins_of_adaptive_pooling_overlap_as_in_pytorch():
    want = [
        [0.890753, 0.4111208, 0.1750795, 0.6270391],
        [0.6834527, 0.2359632, 0.0427791, 0.5268815],
        [-0.3552079, -0.7705545, -0.9208815, -0.4046361],
    ]
    np.testing.assert_allclose(resize.adaptive_average_pool(waves(), (3, 4))[..., 0], want, atol=1e-6)


def test_bilinear_as_in_pytorch():
    plain = [
        [0.7520236, 0.1753997, -0.1091979, 0.506789],
        [0.9552675, 0.4203102, 0.1773793, 0.8350329],
        [-0.3695304, -0.862821, -1.0640852, -0.364765],
    ]
    antialiased = [
        [0.8058578, 0.3022065, 0.0561466, 0.5461883],
        [0.75234, 0.2836237, 0.0788699, 0.6038465],
        [-0.3831658, -0.8169474, -0.980395, -0.4204835],
    ]
    np.testing.assert_allclose(resize.bilinear(waves(), (3, 4), antialias=False)[..., 0], plain, atol=1e-6)
    np.testing.assert_allclose(resize.bilinear(waves(), (3, 4))[..., 0], antialiased, atol=1e-6)


def test_growing_as_in_pytorch():
    first_row = [0.5, 0.37387, 0.1221801, -0.1888089, -0.4520361, -0.4491918, -0.257834, 0.0355169, 0.3173464]
    np.testing.assert_allclose(resize.area(jnp.asarray(waves()), (8, 9))[0, :, 0], first_row, atol=1e-6)


@pytest.mark.parametrize("size", [5, 12])
def test_gradient_is_the_transpose(size):
    x, y = random_images(1, 8, 8, 3), jax.random.normal(jax.random.key(1), (1, size, size, 3))
    out, pull = jax.vjp(lambda x: resize.area(x, size), x)
    np.testing.assert_allclose((out * y).sum(), (x * pull(y)[0]).sum(), rtol=1e-4)


def test_images_of_other_kinds_are_refused():
    with pytest.raises(ImageError, match=r"127\.5"):
        resize.as_images(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ImageError, match=r"\(8, 8, 3\)"):
        resize.as_images(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ImageError, match="photo"):
        resize.as_images(np.zeros((1, 3, 8, 8), np.float32), "photo")
    assert resize.as_images(np.zeros((1, 8, 8, 3), np.float64)).dtype == jnp.float32


@pytest.mark.parametrize("side", [4, 1])  # sums of slices, and a factor too large for them
def test_block_means_have_the_derivatives_of_means(side):
    images = np.random.RandomState(0).rand(2, 64, 64, 3).astype(np.float32)

    def means(x):
        return x.reshape(2, side, 64 // side, side, 64 // side, 3).mean((2, 4))

    def loss(shrink):
        return lambda x: (shrink(x) ** 3).sum()

    np.testing.assert_allclose(resize.area(images, side), means(images), rtol=1e-5)
    got, want = (jax.grad(loss(f))(images) for f in (lambda x: resize.area(x, side), means))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    forward = jax.jvp(lambda x: resize.area(x, side), (images,), (2 * images,))[1]
    np.testing.assert_allclose(forward, 2 * means(images), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(lambda x: resize.area(x, side))(images), means(images), rtol=1e-5)
