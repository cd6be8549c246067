"""How visible a trigger is, against numbers worked by hand and against published implementations."""

import numpy as np
import pytest

from bdjax.metrics.stealth import haarpsi, psnr, ssim, stealth


def pair(channels):
    """Gradients that wrap around, and the same with a dim square in a corner."""
    row, column, channel = np.ogrid[:32, :32, :channels]
    clean = ((7 * row + 3 * column + 50 * channel) % 256)[None].astype(np.uint8)
    triggered = clean.copy()
    triggered[:, -6:, -6:] = 128
    return clean, triggered


def test_an_image_equals_itself():
    clean, _ = pair(3)
    assert stealth(clean, clean) == pytest.approx({"psnr": np.inf, "ssim": 1, "perceptual": 0, "largest": 0}, abs=1e-12)


def test_flat_images_by_hand():
    dark, light = np.full((1, 16, 16, 1), 100.0), np.full((1, 16, 16, 1), 110.0)
    assert psnr(dark, light) == pytest.approx(20 * np.log10(25.5))  # the error is 10 levels everywhere
    low = 2.55**2
    assert ssim(dark, light) == pytest.approx((2 * 100 * 110 + low) / (100**2 + 110**2 + low))


def test_the_largest_change_is_the_mean_over_images():
    clean = np.zeros((2, 16, 16, 3), np.uint8)
    triggered = clean.copy()
    triggered[0, 3, 4, 1], triggered[1, 0, 0, 0] = 10, 30
    assert stealth(clean, triggered)["largest"] == 20


@pytest.mark.parametrize("channels, similarity", [(1, 0.7665633570333421), (3, 0.8772314967331889)])
def test_haarpsi_equals_piq(channels, similarity):
    """piq 0.8.0 in float64."""
    clean, triggered = (image.astype(float) for image in pair(channels))
    assert haarpsi(clean, triggered) == pytest.approx(similarity, abs=1e-10)


@pytest.mark.parametrize("channels, similarity", [(1, 0.9975237431156521), (3, 0.9950999340675565)])
def test_ssim_equals_piq(channels, similarity):
    """piq 0.8.0 in float64, without downsampling."""
    clean, triggered = (image.astype(float) for image in pair(channels))
    assert ssim(clean, triggered) == pytest.approx(similarity, abs=1e-10)


def test_what_is_too_small_for_the_windows_has_no_figure():
    clean = np.zeros((1, 8, 8, 3), np.uint8)
    found = stealth(clean, clean + np.uint8(1))
    assert np.isnan(found["ssim"]) and np.isnan(found["perceptual"])
    assert found["psnr"] == pytest.approx(20 * np.log10(255))
