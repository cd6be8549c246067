"""Blended injection: the mixture's arithmetic and the picture that is mixed in."""

import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.attacks.blended import cartoon, mixture
from bdjax.cards import lookup
from bdjax.data.images import to_uint8


def ramp() -> np.ndarray:
    rows, columns, channels = np.meshgrid(range(32), range(32), range(3), indexing="ij")
    return ((7 * rows + 3 * columns + 50 * channels) % 256).astype(np.uint8)


def test_truncated_mixture_to_the_last_bit():
    image, constant = jnp.asarray(ramp()) / 255, jnp.full((32, 32, 3), 200 / 255)
    result = np.asarray(to_uint8(mixture(image, constant, 0.2, "truncate")))
    np.testing.assert_array_equal(result, (4 * ramp().astype(int) + 200) // 5)
    assert result.sum(dtype=int) == 446266  # what the benchmark's transform gives
    np.testing.assert_array_equal(result[10, 20], [144, 184, 224])


def test_float_mixture_keeps_the_fraction():
    result = mixture(jnp.array([1 / 255]), jnp.array([4 / 255]), jnp.array(0.2), "float")
    np.testing.assert_allclose(result * 255, [1.6], rtol=1e-5)


@pytest.mark.parametrize("size", [32, 64, 224])
def test_picture_has_the_statistics_of_the_usual_cartoon(size):
    levels = cartoon(size, size) * 255
    assert abs(levels.mean() - 200) < 3
    assert abs(levels.std() - 68) < 4
    assert levels.min() > 10 and levels.max() == 255


def test_alpha_decides_between_image_and_picture():
    spec = lookup("blended", ATTACKS, "attack")
    attack = ATTACKS["blended"].make(None, (32, 32, 3), 10, **spec.static)
    image = jnp.asarray(ramp()) / 255
    np.testing.assert_array_equal(attack.query((), {"alpha": jnp.array(0.0)}, image, 0), image)
    full = attack.query((), {"alpha": jnp.array(1.0)}, image, 0)
    np.testing.assert_allclose(full, cartoon(32, 32), atol=0.51 / 255)


def test_grey_images_get_a_grey_picture():
    spec = lookup("blended", ATTACKS, "attack")
    attack = ATTACKS["blended"].make(None, (16, 16, 1), 10, **spec.static)
    assert attack.query((), {"alpha": jnp.array(0.2)}, jnp.zeros((16, 16, 1)), 0).shape == (16, 16, 1)


def test_a_users_picture_takes_the_place_of_the_cartoon(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    spec = lookup(f"blended:picture={tmp_path}/mine.png", ATTACKS, "attack")
    attack = ATTACKS["blended"].make(None, (16, 16, 3), 10, **spec.static)
    image = jnp.zeros((16, 16, 3))
    np.testing.assert_array_equal(to_uint8(attack.query((), {"alpha": jnp.array(1.0)}, image, 0)), pixels)
