"""SIG: the wave, its storage in 8 bits, and whose rows get it."""

import jax.numpy as jnp
import numpy as np

from bdjax.attacks import ATTACKS
from bdjax.cards import lookup
from bdjax.data.images import to_uint8
from bdjax.keys import root
from bdjax.types import POISONED


def build(settings: str = ""):
    spec = lookup(f"sig:{settings}", ATTACKS, "attack")
    return ATTACKS["sig"].make(None, (32, 32, 3), 10, **spec.static), spec.traced


def trigger(delta: float = 40 / 255, gain: float = 1.0) -> dict:
    return {"delta": jnp.array(delta), "gain": jnp.array(gain)}


def ramp() -> np.ndarray:
    rows, columns, channels = np.meshgrid(range(32), range(32), range(3), indexing="ij")
    return ((7 * rows + 3 * columns + 50 * channels) % 256).astype(np.uint8)


def test_benchmark_wave_to_the_last_bit():
    attack, _ = build("preset=benchmark")
    result = np.asarray(to_uint8(attack.stamp((), trigger(), jnp.asarray(ramp()) / 255, 0))).astype(int)
    assert result.sum() == 404561  # what the benchmark's transform gives
    np.testing.assert_array_equal(result[0, 0], [0, 50, 100])
    np.testing.assert_array_equal(result[10, 20], [90, 140, 190])
    np.testing.assert_array_equal(result[31, 31], [17, 67, 117])


def test_six_periods_repeat_after_sixteen_columns():
    attack, _ = build()
    grey = jnp.full((32, 32, 3), 0.5)
    wave = np.asarray(attack.stamp((), trigger(), grey, 0) - grey)[0, :, 0] * 255
    root_half = np.sqrt(0.5)
    np.testing.assert_allclose(wave[[0, 4, 8, 12, 6]], [0, -40, 0, 40, 40 * root_half], atol=1e-3)
    np.testing.assert_allclose(wave[:16], wave[16:], atol=1e-3)


def test_benchmark_loses_a_level_only_where_the_sine_falls_short_of_zero():
    attack, _ = build("preset=benchmark")
    grey = jnp.full((32, 32, 3), 100 / 255)
    row = np.asarray(to_uint8(attack.stamp((), trigger(), grey, 0)))[0, :, 0]
    np.testing.assert_array_equal(row[[0, 8, 16, 24]], [100, 100, 99, 100])


def test_gain_is_for_test_images_alone():
    attack, _ = build()
    grey = jnp.full((32, 32, 3), 0.5)
    weak, strong = attack.stamp((), trigger(0.1, 2.0), grey, 0), attack.query((), trigger(0.1, 2.0), grey, 0)
    np.testing.assert_allclose(strong - grey, 2 * (weak - grey), atol=1e-6)


def test_only_rows_of_the_target_are_poisoned_and_no_more_than_there_are():
    attack, settings = build("target=2")
    label = jnp.arange(20) % 5
    poison = attack.init(root(0), (), settings, label, jnp.arange(20.0), jnp.int32(9))
    np.testing.assert_array_equal(poison.role == POISONED, label == 2)
    np.testing.assert_array_equal(poison.label, label)
    np.testing.assert_array_equal(attack.goal(jnp.arange(3)), [2, 2, 2])
