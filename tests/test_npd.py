"""Facts of NPD: the inserted layer, its place, the targeted perturbation and the two stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.npd import NPD, confusable, default_tap, perturbed, unlikely
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.models.auxiliary.polarizer import forward, inserted, polarized
from bdjax.types import Data, Given, Weights

SHAPE, CLASSES = (8, 8, 3), 3
SETTINGS = lookup("npd", {"npd": NPD}, "defense").traced


def network(name="small_cnn", shape=SHAPE, **static):
    return tiny.network(name, shape, CLASSES, (0.5,) * 3, (0.25,) * 3, **static)


@pytest.fixture(scope="module")
def net():
    return network(width=2)


@pytest.fixture(scope="module")
def data():
    label = np.arange(24, dtype=np.int32) % CLASSES
    image = np.random.default_rng(0).integers(0, 200, (24, *SHAPE), np.uint8)
    image[np.arange(24), label, :, :] += 50
    return Data(jnp.asarray(image), jnp.asarray(label))


@pytest.fixture(scope="module")
def victim(net):
    return net.init(jax.random.key(1))


def run(stages, data, victim, settings=SETTINGS):
    trained = None
    for number, stage in enumerate(stages):
        trained = train.fit(
            jax.random.key(number),
            stage,
            lambda operands: Given(
                settings, lambda key, image: image, clean=sources.split(operands[0]), victim=operands[1]
            ),
            (data, victim),
            trained,
        )
    return trained


def make(net, **static):
    spec = lookup("npd:tap=relu1", {"npd": NPD}, "defense")
    return NPD.make(net, SHAPE, CLASSES, **spec.static | static)


TAPS = {
    "preact_resnet18": "layer4_1.relu1",
    "resnet18": "layer4_0.relu2",
    "preact_resnet34": "layer4_2.relu1",
    "resnet34": "layer4_1.relu2",
    "resnet50": "layer4_1.relu3",
    "vgg19_bn": "layer5_2.relu",
    "vgg19": "layer5_2.relu",
    "densenet161": "denseblock4_2.relu1",
    "small_cnn": "relu2",
    "airbench": "group2.gelu2",
}
"""In preact_resnet18 the authors' place; in others what feeds the last block."""


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].make.__module__.startswith("bdjax.")])
def test_every_model_has_a_place_for_the_layer(name):
    assert default_tap(network(name, (16, 16, 3), width=1)) == TAPS[name]


def test_layer_changes_nothing_at_first(net, victim, data):
    image = sources.split(data).read(jnp.arange(8)).image
    wide = inserted(net, "relu1", 2)
    before, _, taps = net.apply(victim, image)
    after, _, _ = wide.apply(polarized(victim, 2), image)
    # Normalisation with mean 0 and variance 1 divides by sqrt(1 + 1e-5) and by nothing else.
    scaled = net.apply(victim, image, edit={"relu1": lambda x: x / np.sqrt(1 + 1e-5)})[0]
    np.testing.assert_allclose(after, scaled, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    assert taps["relu1"].shape == (8, 8, 8, 2)


def test_layers_taps_and_edits_of_the_wider_network(net, data):
    wide = inserted(net, "relu1", 2)
    names = [layer.name for layer in wide.layers]
    assert names[2:5] == ["relu1", "polarizer.conv", "polarizer.norm"]
    weights = wide.init(jax.random.key(0))
    image = sources.split(data).read(jnp.arange(4)).image
    logits, _, taps = wide.apply(weights, image)
    assert set(taps) == set(names)
    for layer in wide.layers:
        holder = weights.params
        for part in layer.path:
            holder = holder[part]
    # An edit before the layer passes through it; an edit of its own output comes after it.
    doubled = wide.apply(weights, image, edit={"relu1": lambda x: 2 * x})[2]
    np.testing.assert_allclose(doubled["polarizer.norm"], 2 * taps["polarizer.norm"], rtol=1e-5)
    silent, _, dead = wide.apply(weights, image, edit={"polarizer.norm": jnp.zeros_like})
    np.testing.assert_array_equal(dead["relu1"], taps["relu1"])
    np.testing.assert_allclose(silent - silent[:1], 0, atol=1e-6)
    assert float(jnp.abs(logits - logits[:1]).max()) > 1e-4


def test_learning_statistics_moves_those_of_the_layer_alone(net, victim, data):
    rows = sources.split(data).read(jnp.array([0, 1, 2, -1]))
    weights = polarized(victim, 2)
    _, statistics, taps = forward(net, "relu1", True, weights, rows.image, weight=rows.weight)
    for name in victim.batch_stats:
        jax.tree.map(np.testing.assert_array_equal, statistics[name], victim.batch_stats[name])
    values = np.asarray(taps["polarizer.conv"][:3]).reshape(-1, 2)
    norm = statistics["polarizer"]["norm"]
    np.testing.assert_allclose(norm["mean"], 0.1 * values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm["var"], 0.9 + 0.1 * values.var(0, ddof=1), rtol=1e-5)
    _, moved, _ = inserted(net, "relu1", 2).apply(weights, rows.image, train=True, weight=rows.weight)
    assert float(jnp.abs(moved["bn1"]["mean"] - victim.batch_stats["bn1"]["mean"]).max()) > 1e-6


def test_confusable_and_unlikely_by_hand():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]))
    np.testing.assert_array_equal(confusable(logits, jnp.array([0, 2])), [1, 0])
    found = unlikely(logits, jnp.array([1, 0]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(found, -np.log(0.8001), rtol=1e-5)


def _linear(image):
    """Class 0 likes bright images, class 1 dark ones; the first step moves every pixel by one amount."""
    total = jnp.sum(image - 0.5, axis=(1, 2, 3))
    return jnp.stack([total, -total], axis=1)


@pytest.mark.parametrize(("bright", "expected"), [((0.6, 0.6, 0.4), 0.05), ((0.6, 0.6, 0.6), 0.1)])
def test_perturbation_stops_with_the_batch(bright, expected):
    """A step takes 0.05 off each pixel; where a third of the batch has its target then, no second step follows."""
    image = jnp.full((3, 2, 2, 1), 0.0) + jnp.array(bright)[:, None, None, None]
    target = jnp.ones(3, jnp.int32)
    settings = {"inner_rate": 0.05, "radius": 10.0, "enough": 0.3}
    found = perturbed(_linear, image, target, jnp.ones(3), settings, 2, True)
    np.testing.assert_allclose(image - found, expected, atol=1e-6)


def test_perturbation_has_the_radius_at_most_and_stays_an_image():
    image = jnp.array([0.9, 0.02])[:, None, None, None] + jnp.zeros((2, 3, 3, 1))
    settings = {"inner_rate": 0.1, "radius": 0.15, "enough": 1.0}
    found = perturbed(_linear, image, jnp.ones(2, jnp.int32), jnp.ones(2), settings, 1, True)
    # One step of 0.1 on 9 pixels is 0.3 long, twice the radius; the second image is cut at black.
    np.testing.assert_allclose(found[0], 0.85, atol=1e-6)
    np.testing.assert_allclose(found[1], 0.0, atol=1e-6)


def test_only_the_layer_is_trained(net, victim, data):
    stages = make(net, epochs=2, warmup_epochs=1, batch=10)
    weights = run(stages, data, victim).weights
    rest = Weights(*({k: tree[k] for k in tree if k != "polarizer"} for tree in (weights.params, weights.batch_stats)))
    jax.tree.map(np.testing.assert_array_equal, rest, victim)
    fresh = polarized(victim, 2).params["polarizer"]
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), weights.params["polarizer"], fresh)
    assert min(jax.tree.leaves(moved)) > 1e-5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights))


