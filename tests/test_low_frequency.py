"""Smooth trigger: the filter, targeted DeepFool on a linear model, the fit and the closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.attacks.fitting.universal import deepfool, fit_smooth, low_pass
from bdjax.attacks.low_frequency import bump
from bdjax.cards import lookup
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.types import Data, Net, Weights


def linear(slope) -> Net:
    """Logits (0, <slope, image> - 1), and a parameter that they do not depend on."""

    def apply(weights, image, train=False, weight=None, edit=None):
        value = jnp.sum(image * slope, axis=(1, 2, 3)) - 1 + 0 * weights.params
        return jnp.stack([jnp.zeros_like(value), value], axis=1), {}, {}

    return Net(lambda key: Weights(jnp.zeros(()), {}), apply, ())


WEIGHTS = Weights(jnp.zeros(()), {})
FLOATS = {"strength": jnp.array(0.2), "overshoot": jnp.array(0.02), "fooling": jnp.array(0.9)}


def test_low_pass_is_a_gaussian_of_six_pixels_with_one_tap_more_behind():
    matrix = low_pass(64, 6)
    np.testing.assert_allclose(matrix[32].sum(), 1, atol=1e-12)
    np.testing.assert_array_equal(np.flatnonzero(matrix[32])[[0, -1]], [32 - 14, 32 + 15])
    np.testing.assert_allclose(matrix[32, 32], matrix[32, 33])
    np.testing.assert_allclose(matrix[32, 38] / matrix[32, 32], np.exp((0.5**2 - 5.5**2) / 72))


def test_low_pass_loses_weight_at_the_border():
    matrix = low_pass(32, 6)
    taps = np.exp(-(((np.arange(30) - 14.5) / 6) ** 2) / 2)
    np.testing.assert_allclose(matrix[0].sum(), taps[14:].sum() / taps.sum())


def test_deepfool_reaches_the_boundary_of_a_linear_model_in_one_step():
    slope = jnp.zeros((2, 2, 1)).at[0, 0, 0].set(3.0).at[1, 1, 0].set(4.0)
    fooled = deepfool(linear(slope), WEIGHTS, jnp.zeros((2, 2, 1)), 1, 0.02, 10)
    # The margin is -1 at distance 1/5 along (3, 4)/5; the overshoot makes it 1.02 times as far.
    np.testing.assert_allclose(fooled.change[:, :, 0], [[1.02 * 3 / 25, 0], [0, 1.02 * 4 / 25]], rtol=1e-5)
    assert fooled.reached == 1


def test_deepfool_leaves_an_image_of_the_target_as_it_is():
    fooled = deepfool(linear(jnp.ones((2, 2, 1))), WEIGHTS, jnp.ones((2, 2, 1)), 1, 0.02, 10)
    assert (fooled.change == 0).all() and fooled.reached == 1 and fooled.taken == 1


def test_deepfool_says_so_when_it_does_not_arrive():
    fooled = deepfool(linear(jnp.zeros((2, 2, 1))), WEIGHTS, jnp.ones((2, 2, 1)), 1, 0.02, 10)
    assert fooled.reached == 0 and fooled.taken == 10 and (fooled.change == 0).all()


def test_fitted_pattern_is_smooth_and_fools():
    image = jax.random.uniform(root(0), (6, 16, 16, 1)) * 0.1
    slope = jnp.zeros((16, 16, 1)).at[4, 4, 0].set(9.0)
    fit = fit_smooth(root(1), linear(slope), WEIGHTS, image, 1, FLOATS, sigma=2, passes=3, steps=5)
    assert fit.best.min() == 0 and np.isclose(fit.best.max(), 0.2)
    assert fit.changed == 1.0 and fit.number == 1
    steps = [np.abs(np.diff(fit.best[:, :, 0], axis=axis)).max() for axis in (0, 1)]
    assert max(steps) < 0.2 / 3  # unfiltered, the pattern would be one pixel
    peak = np.unravel_index(np.argmax(fit.best[:, :, 0]), (16, 16))
    assert max(abs(peak[0] - 4), abs(peak[1] - 4)) <= 1


def test_bump_is_the_benchmarks_pattern_within_two_levels():
    level = np.floor(bump(32, 32, 3) * 51 + 1e-3)
    assert level.max() == 51 and (level[:, :, 1] == 0).all()
    assert np.unravel_index(np.argmax(level[:, :, 2]), (32, 32)) in ((13, 13), (14, 14), (13, 14), (14, 13))
    np.testing.assert_allclose(level[14, 14], [18, 0, 51], atol=1)
    np.testing.assert_allclose(level[[0, 0, 31], [0, 31, 31], 2], [10, 7, 2], atol=2)


def test_truncated_pattern_adds_whole_levels():
    spec = lookup("low_frequency:preset=benchmark", ATTACKS, "attack")
    attack = ATTACKS["low_frequency"].make(None, (32, 32, 3), 10, **spec.static)
    assert attack.prepare is None
    result = attack.stamp((), {"strength": jnp.array(0.2)}, jnp.full((32, 32, 3), 100 / 255), 0) * 255
    np.testing.assert_allclose(result, np.round(result), atol=1e-4)
    np.testing.assert_allclose(result[14, 14], [118, 100, 151], atol=1.001)


def test_a_model_that_never_says_the_target_is_an_error():
    settings = "images=4,passes=1,steps=3,surrogate_epochs=1,surrogate_batch=4,target=1"
    spec = lookup(f"low_frequency:{settings}", ATTACKS, "attack")
    net = linear(jnp.zeros((8, 8, 1)))
    attack = ATTACKS["low_frequency"].make(net, (8, 8, 1), 2, **spec.static)
    data = Data(jnp.zeros((4, 8, 8, 1), jnp.uint8), jnp.zeros(4, jnp.int32))
    with pytest.raises(InvalidInput, match="no image came to be taken for class 1"):
        attack.prepare(root(0), net, data, spec.traced)
