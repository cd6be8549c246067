"""Facts of super-fine-tuning: the rate of a step by hand, through both phases, in either precision."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cards import lookup
from bdjax.defenses.super_ft import SUPER_FT, rate

SETTINGS = {"base": 0.1, "forgetting_peak": 2.1, "recovery_peak": 0.3}


def rates(steps: int, each: int, forgetting: int, rise: int = 2) -> np.ndarray:
    return np.asarray([rate(jnp.int32(step), each, forgetting, rise, SETTINGS) for step in range(steps)])


def test_rates_by_hand():
    """Up and down by 1 a step of 2, a step late; at the end of an epoch of four steps, the peak of the second phase."""
    found = rates(10, 4, 1)
    np.testing.assert_allclose(found, [0.1, 0.1, 1.1, 2.1, 1.1, 0.1, 0.2, 0.3, 0.2, 0.1], rtol=1e-6)


def test_the_first_step_of_the_second_phase_has_the_rate_of_the_first():
    """Three steps an epoch: step 3 has the rate of step 2, which is the first phase's highest."""
    np.testing.assert_allclose(rates(5, 3, 1), [0.1, 0.1, 1.1, 2.1, 0.2], rtol=1e-6)


def test_rates_are_in_the_precision_of_the_library():
    with jax.enable_x64(True):
        assert rate(jnp.int32(3), 4, 1, 3, SETTINGS) == 0.1 + 2.0 * (1 - abs(2 / 3 - 1))


def test_default_is_plain_sgd_up_to_two_and_a_half():
    spec = lookup("super_ft", {"super_ft": SUPER_FT}, "defense")
    assert spec.static["epochs"] == 100 and spec.static["forgetting_epochs"] == 40 and not spec.static["augment"]
    assert "momentum" not in spec.traced and spec.traced["forgetting_peak"] == 2.5
