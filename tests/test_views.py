"""Strong views of images: crops, colors, gray and blur by hand, and how they are drawn."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.data import images, views

PIXELS = [(0.2, 0.6, 0.4), (0.9, 0.1, 0.3), (0.1, 0.2, 0.8), (0.5, 0.5, 0.5), (1.0, 1.0, 0.0), (0.0, 0.0, 0.0)]


@pytest.mark.parametrize("turn", [-0.1, 0.0, 0.05, 0.6])
def test_hue_turns_as_in_the_standard_library(turn):
    def turned(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)

    found = views.turn_hue(jnp.array(PIXELS)[None], turn)
    np.testing.assert_allclose(found[0], [turned(pixel) for pixel in PIXELS], atol=1e-6)


def test_gray_is_luma_of_three_channels_and_the_mean_of_others():
    """0.299 * 0.2 + 0.587 * 0.6 + 0.114 * 0.4 = 0.4576."""
    np.testing.assert_allclose(views.gray(jnp.array([[PIXELS[0]]]))[0, 0], [0.4576], rtol=1e-6)
    np.testing.assert_allclose(views.gray(jnp.array([[[0.2, 0.6]]]))[0, 0], [0.4], rtol=1e-6)


def test_blur_spreads_a_point_as_a_gaussian_and_keeps_what_is_even():
    """Deviation 1: beside the point exp(-1/2) of it, two pixels away exp(-2)."""
    point = jnp.zeros((15, 15, 1)).at[7, 7].set(1)
    found = views.blur(point, 1.0)[..., 0]
    np.testing.assert_allclose(found[7, 8] / found[7, 7], np.exp(-0.5), rtol=1e-5)
    np.testing.assert_allclose(found[5, 7] / found[7, 7], np.exp(-2), rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(found), 1, rtol=1e-5)
    np.testing.assert_allclose(views.blur(jnp.full((4, 4, 3), 0.3), 2.0), 0.3, rtol=1e-5)


def test_a_crop_of_everything_is_the_image_and_a_crop_of_a_half_is_that_half():
    image = jnp.zeros((8, 8, 1)).at[:, 4:].set(1)
    np.testing.assert_allclose(views.crop(image, jnp.array([0.0, 0, 8, 8])), image, atol=1e-6)
    assert float(jnp.min(views.crop(image, jnp.array([2.0, 4, 4, 4]))[:, 2:])) > 0.99
    assert float(jnp.max(views.crop(image, jnp.array([2.0, 0, 4, 4]))[:, :6])) < 0.01


def test_boxes_are_inside_and_of_the_areas_and_shapes_asked_for():
    """Of 32x32 pixels sides are rounded to the pixel: a fifth of the area is 14.3 pixels a side, give or take one."""
    keys = jax.random.split(jax.random.key(0), 300)
    top, left, tall, wide = np.asarray(jax.vmap(lambda key: views.draw_box(key, 32, 32, jnp.float32))(keys)).T
    assert (top >= 0).all() and (left >= 0).all() and (top + tall <= 32).all() and (left + wide <= 32).all()
    share = tall * wide / 32**2
    assert 0.17 < share.min() < 0.25 and share.max() > 0.9
    assert (wide / tall).min() > 0.65 and (wide / tall).max() < 1.55
    assert len({*top}) > 5 and len({*left}) > 5


def test_images_in_one_batch_get_views_of_their_own_and_one_channel_stays_one():
    image = jnp.broadcast_to(jax.random.uniform(jax.random.key(1), (8, 8, 3)), (20, 8, 8, 3))
    augment = images.augmentation(1, False)
    found = np.asarray(jax.jit(lambda key, image: views.strong(key, image, augment))(jax.random.key(2), image))
    assert found.shape == image.shape and found.min() >= 0 and found.max() <= 1
    assert len(np.unique(found.reshape(20, -1), axis=0)) == 20
    gray = np.ptp(found, axis=-1).max((1, 2)) < 1e-6
    assert 0 < gray.sum() < 12
    assert views.strong(jax.random.key(2), image[..., :1], augment).shape == (20, 8, 8, 1)


def test_jitter_is_the_same_in_a_batch_of_batches():
    keys, image = jax.random.split(jax.random.key(3), (2, 16)), jax.random.uniform(jax.random.key(4), (2, 16, 4, 4, 3))
    many = jax.jit(jax.vmap(jax.vmap(views.jitter)))(keys, image)
    alone = jax.jit(jax.vmap(views.jitter))
    for index in range(2):
        np.testing.assert_allclose(many[index], alone(keys[index], image[index]), atol=1e-5)
    assert not np.allclose(many, image)
