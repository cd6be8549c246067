"""FTrojan: the 8-bit colour conversions, the stored image to the last bit, and who is poisoned."""

import jax.numpy as jnp
import numpy as np

from bdjax.attacks import ATTACKS
from bdjax.attacks.ftrojan import to_rgb, to_ycrcb
from bdjax.cards import lookup
from bdjax.data.images import to_uint8
from bdjax.keys import root
from bdjax.types import POISONED


def build(settings: str = "", shape=(32, 32, 3)):
    spec = lookup(f"ftrojan:{settings}", ATTACKS, "attack")
    return ATTACKS["ftrojan"].make(None, shape, 10, **spec.static), spec.traced


def stamped(settings: str, image, magnitude: float = 30 / 255):
    attack, _ = build(settings, image.shape)
    return attack.query((), {"magnitude": jnp.array(magnitude)}, image, 0)


def ramp() -> np.ndarray:
    rows, columns, channels = np.meshgrid(range(32), range(32), range(3), indexing="ij")
    return ((7 * rows + 3 * columns + 50 * channels) % 256).astype(np.uint8)


def test_colours_by_hand():
    np.testing.assert_array_equal(to_ycrcb(jnp.array([0, 50, 100])), [41, 99, 161])
    np.testing.assert_array_equal(to_ycrcb(jnp.array([255, 0, 0])), [76, 255, 85])
    np.testing.assert_array_equal(to_rgb(jnp.array([128, 128, 128])), [128, 128, 128])
    np.testing.assert_array_equal(to_rgb(jnp.array([100, 138, 118])), [114, 96, 82])  # 14.03, -7.14 + 3.44, -17.73
    np.testing.assert_array_equal(to_rgb(jnp.array([250, 255, 0])), [255, 203, 23])  # 178.2, -90.7 + 44.0, -226.9


def test_colours_come_back_within_two_levels():
    colour = np.random.default_rng(0).integers(0, 256, (1000, 3))
    assert np.abs(to_rgb(to_ycrcb(jnp.asarray(colour))) - colour).max() <= 2


def test_benchmark_image_to_the_last_bit():
    result = np.asarray(to_uint8(stamped("preset=benchmark", jnp.asarray(ramp()) / 255)))
    # OpenCV's colours and transform, the benchmark's loop; luma as it was before its transform there and back.
    assert result.sum(dtype=int) == 404498
    np.testing.assert_array_equal(result[0, 0], [2, 49, 101])
    np.testing.assert_array_equal(result[10, 20], [130, 180, 230])
    np.testing.assert_array_equal(result[31, 31], [56, 103, 155])


def test_saturated_chroma_wraps_in_the_benchmark_alone():
    red = jnp.zeros((32, 32, 3)).at[..., 0].set(1.0)
    wrapped, clipped = (stamped(f"storage=truncate,overflow={overflow}", red) for overflow in ("wrap", "clip"))
    assert jnp.min(wrapped[..., 0]) == 0 and jnp.min(clipped[..., 0]) > 0.9


def test_exact_trigger_is_two_cosines_in_the_chroma():
    change = np.asarray(stamped("", jnp.full((32, 32, 3), 0.5)) - 0.5)
    place = np.pi * (2 * np.arange(32) + 1) / 64
    waves = sum(np.outer(np.cos(place * k), np.cos(place * k)) for k in (15, 31))
    np.testing.assert_allclose(change[..., 0], 1.403 * 30 / 16 * waves / 255, atol=1e-6)
    green, blue = change[..., 0] * (-0.714 - 0.344) / 1.403, change[..., 0] * 1.773 / 1.403
    np.testing.assert_allclose(change[..., 1:], np.stack([green, blue], -1), atol=1e-6)


def test_one_channel_gets_the_pattern_itself():
    change = np.asarray(stamped("", jnp.full((32, 32, 1), 0.5)) - 0.5)
    colour = np.asarray(stamped("", jnp.full((32, 32, 3), 0.5)) - 0.5)
    np.testing.assert_allclose(change[..., 0], colour[..., 0] / 1.403, atol=1e-6)


def test_rows_of_the_target_are_left_out_unless_asked_for():
    label = jnp.arange(20) % 5
    for settings, rows in (("", 16), ("preset=benchmark", 20)):
        attack, traced = build(settings)
        poison = attack.init(root(0), (), traced, label, jnp.arange(20.0), jnp.int32(20))
        assert (poison.role == POISONED).sum() == rows
        assert (poison.label == 0).sum() == rows + (4 if rows == 16 else 0)
