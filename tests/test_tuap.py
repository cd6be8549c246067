"""TUAP: DeepFool's longer steps, the perturbation and the patch on linear models, and what rows and queries get."""

import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.attacks.fitting.tuap_patterns import fitted_patch, fitted_perturbation, pasted
from bdjax.attacks.fitting.universal import deepfool
from bdjax.cards import lookup
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.types import POISONED, Data, Net, Weights

WEIGHTS = Weights(jnp.zeros(()), {})
FLOATS = {"strength": jnp.array(0.1), "overshoot": jnp.array(0.02), "fooling": jnp.array(0.9)}
QUICK = "surrogate_epochs=1,surrogate_batch=4,fit_steps=3,ascent_steps=2"


def linear(slope) -> Net:
    """Logits (0, <slope, image> - 1), and a parameter that they do not depend on."""

    def apply(weights, image, train=False, weight=None, edit=None):
        value = jnp.sum(image * slope, axis=(1, 2, 3)) - 1 + 0 * weights.params
        return jnp.stack([jnp.zeros_like(value), value], axis=1), {}, {}

    return Net(lambda key: Weights(jnp.zeros(()), {}), apply, ())


def build(settings: str, shape=(8, 8, 1)):
    spec = lookup(f"tuap:{settings}", ATTACKS, "attack")
    return ATTACKS["tuap"].make(None, shape, 2, **spec.static), spec.traced


def data() -> Data:
    image = jnp.full((6, 8, 8, 1), 100, jnp.uint8)
    return Data(image, jnp.array([0, 1, 1, 0, 1, 0], jnp.int32))


def test_deepfool_with_a_margin_steps_that_much_further():
    slope = jnp.zeros((2, 2, 1)).at[0, 0, 0].set(3.0).at[1, 1, 0].set(4.0)
    fooled = deepfool(linear(slope), WEIGHTS, jnp.zeros((2, 2, 1)), 1, 0.02, 10, margin=0.1)
    # The boundary is 1/5 away along (3, 4)/5; 0.3 is stepped, and 2% more.
    np.testing.assert_allclose(fooled.change[:, :, 0], [[1.02 * 0.18, 0], [0, 1.02 * 0.24]], rtol=1e-5)


def test_perturbation_is_cut_to_its_strength_and_stops_when_it_fools():
    slope = jnp.zeros((4, 4, 1)).at[0, 0, 0].set(8.0).at[1, 1, 0].set(-16.0)
    image = jnp.zeros((3, 4, 4, 1)).at[:, 0, 0].set(0.06).at[:, 1, 1].set(0.05)
    # The margin is -1.32: one step goes 1.02 * 1.32 / 320 * 8 = 0.0337 up and 0.0673 down, and that is enough.
    fit = fitted_perturbation(root(0), linear(slope), WEIGHTS, image, image, 1, FLOATS, passes=5, steps=9)
    np.testing.assert_allclose(fit.pattern[[0, 1], [0, 1], 0], [0.0337, -0.0673], atol=2e-4)
    assert fit.number == 1 and fit.changed == 1
    weak = FLOATS | {"strength": jnp.array(0.02)}
    fit = fitted_perturbation(root(0), linear(slope), WEIGHTS, image, image, 1, weak, passes=5, steps=9)
    np.testing.assert_allclose(fit.pattern[[0, 1], [0, 1], 0], [0.02, -0.02], rtol=1e-5)
    assert fit.number == 5 and fit.changed == 0


def test_perturbation_leaves_images_of_other_predictions_alone():
    slope = jnp.full((4, 4, 1), 1.0)
    image = jnp.stack([jnp.full((4, 4, 1), 0.05), jnp.full((4, 4, 1), 0.06)])
    fit = fitted_perturbation(root(0), linear(slope), WEIGHTS, image, image, 1, FLOATS, passes=1, steps=9)
    # Where the darker one comes first its step moves both; else that of the other is followed by its own.
    assert fit.changed == 1
    np.testing.assert_allclose(fit.pattern.mean(), 1.02 * 0.0125, rtol=0.02)  # 16 * (0.05 + 0.0125) = 1


