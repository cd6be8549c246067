"""Corruptions: by hand, by statistics, and by Pillow where that has them."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter1d, zoom

from bdjax.data import corruptions
from bdjax.data.corruptions import CORRUPTIONS, blur, digital, matrices, noise, weather
from bdjax.keys import root


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def picture(size: int = 32, channels: int = 3) -> np.ndarray:
    """Smooth and colored, uint8."""
    random = np.random.default_rng(0).normal(size=(size, size, channels))
    random = gaussian_filter1d(gaussian_filter1d(random, 2, axis=0), 2, axis=1)
    return np.uint8(np.clip(128 + 500 * random, 0, 255))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_corruption_keeps_shape_and_range_and_grows(name, channels):
    image = jnp.asarray(picture(16, channels) / 255)
    function = jax.jit(CORRUPTIONS[name])
    found = [function(root(3), image, level) for level in range(corruptions.LEVELS)]
    for one in found:
        assert one.shape == image.shape and np.isfinite(one).all() and one.min() >= 0 and one.max() <= 1
    assert np.abs(found[4] - image).mean() > np.abs(found[0] - image).mean() > 0


def test_noise_has_the_size_that_it_should():
    gray, level = jnp.full((60, 60, 3), 0.5), jnp.int32(0)
    assert np.std(noise.gaussian_noise(root(0), gray, level)) == pytest.approx(0.08, rel=0.03)
    assert np.std(noise.shot_noise(root(0), gray, level)) == pytest.approx(np.sqrt(0.5 / 60), rel=0.03)
    salted = np.asarray(noise.impulse_noise(root(0), gray, jnp.int32(4)))
    assert np.mean(salted != 0.5) == pytest.approx(0.27, rel=0.05)
    assert np.mean(salted[salted != 0.5]) == pytest.approx(0.5, abs=0.03)


def test_brightness_raises_the_largest_channel_and_keeps_the_shares():
    image = jnp.array([[[0.4, 0.2, 0.1], [0.95, 0.5, 0.0], [0.0, 0.0, 0.0]]])
    found = digital.brightness(None, image, jnp.int32(0))
    np.testing.assert_allclose(found[0], [[0.5, 0.25, 0.125], [1, 0.5 / 0.95, 0], [0.1, 0.1, 0.1]], atol=1e-12)


def test_contrast_by_hand():
    image = jnp.array([[[0.2], [0.6]]])
    np.testing.assert_allclose(digital.contrast(None, image, jnp.int32(2))[0, :, 0], [0.36, 0.44])


@pytest.mark.parametrize("level", range(5))
def test_pixelate_is_pillows(level):
    image, share = picture(), (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    small = Image.fromarray(image).resize((int(32 * share), int(32 * share)), Image.BOX)
    expected = np.asarray(small.resize((32, 32), Image.NEAREST)) / 255
    found = digital.pixelate(None, jnp.asarray(image / 255), jnp.int32(level))
    np.testing.assert_allclose(found, expected, atol=1.1 / 255)  # Pillow rounds between its two passes


@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows_but_for_chroma_between_pixels(level, channels):
    image, file = picture(40, 1), io.BytesIO()
    if channels == 3:
        image = np.uint8(image * np.array([1, 0.7, 0.5]) + [0, 40, 20])  # colors that change slowly
    shown = Image.fromarray(image if channels == 3 else image[..., 0])
    shown.save(file, "JPEG", quality=digital.QUALITIES[level])
    expected = np.asarray(Image.open(file), float).reshape(image.shape)
    found = 255 * np.asarray(digital.jpeg_compression(None, jnp.asarray(image / 255), jnp.int32(level)))
    assert np.abs(found - expected).mean() < (0.5 if channels == 1 else 3)


def test_matrices_are_scipys():
    signal = np.random.default_rng(0).normal(size=20)
    for sigma in (0.7, 1.5):
        found = matrices.smooth(20, sigma, 4.0, False) @ signal
        np.testing.assert_allclose(found, gaussian_filter1d(signal, sigma, mode="nearest"), atol=1e-12)
    found = matrices.smooth(20, 0.9, 3.0, True) @ signal
    np.testing.assert_allclose(found, gaussian_filter1d(signal, 0.9, mode="reflect", truncate=3), atol=1e-12)
    for factor in (1.05, 1.3, 2.5):
        inner = int(np.ceil(20 / factor))
        first = (20 - inner) // 2
        expected = zoom(signal[first : first + inner], factor, order=1)[:20]
        np.testing.assert_allclose(matrices.zoom(20, factor) @ signal, expected, atol=1e-12)


def test_defocus_keeps_brightness_and_spreads_a_point_over_a_disk():
    np.testing.assert_allclose(blur.DISKS[:3].sum((1, 2)), 1)  # softening mirrors the edge of larger ones, as theirs
    point = jnp.zeros((41, 41, 1)).at[20, 20].set(1)
    found = np.asarray(blur.defocus_blur(None, point, jnp.int32(0)))[..., 0]
    row, column = np.meshgrid(np.arange(41) - 20, np.arange(41) - 20, indexing="ij")
    np.testing.assert_array_equal(found > 1e-6, row**2 + column**2 <= 9)


def test_motion_smears_a_point_along_its_direction():
    point = jnp.zeros((9, 9, 1)).at[4, 5].set(1)
    found = np.asarray(blur.move(point, 2, 3.0, 0.0, 4))[..., 0]
    weight = np.exp(-(np.arange(5) ** 2) / 18)
    np.testing.assert_allclose(found[4, 1:6][::-1], weight / weight.sum(), atol=1e-12)
    assert found[:4].max() == 0 and found[5:].max() == 0


def test_plasma_is_a_map_from_0_to_1_that_is_rougher_where_it_decays_less():
    smooth, rough = (np.asarray(weather.plasma(root(0), 32, decay)) for decay in (3.0, 1.4))
    for one in (smooth, rough):
        assert one.min() == 0 and one.max() == pytest.approx(1)
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(smooth)).mean()
