"""Facts of BTI-DBF: the losses of its stages on two features by hand, what stages hand on, and the generator."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.bti_dbf import BTI_DBF, unlearned
from bdjax.defenses.parts.inversion import (
    Inverter,
    bounded,
    decoupling,
    detected,
    inverter,
    moments,
    restoring,
    reversing,
)
from bdjax.defenses.parts.inversion_stages import mixed
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.models.auxiliary.unet import Generator, InstanceNorm, Up, depth, unet
from bdjax.models.parts.layers import Pass
from bdjax.types import Batch, Data, Given, Net, Source, Weights

LOG3 = np.log(3)
PIXELS = {"mean": jnp.zeros(2), "deviation": jnp.ones(2)}


def _apply(weights, image, train=False, weight=None, edit={}):  # noqa: B006, as Net says
    """Two pixels are two features, and these the logits; a pass in training mode is counted."""
    features = edit.get("features", lambda x: x)(image[:, 0, 0] * weights.params["scale"])
    return features, {"passes": weights.batch_stats["passes"] + train}, {"features": features}


FOUND = Inverter(Net(None, _apply, ()), "features", (2,), Generator(None, lambda shift, image: image + shift))
"""A network of two features, and a generator that shifts its images."""

VICTIM = Weights({"scale": jnp.ones(2)}, {"passes": jnp.zeros(())})


def rows(*pixels, label=0, weight=None) -> Batch:
    image = jnp.asarray(pixels, float)[:, None, None]
    count = len(pixels)
    weight = jnp.ones(count) if weight is None else jnp.asarray(weight, float)
    return Batch(image, jnp.full(count, label, jnp.int32), jnp.arange(count, dtype=jnp.int32), weight)


def test_mask_is_half_at_first_and_stays_between_0_and_1():
    np.testing.assert_allclose(bounded(jnp.array([0.0, 50.0, -50.0])), [0.5, 1, 0], atol=1e-7)
    np.testing.assert_allclose(jax.grad(bounded)(0.0), 0.5, rtol=1e-6)


def test_mask_learns_what_the_label_depends_on():
    """Features (log 3, 0), label 0, mask 1/2: both terms fall together, at 1/2 log 3 (1 - p), p = 1 / (1 + 3^-1/2)."""
    still, given = {"weights": VICTIM, "statistics": VICTIM.batch_stats}, Given({}, None)
    slope = jax.grad(decoupling(FOUND, True), argnums=1, has_aux=True)
    found, (after, info) = slope(None, jnp.zeros(2), still, rows((LOG3, 0)), given)
    away = 1 - 1 / (1 + 3**-0.5)
    # More of the mask lowers the loss inside and raises that outside; half of it by the mask's own slope.
    np.testing.assert_allclose(found, [-2 * LOG3 * away / 2, 0], rtol=1e-5)
    np.testing.assert_allclose([info["inside"], info["outside"]], -np.log(1 - away), rtol=1e-5)
    assert after["statistics"]["passes"] == 1
    _, (after, _) = decoupling(FOUND, False)(None, jnp.zeros(2), still, rows((LOG3, 0)), given)
    assert after["statistics"]["passes"] == 0


def generator_loss(settings, number=0, deviation=1.0, target=0):
    """Shifts (0.4, 0.2) of standardised pixels under the mask (1, 0)."""
    settings = {"image_bound": 0.3, "feature_bound": 3.0, "benign_weight": 0.01} | settings
    pixels = {"mean": jnp.zeros(2), "deviation": jnp.full(2, deviation)}
    carry = {"statistics": {"passes": jnp.zeros(())}, "mask": jnp.array([1.0, 0.0]), "pixels": pixels}
    carry |= {"target": jnp.int32(target), "round": jnp.int32(number)}
    given = Given(settings, None, carry=carry)
    return reversing(FOUND)(None, jnp.array([0.4, 0.2]), {"weights": VICTIM}, rows((0, 0)), given)[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.01 * 0.08 - 0.02),  # 0.4^2 / 2 inside the mask, 0.2^2 / 2 outside
        ({"image_bound": 0.11}, 0.01 * 0.08 - 0.02),
        ({"image_bound": 0.09}, 0.1),  # (0.4^2 + 0.2^2) / 2
        ({"feature_bound": 0.07}, 0.1),
        ({"feature_bound": 0.09}, 0.01 * 0.08 - 0.02),
        ({"benign_weight": 1.0}, 0.06),
    ],
)
def test_generator_reduces_the_change_once_it_is_too_large(settings, expected):
    np.testing.assert_allclose(generator_loss(settings), expected, rtol=1e-5)


def test_change_is_measured_in_standardised_pixels_and_features_in_their_own():
    np.testing.assert_allclose(generator_loss({"image_bound": 0.09}, deviation=0.5), 0.1, rtol=1e-5)
    np.testing.assert_allclose(generator_loss({}, deviation=0.5), (0.01 * 0.08 - 0.02) / 4, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"image_bound": 0.0}])
def test_generator_wants_the_target_after_round_0_in_either_case(settings):
    for target, gap in ((0, 0.2), (1, -0.2)):
        added = generator_loss(settings, 1, target=target) - generator_loss(settings, 0, target=target)
        np.testing.assert_allclose(added, np.log1p(np.exp(-gap)), rtol=1e-5)


def test_pretraining_by_hand():
    """Logits (log 3, 0) are the chances (3/4, 1/4); swapped, those are taken for logits and the guess for the label."""
    still, image = {"weights": VICTIM, "pixels": PIXELS}, rows((LOG3, 0))

    def value(agreement, shift):
        return restoring(FOUND, agreement)(None, jnp.array([0.0, shift]), still, image, Given({}, None))[0]

    np.testing.assert_allclose(value("prediction", 0.0), np.log(4) - 0.75 * LOG3, rtol=1e-5)
    np.testing.assert_allclose(value("swapped", 0.0), np.log1p(np.exp(-0.5)) + 0.25 * 0.5, rtol=1e-5)
    # Shifted to logits (log 3, log 3); the features' and the pixels' change is log(3)^2 / 2, which is above 0.1.
    moved = LOG3**2 / 2
    np.testing.assert_allclose(value("prediction", LOG3), np.log(2) + moved + 100 * moved, rtol=1e-5)
    np.testing.assert_allclose(value("swapped", LOG3), np.log1p(np.exp(-0.5)) + 0.5 * 0.5 + 101 * moved, rtol=1e-5)
    gap = 0.4
    small = np.log(3 + np.exp(gap)) - 0.75 * LOG3 - 0.25 * gap + 1.01 * gap**2 / 2
    np.testing.assert_allclose(value("prediction", gap), small, rtol=1e-5)


def test_unlearning_by_hand():
    """Clean features (0, 0), mixed (0.4, 0): cross-entropy of the mixed, and 0.4^2 / 2; both passes are counted."""
    given, one = Given({}, None), rows((1, 0))
    gradients, batch_stats, info = unlearned(FOUND)(VICTIM, one.image * 1.4, one, given)
    np.testing.assert_allclose(info["features"], 0.08, rtol=1e-5)
    np.testing.assert_allclose(info["loss"], np.log1p(np.exp(-1.4)), rtol=1e-5)
    # Features are s and 1.4 s at s = 1: (0.4 s)^2 / 2 rises by 0.16, cross-entropy falls by 1.4 (1 - p).
    np.testing.assert_allclose(gradients["scale"], [0.16 - 1.4 / (1 + np.exp(1.4)), 0], rtol=1e-5, atol=1e-7)
    assert batch_stats["passes"] == 2


@pytest.mark.parametrize(("share", "rest", "expected"), [(0.0, 0, 1), (0.2, 0, 3), (0.2, 2, 2), (1.0, 0, 10)])
def test_one_row_more_than_the_share_is_replaced(share, rest, expected):
    weight = jnp.arange(10) < 10 - rest
    found = mixed(jnp.ones((10, 1, 1, 1)), jnp.zeros((10, 1, 1, 1)), weight.astype(float), jnp.array(share))
    np.testing.assert_array_equal(found[:, 0, 0, 0], np.arange(10) < expected)


def test_target_is_what_most_generated_images_are_given():
    pixels = np.array([[0, 9], [0, 9], [9, 0], [9, 0], [9, 0]], float)
    source = Source(5, lambda row: rows(*pixels).replace(weight=(row >= 0).astype(float), row=row))
    given = Given({}, lambda key, image: image, clean=source)
    for shift, expected in (((0.0, 0.0), 0), ((0.0, 18.0), 1)):
        found = detected(jax.random.key(0), FOUND, VICTIM, jnp.array(shift), PIXELS, given)
        assert found == expected and found.dtype == jnp.int32


def test_moments_of_pixels_leave_padding_out():
    image = np.zeros((300, 2, 1, 2), np.uint8)
    image[:150, :, :, 0], image[:, 0, :, 1] = 255, 51
    found = moments(sources.split(Data(jnp.asarray(image), jnp.zeros(300, jnp.int32))))
    np.testing.assert_allclose(found["mean"], [0.5, 0.1], rtol=1e-5)
    np.testing.assert_allclose(found["deviation"], [0.5, 0.1], rtol=1e-4)
    flat = moments(sources.split(Data(jnp.zeros((3, 2, 2, 1), jnp.uint8), jnp.zeros(3, jnp.int32))))
    np.testing.assert_allclose(flat["deviation"], 1 / 255, rtol=1e-5)


def network(name="small_cnn", **static):
    return MODELS[name].make((8, 8, 3), 3, (0.5,) * 3, (0.25,) * 3, **static)


@pytest.mark.parametrize(
    ("name", "tap"), [("resnet18", "layer4_1.relu2"), ("preact_resnet18", "layer4_1.add"), ("small_cnn", "relu3")]
)
def test_masked_are_the_features_that_are_pooled(name, tap):
    net = network(name, width=1)
    assert inverter(net, (8, 8, 3), "", 1, 1).tap == tap


def test_features_and_head_are_the_two_halves_of_a_network():
    net = network(width=1)
    found = inverter(net, (8, 8, 3), "", 1, 1)
    weights, image = net.init(jax.random.key(0)), jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    features, logits, _ = found.features(weights, image)
    assert features.shape == (2, *found.size)
    np.testing.assert_allclose(found.head(weights, image, features), logits, rtol=1e-6)
    np.testing.assert_allclose(found.head(weights, image, 0 * features)[0], weights.params["linear"]["bias"], rtol=1e-6)


def test_unknown_layer_is_named():
    with pytest.raises(InvalidInput, match="no layer 'relu9'"):
        inverter(network(), (8, 8, 3), "relu9", 1, 1)


def test_stages_hand_on_what_the_next_needs():
    net = network(width=1)
    spec = lookup("bti_dbf:rounds=2,width=1,blocks=0,batch=4", {"bti_dbf": BTI_DBF}, "defense")
    stages = BTI_DBF.make(net, (8, 8, 3), 3, **spec.static)
    data = Data(jnp.zeros((6, 8, 8, 3), jnp.uint8), jnp.zeros(6, jnp.int32))
    operands = data, net.init(jax.random.key(0))

    def given(operands):
        return Given(spec.traced, lambda key, image: image, clean=sources.split(operands[0]), victim=operands[1])

    assert [stage.epochs for stage in stages] == [50, *(20, 30, 30) * 2]

    carries, left = [], None
    for stage in stages:
        left = jax.eval_shape(partial(train.fit, jax.random.key(0), stage, given, operands), left)
        carries.append(set(left.carry))
    made = {"pixels", "generator", "adam", "optimizer", "target", "round"}
    again = [made | {"mask", "statistics"}, made, made]
    assert carries == [made, *again, *again[:2], {"target"}]
    # The rounds are one and the same program but for what is left at the end.
    assert stages[1:3] == stages[4:6] and stages[3].step is stages[6].step


@pytest.mark.parametrize(
    ("sides", "most", "expected"),
    [((32, 32), 4, 4), ((16, 16), 4, 3), ((28, 28), 4, 2), ((8, 6), 4, 1), ((5, 5), 0, 0)],
)
def test_generator_halves_as_often_as_it_can(sides, most, expected):
    assert depth((*sides, 3), most) == expected


def test_generator_of_odd_images_is_refused():
    with pytest.raises(InvalidInput, match="15x16"):
        unet((15, 16, 3))


def test_generator_gives_images_of_its_own_size_and_as_many_weights_as_the_authors():
    made = unet((8, 12, 2), 2, 1)
    params = made.init(jax.random.key(0))
    assert made.apply(params, jnp.ones((3, 8, 12, 2))).shape == (3, 8, 12, 2)
    # Theirs, less the biases of 18 normalised convolutions: twice 32, 64, 128, 256 down and up, and 512.
    wide = jax.eval_shape(unet((32, 32, 3)).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(wide)) == 10_984_067
    assert float(jnp.abs(params["down0"]["conv1"]["kernel"]).max()) <= 18**-0.5


def test_rise_is_a_transposed_convolution():
    """Each pixel adds the kernel at twice its place, turned by 180 degrees; what falls off the border is lost."""
    kernel = np.random.default_rng(0).normal(size=(3, 3))
    image = np.array([[1.0, -2.0], [0.5, 3.0]])
    expected = np.full((6, 6), 0.25)
    for row in range(2):
        for column in range(2):
            expected[2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += image[row, column] * kernel[::-1, ::-1]
    expected = expected[1:5, 1:5]
    params = {"conv": {"conv": {"kernel": jnp.asarray(kernel)[:, :, None, None]}, "bias": jnp.array([0.25])}}
    found = Up().apply({"params": params}, jnp.asarray(image)[None, :, :, None], Pass())[0, :, :, 0]
    np.testing.assert_allclose(found, np.where(expected > 0, expected, 0.01 * expected), rtol=1e-5)


def test_images_are_normalised_each_by_itself():
    image = jax.random.normal(jax.random.key(0), (2, 4, 4, 3)) * jnp.array([1.0, 5.0])[:, None, None, None]
    params = {"scale": jnp.array([1.0, 2.0, 3.0]), "bias": jnp.array([0.0, 1.0, 2.0])}
    found = InstanceNorm().apply({"params": params}, image)
    np.testing.assert_allclose(found.mean((1, 2)), [[0, 1, 2]] * 2, atol=1e-5)
    np.testing.assert_allclose(found.std((1, 2)), [[1, 2, 3]] * 2, rtol=1e-3)
    alone = InstanceNorm().apply({"params": params}, image[:1])
    np.testing.assert_allclose(found[:1], alone, rtol=1e-6)


def test_presets_differ_in_what_the_card_says():
    spec = {
        preset: lookup(f"bti_dbf:preset={preset}", {"bti_dbf": BTI_DBF}, "defense") for preset in ("paper", "released")
    }
    assert spec["paper"].static["agreement"] == "prediction" and spec["released"].static["agreement"] == "swapped"
    assert spec["paper"].traced == spec["released"].traced