def test_warmup_whitens_the_layer(net, victim, data):
    """With the rate at 0 the weights stay; moving statistics approach those of the activations by 0.1 a step."""
    warm = make(net, warmup_epochs=100, batch=24)[0]
    weights = run((warm,), data, victim, SETTINGS | {"warmup_rate": 0.0}).weights
    image = sources.split(data).read(jnp.arange(24)).image
    taps = forward(net, "relu1", False, weights, image)[2]
    np.testing.assert_allclose(jnp.mean(taps["polarizer.norm"], (0, 1, 2)), 0, atol=0.05)
    np.testing.assert_allclose(jnp.var(taps["polarizer.norm"], (0, 1, 2)), 1, atol=0.1)


def test_statistics_after_the_warmup(net, victim, data):
    def statistics(**static):
        return run(make(net, warmup_epochs=0, epochs=1, batch=24, **static), data, victim).weights.batch_stats[
            "polarizer"
        ]

    still, learnt = statistics(), statistics(learn_statistics=True)
    np.testing.assert_array_equal(still["norm"]["mean"], 0)
    assert float(jnp.abs(learnt["norm"]["mean"]).max()) > 1e-4


@pytest.mark.parametrize("warmup", [0, 1])
def test_stages_wrap_the_network_once(net, warmup):
    stages = make(net, warmup_epochs=warmup)
    wide = net
    for stage in stages:
        wide = stage.wrap(wide)
    assert len(stages) == warmup + 1
    assert [layer.name for layer in wide.layers].count("polarizer.conv") == 1


def test_unknown_tap_is_refused(net):
    with pytest.raises(InvalidInput, match=r"relu9.* choose one of bn1, .*, relu3$"):
        make(net, tap="relu9")


def test_a_network_without_a_place_is_refused(net):
    with pytest.raises(InvalidInput, match=r"no convolution .* give tap, one of pool, linear$"):
        default_tap(net._replace(layers=net.layers[-2:]))


def test_radius_as_it_is_and_scaled(net, victim, data):
    """At 8x8x3, 192 values, radius 4 scaled is 4 sqrt(192 / 3072) = 1, so that both give the same layer."""

    def layer(radius, **static):
        settings = SETTINGS | {"radius": radius, "learning_rate": 0.1}
        stages = make(net, warmup_epochs=0, epochs=1, batch=24, inner_steps=1, **static)
        return run(stages, data, victim, settings).weights.params["polarizer"]["conv"]["kernel"]

    plain = layer(1.0)
    np.testing.assert_allclose(layer(4.0, scale_radius=True), plain, atol=1e-7)
    assert float(jnp.abs(layer(0.5) - plain).max()) > 1e-6