def test_patch_descends_by_signs_where_it_lies():
    slope = jnp.zeros((4, 4, 1)).at[3, 3, 0].set(2.0).at[2, 3, 0].set(-1.0).at[0, 0, 0].set(9.0)
    image = jnp.zeros((5, 4, 4, 1), jnp.uint8)
    start = jnp.full((2, 2, 1), 0.5)
    patch = fitted_patch(root(0), linear(slope), WEIGHTS, image, start, 1, jnp.array(0.1), 3)
    np.testing.assert_allclose(patch[:, :, 0], [[0.5, 0.2], [0.5, 0.8]], atol=1e-6)
    longer = fitted_patch(root(0), linear(slope), WEIGHTS, image, start, 1, jnp.array(0.1), 9)
    np.testing.assert_allclose(longer[:, :, 0], [[0.5, 0], [0.5, 1]], atol=1e-6)


def test_patch_lies_in_the_bottom_right_corner():
    result = pasted(jnp.zeros((4, 5, 1)), jnp.ones((2, 2, 1)))
    assert (result[2:, 3:] == 1).all() and result.sum() == 4


def test_rows_are_made_hard_before_they_get_the_patch_and_queries_are_not():
    attack, traced = build(f"{QUICK},target=1,epsilon=0.02,ascent_step=0.01")
    net = linear(jnp.full((8, 8, 1), 0.05))
    assets = attack.prepare(root(0), net, data(), traced)
    image = data().image[1] / 255
    stamped, query = (one(assets, {}, image, jnp.int32(1)) for one in (attack.stamp, attack.query))
    np.testing.assert_array_equal(stamped[5:, 5:], assets["pattern"])
    np.testing.assert_array_equal(query[5:, 5:], assets["pattern"])
    np.testing.assert_allclose(query[0, 0], 100 / 255, rtol=1e-6)
    np.testing.assert_allclose(stamped[0, 0], 95 / 255, rtol=1e-6)  # against the label: 0.02 is 5.1 levels down
    np.testing.assert_allclose(assets["pattern"], 0.5 + 3 / 255, rtol=1e-6)  # for the target


def test_benchmark_adds_whole_levels_and_wraps():
    attack, _ = build("preset=benchmark", (1, 3, 1))
    pattern = jnp.array([[[10.0], [-10.0], [3.7]]]) / 255
    result = attack.stamp({"pattern": pattern}, {}, jnp.array([[[250.0], [5.0], [100.0]]]) / 255, 0) * 255
    np.testing.assert_allclose(result[0, :, 0], [4, 251, 103], atol=1e-4)


def test_only_rows_of_the_target_are_poisoned_and_keep_their_label():
    attack, traced = build("target=1")
    poison = attack.init(root(0), (), traced, data().label, jnp.zeros(6), jnp.int32(3))
    np.testing.assert_array_equal(poison.role == POISONED, data().label == 1)
    np.testing.assert_array_equal(poison.label, data().label)


def test_what_cannot_be_is_refused():
    with pytest.raises(InvalidInput, match="size 9 exceeds 8x8 pixels; choose at most 8"):
        build("size=9")
    attack, traced = build(QUICK)
    one_class = data().replace(label=jnp.zeros(6, jnp.int32))
    with pytest.raises(InvalidInput, match="target 0 has 6 of 6 rows"):
        attack.prepare(root(0), linear(jnp.ones((8, 8, 1))), one_class, traced)
    attack, traced = build(f"{QUICK},pattern=perturbation,target=1,passes=1")
    with pytest.raises(InvalidInput, match="no image came to be taken for class 1"):
        attack.prepare(root(0), linear(jnp.zeros((8, 8, 1))), data(), traced)
