"""CTRL: the stored image to the last bit, the exact trigger, and whose rows get it."""

import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.cards import lookup
from bdjax.data.images import to_uint8
from bdjax.keys import root
from bdjax.types import POISONED


def build(settings: str = "", shape=(32, 32, 3)):
    spec = lookup(f"ctrl:{settings}", ATTACKS, "attack")
    return ATTACKS["ctrl"].make(None, shape, 10, **spec.static), spec.traced


def trigger(magnitude: float = 100 / 255, gain: float = 1.0) -> dict:
    return {"magnitude": jnp.array(magnitude), "gain": jnp.array(gain)}


def ramp() -> np.ndarray:
    rows, columns, channels = np.meshgrid(range(32), range(32), range(3), indexing="ij")
    return ((7 * rows + 3 * columns + 50 * channels) % 256).astype(np.uint8)


@pytest.mark.parametrize(("overflow", "total"), [("wrap", 403735), ("clip", 404284)])
def test_stored_image_to_the_last_bit(overflow, total):
    attack, _ = build(f"storage=truncate,overflow={overflow}")
    result = np.asarray(to_uint8(attack.stamp((), trigger(), jnp.asarray(ramp()) / 255, 0)))
    assert result.sum(dtype=int) == total  # what the benchmark's transform gives, with its wrap and without
    np.testing.assert_array_equal(result[0, 0], [3, 46, 106])
    np.testing.assert_array_equal(result[10, 20], [133, 177, 235])
    np.testing.assert_array_equal(result[31, 31], [57, 100, 160])


def test_exact_trigger_on_grey_is_two_cosines_in_the_chroma():
    attack, _ = build()
    change = np.asarray(attack.stamp((), trigger(), jnp.full((32, 32, 3), 0.5), 0) - 0.5)
    place = np.pi * (2 * np.arange(32) + 1) / 64
    waves = sum(np.outer(np.cos(place * k), np.cos(place * k)) for k in (15, 31))
    for channel, tint in enumerate((1.14, -0.977, 2.029)):
        np.testing.assert_allclose(change[..., channel], tint * 100 / 16 * waves / 255, atol=1e-6)


def test_rounded_conversions_move_a_colour_a_little():
    attack, _ = build()
    blue = jnp.zeros((32, 32, 3)).at[..., 2].set(1.0)
    moved = attack.stamp((), trigger(0.0), blue, 0)[0, 0] * 255
    # U = 0.436 and V = -0.1 of 255; red and green then lack 0.114 + 1.14 V and 0.114 - 0.396 U - 0.581 V of it.
    np.testing.assert_allclose(moved, [0, 0, 255 * (0.114 + 2.029 * 0.436)], atol=1e-3)


def test_gain_is_for_test_images_alone():
    attack, _ = build()
    grey = jnp.full((32, 32, 3), 0.5)
    weak, strong = attack.stamp((), trigger(0.1, 2.0), grey, 0), attack.query((), trigger(0.1, 2.0), grey, 0)
    np.testing.assert_allclose(strong - grey, 2 * (weak - grey), atol=1e-6)


def test_one_channel_gets_the_pattern_itself():
    change = build(shape=(32, 32, 1))[0].query((), trigger(), jnp.full((32, 32, 1), 0.5), 0) - 0.5
    assert change[0, 0, 0] * 255 == pytest.approx(
        100 / 16 * sum(np.cos(k * np.pi / 64) ** 2 for k in (15, 31)), rel=1e-4
    )


def test_only_rows_of_the_target_are_poisoned():
    attack, settings = build("target=2")
    label = jnp.arange(20) % 5
    poison = attack.init(root(0), (), settings, label, jnp.arange(20.0), jnp.int32(9))
    np.testing.assert_array_equal(poison.role == POISONED, label == 2)
    np.testing.assert_array_equal(poison.label, label)
