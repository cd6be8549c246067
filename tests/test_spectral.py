"""Cosine triggers: the orthonormal transform, the pattern that raised coefficients make, and the cast to 8 bits."""

import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks.parts.spectral import bands, cast, pattern, transform


@pytest.mark.parametrize("size", [16, 28, 32])
def test_transform_is_orthonormal(size):
    np.testing.assert_allclose(transform(size) @ transform(size).T, np.eye(size), atol=1e-12)


def test_transform_of_two_pixels_by_hand():
    np.testing.assert_allclose(transform(2), np.array([[1, 1], [1, -1]]) / np.sqrt(2), atol=1e-15)


def test_pattern_is_what_raising_the_coefficients_adds():
    image = np.random.default_rng(0).uniform(size=(32, 32))
    raised = transform(32) @ image @ transform(32).T
    raised[[15, 31], [15, 31]] += 3
    back = transform(32).T @ raised @ transform(32)
    np.testing.assert_allclose(image + 3 * pattern(32, 32, 32, 15, 31)[..., 0], back, atol=1e-12)


def test_a_coefficient_of_16_is_a_wave_of_height_1_in_blocks_of_32():
    wave = 16 * pattern(32, 32, 32, 31, 31)[0, 0, 0] / 2
    assert wave == pytest.approx(np.cos(np.pi * 31 / 64) ** 2)


def test_blocks_repeat_and_the_border_cuts_the_last():
    whole, block = pattern(64, 48, 32, 15, 31), pattern(32, 32, 32, 15, 31)
    np.testing.assert_array_equal(whole[32:, :32], block)
    np.testing.assert_array_equal(whole[:32, 32:], block[:, :16])


def test_small_blocks_keep_the_share_of_the_highest_coefficient():
    assert [bands(window, 15, 31) for window in (16, 28, 32, 64)] == [[7, 15], [13, 27], [15, 31], [15, 31]]


def test_levels_are_cut_towards_zero_then_clipped_or_wrapped():
    levels = jnp.array([-3.2, -0.4, 7.9, 7.999995, 7.9995, 255.9, 256.1, 300.0])
    np.testing.assert_array_equal(cast(levels, "clip"), [0, 0, 7, 8, 7, 255, 255, 255])
    np.testing.assert_array_equal(cast(levels, "wrap"), [253, 0, 7, 8, 7, 255, 0, 44])
