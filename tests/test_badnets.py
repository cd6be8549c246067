"""BadNets: pixels and labels against numbers worked out by hand and from the benchmark's own transform."""

import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.cards import lookup
from bdjax.data.images import to_uint8
from bdjax.errors import InvalidInput


def build(settings: str = "", shape=(32, 32, 3), classes=10):
    spec = lookup(f"badnets:{settings}", ATTACKS, "attack")
    return ATTACKS["badnets"].make(None, shape, classes, **spec.static)


def stamp(image: np.ndarray, settings: str = "") -> np.ndarray:
    attack = build(settings, image.shape)
    return np.asarray(to_uint8(attack.stamp((), {}, jnp.asarray(image) / 255, jnp.int32(0))))


def ramp() -> np.ndarray:
    rows, columns, channels = np.meshgrid(range(32), range(32), range(3), indexing="ij")
    return ((7 * rows + 3 * columns + 50 * channels) % 256).astype(np.uint8)


def test_white_square_to_the_last_bit():
    expected = ramp()
    expected[29:, 29:] = 255
    result = stamp(ramp())
    np.testing.assert_array_equal(result, expected)
    assert result.sum(dtype=int) == 410107  # what the benchmark's transform gives for this image


def test_grid_has_white_corners_and_centre_and_near_black_between():
    patch = stamp(ramp(), "pattern=grid")[29:, 29:, 0]
    np.testing.assert_array_equal(patch, [[255, 1, 255], [1, 255, 1], [255, 1, 255]])


def test_benchmark_resizes_a_32_pixel_picture_and_its_dark_rim_hides_the_image():
    result = stamp(np.full((64, 64, 3), 9, np.uint8), "preset=benchmark")[:, :, 1]
    assert (result[:57] == 9).all() and (result[:, :57] == 9).all()
    np.testing.assert_array_equal(result[57, 57:], [16, 48, 64, 64, 64, 64, 64])
    np.testing.assert_array_equal(result[58, 57:], [48, 143, 191, 191, 191, 191, 191])
    np.testing.assert_array_equal(result[63, 57:], [64, 191, 255, 255, 255, 255, 255])


def test_presets_agree_at_32_pixels():
    np.testing.assert_array_equal(stamp(ramp()), stamp(ramp(), "preset=benchmark"))


def test_stamping_twice_is_stamping_once():
    once = stamp(ramp(), "size=5,pattern=grid")
    np.testing.assert_array_equal(stamp(once, "size=5,pattern=grid"), once)


def test_all_to_all_moves_every_label_to_the_next():
    attack = build("goal=all_to_all")
    np.testing.assert_array_equal(attack.goal(jnp.array([0, 8, 9])), [1, 9, 0])


def test_sources_others_leaves_the_target_class_alone():
    label = jnp.array([0, 3, 1, 3])
    assert build("target=3").eligible(label).all()
    np.testing.assert_array_equal(build("target=3,sources=others").eligible(label), [True, False, True, False])


def test_a_patch_larger_than_the_image_is_refused():
    with pytest.raises(InvalidInput, match="badnets: size 40 exceeds 32x32 pixels; choose at most 32"):
        build("size=40")
