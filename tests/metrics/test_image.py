import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsap_jax.errors import ImageError
from lsap_jax.metrics import image as metrics

pytestmark = pytest.mark.fast


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Two pairs of smooth pictures (2, 256, 256, 3): one unlike, one alike."""
    case = golden.expected("f_lpips")
    return golden.to_float(case["in0_256_u8"]), golden.to_float(case["in1_256_u8"])


def test_one_grey_level_is_48_decibels():
    x = pictures()[0]
    np.testing.assert_allclose(metrics.psnr(x, x + np.float32(2 / 255)), 48.1308, atol=1e-3)


def test_mse_and_psnr_by_numpy():
    a, b = pictures()
    want = ((a.astype(np.float64) - b) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(metrics.mse(a, b), want, rtol=1e-5)
    np.testing.assert_allclose(metrics.psnr(a, b), 10 * np.log10(4 / want), rtol=1e-5)


def test_equal_images():
    a, _ = pictures()
    np.testing.assert_array_equal(metrics.mse(a, a), 0)
    np.testing.assert_array_equal(metrics.psnr(a, a), np.inf)
    np.testing.assert_allclose(metrics.ssim(a, a), 1, atol=1e-6)


def test_ssim_is_that_of_scikit_image():
    # structural_similarity(x + 1, y + 1, data_range=2, gaussian_weights=True, sigma=1.5,
    # use_sample_covariance=False, channel_axis=-1) of scikit-image 0.26; dm-pix 0.4.5 differs by 2e-6.
    np.testing.assert_allclose(metrics.ssim(*pictures()), [0.1351566, 0.9744814], atol=1e-6)


def test_ssim_of_flat_regions_is_exact():
    # Bright and nearly flat: where E[x^2] - E[x]^2 would be mostly rounding.
    noise = 1e-3 * jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    a, b = 0.9 + noise, 0.9 + noise[:, ::-1]
    with jax.enable_x64(True):
        want = metrics.ssim.__wrapped__(*(np.asarray(x, np.float64) for x in (a, b)))
    np.testing.assert_allclose(metrics.ssim(a, b), want, atol=1e-4)


@pytest.mark.parametrize("metric", [metrics.mse, metrics.psnr, metrics.ssim])
def test_symmetric_and_one_image_at_a_time(metric):
    a, b = (x[:, :64, :48] for x in pictures())
    together = metric(a, b)
    assert together.shape == (2,)
    np.testing.assert_allclose(metric(b, a), together, rtol=1e-5)
    np.testing.assert_allclose(
        jnp.concatenate([metric(a[i : i + 1], b[i : i + 1]) for i in range(2)]), together, rtol=1e-5
    )


@pytest.mark.parametrize("metric", [metrics.mse, metrics.psnr, metrics.ssim])
def test_unusable_images_are_refused(metric):
    x = np.zeros((1, 16, 16, 3), np.float32)
    with pytest.raises(ImageError, match="one shape"):
        metric(x, x[:, :12])
    with pytest.raises(ImageError, match="uint8"):
        metric(x.astype(np.uint8), x.astype(np.uint8))


def test_ssim_needs_room_for_its_window():
    x = np.zeros((1, 16, 10, 3), np.float32)
    with pytest.raises(ImageError, match="11"):
        metrics.ssim(x, x)
