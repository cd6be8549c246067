"""Facts of REFINE: derangements, both losses by hand, the U-Net's interpolation, the wrapped network, the schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.refine import (
    OWN,
    REFINE,
    binary_cross_entropy,
    derangement,
    falling,
    joined,
    reprogrammed,
    together,
)
from bdjax.models import MODELS
from bdjax.models.auxiliary.bilinear_unet import bilinear_unet, doubled, fitted
from bdjax.types import Data, Given, Weights

SHAPE, CLASSES = (8, 8, 3), 3


def network(name="small_cnn", **static):
    return tiny.network(name, SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, **static)


@pytest.fixture(scope="module")
def net():
    return network(width=2)


@pytest.fixture(scope="module")
def data():
    label = np.arange(20, dtype=np.int32) % CLASSES
    return Data(jnp.asarray(np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)), jnp.asarray(label))


@pytest.fixture(scope="module")
def victim(net):
    return net.init(jax.random.key(1))


def test_derangements_of_three_classes_are_the_two_cycles():
    """Of the six orders of 0, 1, 2 only 1, 2, 0 and 2, 0, 1 leave none in its place; each has 1/2: 150 of 300 +- 35."""
    found = jax.vmap(lambda key: derangement(key, 3))(jax.random.split(jax.random.key(0), 300))
    orders, counts = np.unique(found, axis=0, return_counts=True)
    np.testing.assert_array_equal(orders, [[1, 2, 0], [2, 0, 1]])
    assert abs(counts[0] - 150) < 35


def test_no_class_of_ten_keeps_its_place():
    found = jax.vmap(lambda key: derangement(key, 10))(jax.random.split(jax.random.key(0), 50))
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(10), (50, 1)))
    assert not (np.asarray(found) == np.arange(10)).any()


def test_binary_cross_entropy_by_hand():
    """Probabilities .5, .3, .2, true class 1: -(log .3 + log .5 + log .8) / 3; the padded row counts for nothing."""
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    found = binary_cross_entropy(logits, jnp.array([1, 0]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(found, -np.log(0.3 * 0.5 * 0.8) / 3, rtol=1e-6)


def test_binary_cross_entropy_of_a_sure_mistake_is_finite_and_moves():
    """Logits 200 and 0, true class 1: both classes have 200, and the slopes are 1 and -1, for p rounds to 1 and 0."""

    def loss(logits):
        return binary_cross_entropy(logits, jnp.array([1]), jnp.ones(1))

    value, slope = jax.value_and_grad(loss)(jnp.array([[200.0, 0.0]]))
    np.testing.assert_allclose(value, 200, rtol=1e-6)
    np.testing.assert_allclose(slope, [[1, -1]], atol=1e-6)


def test_contrast_of_images_by_hand():
    """At temperature 1, points (1, 0) and (0, 1) of two classes, each beside its copy.

    A row's similarity is 1 to its copy and 0 to the two others: -log(e / (e + 2)). Of one class all three are alike:
    log(e + 2) less the mean of 1, 0 and 0. Lengths do not count, nor does a padded row.
    """
    image = jnp.array([[2.0, 0.0], [0.0, 5.0], [7.0, 7.0]]).reshape(3, 1, 1, 2)
    weight = jnp.array([1.0, 1.0, 0.0])
    apart = together(image, jnp.array([0, 1, 0]), weight, 1.0)
    np.testing.assert_allclose(apart, np.log(np.e + 2) - 1, rtol=1e-6)
    np.testing.assert_allclose(together(image, jnp.zeros(3, int), weight, 1.0), np.log(np.e + 2) - 1 / 3, rtol=1e-6)


def test_contrast_of_a_black_image_has_a_slope():
    slope = jax.grad(lambda image: together(image, jnp.array([0, 0]), jnp.ones(2), 0.07))(jnp.zeros((2, 2, 2, 1)))
    assert np.isfinite(slope).all()


def test_interpolation_by_hand():
    """Three pixels 0, 3, 9 become six, 2/5 of a pixel apart; one pixel becomes four of its value."""
    row = jnp.array([0.0, 3.0, 9.0]).reshape(1, 1, 3, 1)
    found = doubled(row)
    np.testing.assert_allclose(found[0, 0, :, 0], [0, 1.2, 2.4, 4.2, 6.6, 9], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(doubled(jnp.full((1, 1, 1, 1), 5.0)), jnp.full((1, 2, 2, 1), 5.0))
    wider = fitted(found, jnp.zeros((1, 3, 7, 4)))
    assert wider.shape == (1, 3, 7, 1)
    assert float(wider[0, 2].sum()) == 0 == float(wider[0, 0, 6, 0])


def test_the_unet_is_that_of_the_authors():
    """Kernels of 3x3, width 64: blocks of 64, 128, 256, 512, 512 channels down and 256, 128, 64, 64 up."""
    shapes = jax.eval_shape(bilinear_unet((32, 32, 3)).init, jax.random.key(0)).params
    found = {
        name: [shapes[name][f"conv{one}"]["kernel"].shape[2:] for one in (1, 2)] for name in shapes if name != "output"
    }
    assert found == {
        "input": [(3, 64), (64, 64)],
        "down1": [(64, 128), (128, 128)],
        "down2": [(128, 256), (256, 256)],
        "down3": [(256, 512), (512, 512)],
        "down4": [(512, 512), (512, 512)],
        "up1": [(1024, 512), (512, 256)],
        "up2": [(512, 256), (256, 128)],
        "up3": [(256, 128), (128, 64)],
        "up4": [(128, 64), (64, 64)],
    }
    assert shapes["output"]["conv"]["kernel"].shape == (1, 1, 64, 3)


@pytest.mark.parametrize(("side", "blocks"), [(28, 4), (15, 3), (1, 0)])
def test_the_unet_fits_any_image(side, blocks):
    """A side of 28 is 28, 14, 7, 3, 1; one of 15 is 15, 7, 3, 1."""
    unet = bilinear_unet((side, side, 1), 2, 4)
    weights = jax.eval_shape(unet.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((2, side, side, 1), float)
    assert sum(name.startswith("down") for name in weights.params) == blocks
    assert jax.eval_shape(unet.apply, weights, image)[0].shape == (2, side, side, 1)


def test_the_network_reads_what_the_unet_gives_and_classes_are_renamed(net, victim):
    """A U-Net whose output is its bias makes every image gray of .25, 1 and 0 (from 3 and -2); order 2, 0, 1."""
    unet = bilinear_unet(SHAPE, 2, 2)
    own = unet.init(jax.random.key(3))
    output = {"conv": {"kernel": jnp.zeros((1, 1, 2, 3))}, "bias": jnp.array([0.25, 3.0, -2.0])}
    weights = joined(victim, Weights({**own.params, "output": output}, own.batch_stats), jnp.array([2, 0, 1]))
    found, statistics, taps = jax.jit(reprogrammed(net, unet, CLASSES).apply)(weights, jnp.ones((2, *SHAPE)))
    expected = net.apply(victim, jnp.tile(jnp.array([0.25, 1.0, 0.0]), (2, 8, 8, 1)))[0]
    np.testing.assert_allclose(found, expected[:, jnp.array([2, 0, 1])], rtol=1e-6)
    np.testing.assert_allclose(taps["linear"], expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, statistics, weights.batch_stats)


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].make.__module__.startswith("bdjax.")])
def test_any_network_can_be_wrapped(name):
    net = tiny.network(name, (16, 16, 3), CLASSES, (0.5,) * 3, (0.25,) * 3, width=1)
    wide = reprogrammed(net, bilinear_unet((16, 16, 3), 1, 1), CLASSES)
    weights = jax.eval_shape(wide.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((2, 16, 16, 3), float)
    logits, statistics, _ = jax.eval_shape(lambda *given: wide.apply(*given, train=True), weights, image)
    assert logits.shape == (2, CLASSES)
    assert jax.tree.structure(statistics) == jax.tree.structure(weights.batch_stats)


def keen(net, weights, image):
    """The weights with a head that tells images apart: a random one has one prediction for all."""
    feature = net.apply(weights, image)[2]["pool"]
    kernel = (feature[:CLASSES] - jnp.mean(feature, 0)).T
    kernel *= 4 / jnp.std(feature @ kernel)
    head = {"kernel": kernel, "bias": -jnp.mean(feature, 0) @ kernel}
    return weights.replace(params={**weights.params, "linear": head})


def test_the_unet_alone_learns_what_the_network_predicts(data):
    """All labels are 0, yet the defended network comes to agree with the frozen one, whose classes have other names."""
    net, image = network(width=4), data.image / 255
    victim = keen(net, net.init(jax.random.key(0)), image)
    spec = lookup("refine:width=4,halvings=1,batch=8,epochs=60,drop_last=false", {"refine": REFINE}, "defense")
    (stage,) = REFINE.make(net, SHAPE, CLASSES, **spec.static)

    def given(operands):
        clean, victim = operands
        return Given(spec.traced, lambda key, image: image, clean=sources.split(clean), victim=victim)

    blank = data.replace(label=jnp.zeros_like(data.label))
    weights = train.fit(jax.random.key(2), stage, given, (blank, victim), None).weights
    guess = jnp.argmax(net.apply(victim, image)[0], axis=1)
    found = jnp.argmax(jax.jit(stage.wrap(net).apply)(weights, image)[0], axis=1)
    assert len(np.unique(guess)) == CLASSES
    assert float(jnp.mean(found == guess)) >= 0.8
    assert not (np.asarray(weights.batch_stats[OWN]["order"]) == np.arange(CLASSES)).any()
    for mine, before in ((weights.params, victim.params), (weights.batch_stats, victim.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, {name: mine[name] for name in before}, before)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_rates_of_a_run(optimizer):
    """Under a slope of 1 a first step is the rate: .01, from epoch 100 on .008, from 130 on .0064; five steps each."""
    rule = falling(optimizer, 100, 130)
    settings = lookup("refine:weight_decay=0", {"refine": REFINE}, "defense").traced
    for epoch, rate in ((0, 0.01), (99, 0.01), (100, 0.008), (129, 0.008), (130, 0.0064), (149, 0.0064)):
        made = rule(Given(settings, None), train.Clock(jnp.int32(5 * epoch + 4), 5, 150))
        update, _ = made.update(jnp.ones(()), made.init(jnp.ones(())), jnp.ones(()))
        np.testing.assert_allclose(update, -rate, rtol=1e-5)


@pytest.mark.parametrize(("optimizer", "step"), [("sgd", 0.15), ("adam", 0.1)])
def test_weight_decay_is_part_of_the_slope(optimizer, step):
    """Slope 1, parameter 5, decay .1: SGD of rate .1 moves .1 (1 + .5); Adam's first step is the rate all the same."""
    text = "refine:learning_rate=0.1,weight_decay=0.1"
    made = falling(optimizer, 9, 9)(
        Given(lookup(text, {"refine": REFINE}, "defense").traced, None), train.Clock(jnp.int32(0), 1, 1)
    )
    update, _ = made.update(jnp.ones(()), made.init(jnp.ones(())), jnp.full((), 5.0))
    np.testing.assert_allclose(update, -step, rtol=1e-5)


