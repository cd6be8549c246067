"""Facts of IMS: the mask and its inverse, losses and perturbation by hand, when a stage ends, and what is left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.ims import (
    IMS,
    agree,
    disagree,
    factor,
    masked,
    outer,
    overlap,
    perturbation,
    waiting,
)
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.models.parts.taps import convolution_layers
from bdjax.types import Batch, Given, Layer, Net, Source, Weights

SHAPE, CLASSES = (8, 8, 3), 3


def network():
    return MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)


def rows(count=6):
    image = jax.random.uniform(jax.random.key(1), (count, *SHAPE))
    return Batch(image, jnp.arange(count) % CLASSES, jnp.arange(count), jnp.ones(count))


def learned(net, mask, selection):
    """The same mask and selection on every channel."""
    sizes = {layer.name: 2 << number for number, layer in enumerate(convolution_layers(net, "ims"))}
    return {
        "mask": {name: jnp.full(size, mask) for name, size in sizes.items()},
        "selection": {name: jnp.full(size, selection) for name, size in sizes.items()},
    }


def test_the_mask_is_a_gate_that_the_selection_opens():
    """m = .5 has gate .5, with s = .4: .5 + .4 * .5 = .7; m = 1 has gate 1 / (1 + e^-10), all that is left at s = 0."""
    found = factor(jnp.asarray([0.5, 1, 0, 0]), jnp.asarray([0.4, 0, 0, 1]), 20.0)
    np.testing.assert_allclose(found, [0.7, 1 / (1 + np.exp(-10)), 1 / (1 + np.exp(10)), 1], rtol=1e-5)


def test_the_inverse_takes_what_the_mask_keeps():
    """Unselected, mask and inverse add up to 1 in every channel."""
    net = network()
    victim, some = net.init(jax.random.key(0)), learned(net, 0.6, 0.0)
    one, other = (masked(convolution_layers(net, "ims"), victim, some, 20.0, inverse) for inverse in (False, True))
    for name in ("conv1", "conv3"):
        kernel = victim.params[name]["kernel"]
        np.testing.assert_allclose(one.params[name]["kernel"], kernel / (1 + np.exp(-2)), rtol=1e-5)
        np.testing.assert_allclose(one.params[name]["kernel"] + other.params[name]["kernel"], kernel, rtol=1e-5)
    for name in ("linear", "bn1"):
        jax.tree.map(np.testing.assert_array_equal, one.params[name], victim.params[name])


def test_folding_is_the_same_as_editing_what_convolutions_give():
    net, batch = network(), rows()
    victim = net.init(jax.random.key(0))
    draw = jax.random.split(jax.random.key(2), 3)
    some = learned(net, 0.0, 0.1)
    for key, name in zip(draw, some["mask"], strict=True):
        some["mask"][name] = jax.random.uniform(key, some["mask"][name].shape)
    edit = {
        name: lambda x, name=name: x * factor(some["mask"][name], some["selection"][name], 20.0)
        for name in some["mask"]
    }
    folded = net.apply(masked(convolution_layers(net, "ims"), victim, some, 20.0), batch.image)[0]
    np.testing.assert_allclose(folded, net.apply(victim, batch.image, edit=edit)[0], rtol=1e-4, atol=1e-6)


def test_losses_by_hand():
    """(.75, .25) and (.5, .5) meet with .5; (.75, .25) meets itself with .625; the second row is padding."""
    one = jnp.log(jnp.asarray([[3.0, 1], [1, 99]]))
    even, weight = jnp.zeros((2, 2)), jnp.asarray([1.0, 0])
    np.testing.assert_allclose(overlap(one, one)[0], 0.625, rtol=1e-6)
    np.testing.assert_allclose(agree(one, even, weight), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(disagree(one, one, weight), -np.log(0.375), rtol=1e-6)


def test_the_perturbation_descends_within_its_bound():
    net, batch = network(), rows()
    victim = net.init(jax.random.key(0))
    settings = lookup("ims:inner_rate=.1,bound=.25", {"ims": IMS}, "defense").traced
    delta = perturbation(net, victim, victim, batch, settings, 20)
    assert float(jnp.max(jnp.abs(delta))) == 0.25

    def cost(delta):
        before, after = (net.apply(victim, image)[0] for image in (batch.image, batch.image + delta))
        return agree(after, after, batch.weight) + disagree(after, before, batch.weight)

    assert cost(delta) < cost(0) - 1e-3


def test_the_first_step_of_the_perturbation_is_a_rate_long():
    """Adam's first step is the rate along the gradient's sign, and at 0 there is nothing to decay."""
    net, batch = network(), rows()
    victim, settings = net.init(jax.random.key(0)), lookup("ims", {"ims": IMS}, "defense").traced
    delta = np.abs(perturbation(net, victim, victim, batch, settings, 1))
    np.testing.assert_allclose(np.median(delta), 1e-3, rtol=1e-2)


def test_sparsity_is_a_mean_over_channels_and_does_not_pull_a_selection_of_one():
    """s = .75 everywhere: 10 * .25; at s = 1 its slope is 0, so that the gradient is that without sparsity."""
    net, batch = network(), rows()
    victim, settings = net.init(jax.random.key(0)), lookup("ims", {"ims": IMS}, "defense").traced

    def loss(some, sparse):
        return outer(net, convolution_layers(net, "ims"), victim, some, batch, None, settings, sparse)

    np.testing.assert_allclose(loss(learned(net, 0.5, 0.75), True)[1]["sparsity"], 2.5, rtol=1e-6)
    slopes = [jax.grad(lambda some, sparse=sparse: loss(some, sparse)[0])(learned(net, 1.0, 1.0)) for sparse in (0, 1)]
    jax.tree.map(np.testing.assert_array_equal, *slopes)


def test_a_gain_is_two_percent():
    """After 1: .981 is no gain, .979 is one, and then .97 is none again."""
    still, found = {"least": jnp.inf, "waited": jnp.int32(0)}, []
    for value in (1.0, 0.981, 0.979, 0.97, 0.97):
        still = waiting(still, jnp.float32(value), 0.98)
        found.append(int(still["waited"]))
    assert found == [0, 1, 0, 1, 2]


def run(text, stages=3):
    """What the first stages leave of a random victim."""
    net, batch = network(), rows()
    victim, spec = net.init(jax.random.key(0)), lookup(text, {"ims": IMS}, "defense")
    source = Source(6, lambda row: Batch(batch.image[row], batch.label[row], row, (row >= 0) * 1.0))
    given, left = Given(spec.traced, lambda key, image: image, clean=source, victim=victim), None
    for number, stage in enumerate(IMS.make(net, SHAPE, CLASSES, **spec.static)[:stages]):
        left = train.fit(jax.random.key(number), stage, lambda victim: given._replace(victim=victim), victim, left)
    return net, victim, left


def test_the_mask_is_carried_and_folded_into_the_kernels_alone():
    net, victim, left = run("ims:initial_rounds=3,rounds=3,batch=6,inner_steps=2,learning_rate=.2")
    wanted = masked(convolution_layers(net, "ims"), victim, left.carry, 20.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), left.weights, wanted)
    assert min(float(jnp.min(value)) for value in left.carry["selection"].values()) < 1
    assert all(bool(jnp.all((value >= 0) & (value <= 1))) for value in jax.tree.leaves(left.carry))


def test_a_stage_ends_when_patience_does():
    """No loss is a gain on 0 times the least: with patience 1 there are two steps, then no more."""

    def selection(rounds, patience):
        text = f"ims:initial_rounds={rounds},batch=6,gain=0,patience={patience}"
        return jnp.concatenate(list(run(text, stages=1)[2].carry["selection"].values()))

    two, three = selection(2, 99), selection(3, 99)
    np.testing.assert_allclose(selection(9, 1), two, rtol=1e-6)
    assert not np.allclose(three, two, rtol=1e-3)


def test_a_network_without_convolutions_is_refused():
    net = Net(lambda key: Weights({}, {}), None, (Layer("linear", "linear", ("linear",), "linear"),))
    with pytest.raises(InvalidInput, match="no convolution"):
        IMS.make(net, SHAPE, CLASSES, initial_rounds=1, rounds=1, batch=1, inner_steps=1, patience=1)


def test_presets():
    spec = lookup("ims", {"ims": IMS}, "defense")
    assert (spec.static["initial_rounds"], spec.static["rounds"], spec.static["patience"]) == (100, 200, 25)
    np.testing.assert_allclose([spec.traced[name] for name in ("learning_rate", "inner_rate")], [0.02, 0.001])
