"""Facts of bounded networks: which taps are bounded, what a bound does, and that it lives with the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax import train
from bdjax.cells.functions import wrapped
from bdjax.data import sources
from bdjax.defenses.parts.bounding import (
    OWN,
    activations,
    bounded,
    clip,
    stage_inputs,
    with_bounds,
)
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.types import Batch, Given, Source, Stage

SHAPE, CLASSES = (8, 8, 3), 3

PLACES = {
    "preact_resnet18": (16, ["layer1_0.relu1", "layer2_0.relu1", "layer3_0.relu1"]),
    "resnet18": (17, ["relu1", "layer1_1.relu2", "layer2_1.relu2"]),
    "preact_resnet34": (32, ["layer1_0.relu1", "layer2_0.relu1", "layer3_0.relu1"]),
    "resnet34": (33, ["relu1", "layer1_2.relu2", "layer2_3.relu2"]),
    "resnet50": (49, ["relu1", "layer1_2.relu3", "layer2_3.relu3"]),
    "vgg19_bn": (16, ["layer1_1.relu", "layer2_1.relu", "layer3_3.relu"]),
    "vgg19": (16, ["layer1_1.relu", "layer2_1.relu", "layer3_3.relu"]),
    "densenet161": (21, ["denseblock1_1.relu1", "transition1.relu", "denseblock2_1.relu1"]),
    "small_cnn": (3, ["relu1", "relu2"]),
    "airbench": (7, ["gelu", "group1.gelu2", "group2.gelu2"]),
}
"""How many activation functions a network has, and which feed the first three stages; in resnet18 as the authors do."""


def network(name="small_cnn", shape=SHAPE, **static):
    return tiny.network(name, shape, CLASSES, (0.5,) * 3, (0.25,) * 3, **static)


def image(count=4):
    return jax.random.uniform(jax.random.key(1), (count, *SHAPE))


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].make.__module__.startswith("bdjax.")])
def test_places_of_every_network(name):
    net = network(name, (16, 16, 3), width=1)
    count, feeding = PLACES[name]
    assert len(activations(net, "x")) == count
    assert stage_inputs(net, 3, "x") == feeding
    assert stage_inputs(net, 1, "x") == feeding[:1]


def test_a_network_without_activations_is_refused():
    net = network(width=2)
    bare = net._replace(layers=tuple(layer for layer in net.layers if layer.kind != "relu"))
    for find in (activations, lambda net, method: stage_inputs(net, 3, method)):
        with pytest.raises(InvalidInput, match=r"^mine: .*; choose another model$"):
            find(bare, "mine")


def test_what_is_above_its_bound_gives_its_slope_to_the_bound():
    """Of 1, 2 and 3 under a bound of 2 the first two pass, and so do their slopes; the bound has that of the third."""
    x = jnp.asarray([1.0, 2, 3])[:, None]
    np.testing.assert_array_equal(clip(x, jnp.asarray([2.0]))[:, 0], [1, 2, 2])
    of_x, of_bound = jax.grad(lambda x, bound: jnp.sum(clip(x, bound)), (0, 1))(x, jnp.asarray([2.0]))
    np.testing.assert_array_equal(of_x[:, 0], [1, 1, 0])
    np.testing.assert_array_equal(of_bound, [1])


@pytest.mark.parametrize("size", [(2,), (8, 8, 2)])
def test_new_bounds_change_nothing_and_tight_ones_cut(size):
    net = network(width=2)
    limited = bounded(net, {"relu1": size})
    weights = limited.init(jax.random.key(0))
    plain = net.init(jax.random.key(0))
    np.testing.assert_array_equal(limited.apply(weights, image())[0], net.apply(plain, image())[0])
    before = net.apply(plain, image())[2]["relu1"]
    bound = 0.4 * jnp.max(before) * jnp.ones(size)
    logits, _, seen = limited.apply(with_bounds(plain, {"relu1": bound}), image())
    np.testing.assert_array_equal(seen["relu1"], jnp.minimum(before, bound))
    # The rest of the network goes on with what was cut.
    wanted = net.apply(plain, image(), edit={"relu1": lambda x: jnp.minimum(x, bound)})[0]
    np.testing.assert_array_equal(logits, wanted)
    assert float(jnp.max(jnp.abs(logits - net.apply(plain, image())[0]))) > 1e-4


def test_an_edit_comes_after_the_bound():
    """Twice what is cut at .1 is .2."""
    net = network(width=2)
    weights = with_bounds(net.init(jax.random.key(0)), {"relu1": jnp.full(2, 0.1)})
    limited = bounded(net, {"relu1": (2,)})
    seen = limited.apply(weights, image(), edit={"relu1": lambda x: 2 * x})[2]
    np.testing.assert_allclose(jnp.max(seen["relu1"]), 0.2, rtol=1e-6)


def test_bounds_are_parameters_of_their_layers():
    net = network(width=2)
    limited = bounded(net, {"relu1": (2,), "relu3": (8,)})
    weights = limited.init(jax.random.key(0))
    (layer,) = [layer for layer in limited.layers if layer.name == "relu3"]
    assert weights.params[layer.path[0]][layer.path[1]].shape == (8,)
    assert [one.tap for one in limited.layers] == [one.tap for one in net.layers]
    assert wrapped(net, [Stage(*[None] * 6, wrap=lambda net: bounded(net, {"relu1": (2,)}))]).plain is net


def test_fine_tuning_moves_bounds_like_other_weights():
    net = network(width=2)
    weights = with_bounds(net.init(jax.random.key(0)), {"relu1": jnp.full(2, 0.1)})
    rows = Batch(image(), jnp.arange(4) % CLASSES, jnp.arange(4), jnp.ones(4))
    limited = bounded(net, {"relu1": (2,)})
    slope, batch_stats, _ = jax.jit(lambda weights: train.loss_gradient(limited, weights, rows.image, rows))(weights)
    assert float(jnp.max(jnp.abs(slope[OWN]["relu1"]))) > 1e-6
    assert float(jnp.max(jnp.abs(batch_stats["bn1"]["mean"] - weights.batch_stats["bn1"]["mean"]))) > 1e-6


def test_augmentation_is_drawn_once():
    source = Source(4, lambda row: Batch(image()[row], row, row, jnp.ones(len(row))))

    def shift(key, image):
        return image + jax.random.uniform(key)

    given = Given({}, shift)
    one, again = (sources.augmented_once(jax.random.key(0), source, given).read(jnp.arange(4)).image for _ in range(2))
    np.testing.assert_array_equal(one, again)
    other = sources.augmented_once(jax.random.key(1), source, given).read(jnp.arange(4)).image
    assert float(jnp.max(jnp.abs(one - other))) > 1e-3
    late = sources.augmented_once(jax.random.key(0), source, given).read(jnp.arange(2, 4)).image
    assert float(jnp.max(jnp.abs(one[2:] - late))) > 1e-3