def test_a_last_batch_is_trained_on_unless_it_is_dropped(net, data, victim):
    """Twenty rows in batches of 8 are three steps, the last of four rows, or two."""
    spec = lookup("refine:width=2,halvings=2,batch=8,epochs=1", {"refine": REFINE}, "defense")
    for drop, steps in ((True, 2), (False, 3)):
        (stage,) = REFINE.make(net, SHAPE, CLASSES, **spec.static | {"drop_last": drop})
        given = Given(spec.traced, None, clean=sources.split(data), victim=victim)
        state = stage.init(jax.random.key(0), given, None)
        assert stage.order(jax.random.key(0), state, 0, given).shape == (steps, 8)


def test_presets():
    """The release: SGD; BackdoorBox: Adam in batches of 128, every row, rates a tenth after each drop."""
    paper, benchmark = (
        lookup(f"refine:preset={name}", {"refine": REFINE}, "defense") for name in ("paper", "benchmark")
    )
    assert (paper.static["optimizer"], paper.static["batch"], paper.traced["drop"]) == ("sgd", 256, 0.8)
    assert (paper.static["first_drop"], paper.static["second_drop"], paper.static["epochs"]) == (100, 130, 150)
    assert (benchmark.static["optimizer"], benchmark.static["batch"], benchmark.traced["drop"]) == ("adam", 128, 0.1)
    assert (benchmark.static["drop_last"], benchmark.traced["weight_decay"]) == (False, 0)
