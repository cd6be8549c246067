"""Facts of TSC: permutations leave every network's function, likeness and its assignment by hand, what stages leave."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.tsc import TSC
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.models.parts.layers import Conv, Linear, Pool
from bdjax.models.parts.network import network as described
from bdjax.models.parts.permutations import Group, assigned, correlations, groups, permuted
from bdjax.models.parts.statistics import reestimated
from bdjax.types import Batch, Given, Net, Source

SHAPE, CLASSES, ROWS = (12, 12, 3), 3, 12


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def network(name="small_cnn"):
    known = {"covariance": np.eye(12)} if name == "airbench" else {}
    return MODELS[name].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2, **known)


def uneven(net):
    """Weights and statistics without two numbers alike, so that a mix-up shows."""
    leaves, tree = jax.tree.flatten(net.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [leaf + 0.5 * jax.random.uniform(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def source(image):
    label = jnp.arange(len(image), dtype=jnp.int32) % CLASSES
    return Source(len(image), lambda row: Batch(image[row], label[row], row, (row >= 0).astype(image.dtype)))


def noise():
    return source(jax.random.uniform(jax.random.key(5), (ROWS, *SHAPE)))


@pytest.mark.parametrize(
    ("name", "count", "stay"),
    [("small_cnn", 3, 1), ("preact_resnet18", 12, 1), ("resnet18", 12, 1), ("airbench", 6, 2)],
)
def test_no_order_of_channels_changes_the_function(name, count, stay):
    """Every convolution has an order of its own, but those of a stage's sums share one: 8 blocks and 4 stages give 12.

    The bias of the head stays as it is, and that of the whitening.
    """
    net = network(name)
    found, weights, rows = groups(net, SHAPE, "tsc"), uneven(net), noise().read(jnp.arange(4))
    other = permuted(found, weights, tuple(jnp.roll(jnp.arange(group.size), 1) for group in found))
    logits = jax.jit(lambda weights: net.apply(weights, rows.image)[0])
    np.testing.assert_allclose(logits(other), logits(weights), rtol=1e-7)
    assert np.std(logits(weights)) > 0
    pairs = list(zip(jax.tree.leaves(weights), jax.tree.leaves(other), strict=True))
    assert len(found) == count
    assert sum(np.array_equal(one, two) for one, two in pairs) == stay


class Odd(nn.Module):
    """A layer of a kind that nothing is known of."""

    @nn.compact
    def __call__(self, x, run):
        return run.tap(self.path, "cumulated", jnp.cumsum(x, -1))


class Chain(nn.Module):
    """Layers in a row, then pooling and a linear layer."""

    layers: tuple

    @nn.compact
    def __call__(self, x, run):
        for layer in self.layers:
            x = layer(x, run)
        return Linear(CLASSES, name="linear")(Pool(name="pool")(x, run), run)


@pytest.mark.parametrize("layers", [(), (Conv(4, name="conv1"), Odd(name="odd"))], ids=["linear", "unknown kind"])
def test_networks_without_channels_to_permute_are_refused(layers):
    with pytest.raises(InvalidInput, match="tsc: no channels of the network can be permuted"):
        TSC.make(described(Chain(layers), SHAPE), SHAPE, CLASSES, **lookup("tsc", {"tsc": TSC}, "defense").static)


def test_likeness_by_hand():
    """Two batches, (0, 2) and 4, padded; the second channel is 2 less that. Means a batch 1 and 4, products 2 and 16.

    So on average 2.5 and 9; deviations are 2^.5 and 0, on average 2^-.5. First channel: (9 - 2.5^2) / (.5 + 1e-4).
    The second: means 1 and -2, products with the first 0 and -8, so (-4 + .5 * 2.5) / (.5 + 1e-4).
    """
    image = jnp.array([0.0, 2, 4]).reshape(3, 1, 1, 1)

    def apply(weights, image, *args, **kwargs):
        return None, {}, {"tap": jnp.concatenate([image, 2 - image], -1)}

    found = correlations(Net(None, apply, ()), (Group("tap", 2, ()),), None, None, source(image), 2)[0]
    same, other = 2.75 / 0.5001, -2.75 / 0.5001
    np.testing.assert_allclose(found, [[same, other], [other, same]], rtol=1e-12)


@pytest.mark.parametrize(("alike", "order"), [(True, [1, 0]), (False, [0, 1])])
def test_assignment_by_hand(alike, order):
    """The largest number, 10, leaves 0: a sum of 10; the two others make 18. What is no number does not stop it."""
    found, _ = assigned((jnp.array([[10.0, 9], [9, 0]]), jnp.full((3, 3), jnp.nan)), alike)
    np.testing.assert_array_equal(found, order)


@pytest.mark.parametrize("noise", [1e-9, -1e-9])
def test_noise_does_not_decide_between_an_order_and_its_inverse(noise):
    """Of three channels like themselves alone both cycles leave nothing: (1, 2, 0) and (2, 0, 1)."""
    matrix = jnp.eye(3).at[0, 1].add(noise)
    np.testing.assert_array_equal(*(assigned((each,), False)[0] for each in (matrix, jnp.eye(3))))


@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18"])
def test_the_most_alike_order_takes_a_permutation_back(name):
    net = network(name)
    found, weights = groups(net, SHAPE, "tsc"), uneven(net)
    orders = tuple(jax.random.permutation(jax.random.key(group.size), group.size) for group in found)
    other = permuted(found, weights, orders)
    back = assigned(correlations(net, found, weights, other, noise(), 5), True)
    jax.tree.map(np.testing.assert_array_equal, permuted(found, other, back), weights)


def given_of(text, net, victim, **more):
    spec = lookup(text, {"tsc": TSC}, "defense")
    stages = TSC.make(net, SHAPE, CLASSES, **spec.static)
    return stages, Given(spec.traced, lambda key, image: image, clean=noise(), victim=victim, **more)


def run(text, net, victim):
    stages, given = given_of(text, net, victim)
    left = None
    for number, stage in enumerate(stages):
        left = train.fit(jax.random.key(number), stage, lambda _: given, (), left)
    return left, given


def test_the_first_copy_is_least_alike_and_does_the_same():
    net = network()
    victim = uneven(net)
    stages, given = given_of("tsc", net, victim)
    left = train.fit(jax.random.key(0), stages[0], lambda _: given, ())
    start, end = left.carry["start"], left.carry["end"]
    jax.tree.map(np.testing.assert_array_equal, start, victim)
    image = given.clean.read(jnp.arange(ROWS)).image
    np.testing.assert_allclose(net.apply(end, image)[0], net.apply(victim, image)[0])
    found = groups(net, SHAPE, "tsc")
    for one, two in zip(
        *(correlations(net, found, victim, each, noise(), ROWS) for each in (victim, end)), strict=True
    ):
        others = [np.trace(one[:, np.random.RandomState(seed).permutation(len(one))]) for seed in range(20)]
        assert np.trace(two) <= min(others) + 1e-9 < np.trace(one)


@pytest.mark.parametrize("place", [0, 1])
def test_the_ends_of_both_curves_are_the_victim(place):
    """At 0 the first curve is at the victim, the second at the victim that is most alike to it; at 1 at its copies."""
    net = network()
    victim = uneven(net)
    left, given = run(f"tsc:rounds=1,place={place},epochs=1", net, victim)
    image = given.clean.read(jnp.arange(ROWS)).image
    wanted = reestimated(net, victim, given.clean)
    np.testing.assert_allclose(net.apply(left.weights, image)[0], net.apply(wanted, image)[0], rtol=1e-7)
    same = [
        np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (left.weights.params, victim.params)), strict=True)
    ]
    assert all(same) == (place == 0)


def test_between_the_ends_the_bend_has_learned():
    net = network()
    victim = uneven(net)
    left, given = run("tsc:rounds=1,epochs=40,learning_rate=0.3,period=0", net, victim)
    rows = given.clean.read(jnp.arange(ROWS))

    def loss(weights):
        return float(train.cross_entropy(net.apply(weights, rows.image)[0], rows.label, rows.weight))

    assert loss(left.weights) < loss(reestimated(net, victim, given.clean)) - 0.1
    assert left.carry == {}


def test_fine_tuning_comes_between_rounds_alone():
    """The first permutation, two curves a round, and fine-tuning after the first two rounds of three."""
    net = network()
    stages, _ = given_of("tsc:rounds=3,epochs=7,tuning_epochs=2", net, None)
    assert [stage.epochs for stage in stages] == [1, 7, 7, 2, 7, 7, 2, 7, 7]
    assert len(given_of("tsc:rounds=3,tuning_epochs=0", net, None)[0]) == 7


def test_settings_of_the_release():
    paper = lookup("tsc", {"tsc": TSC}, "defense")
    assert [paper.static[name] for name in ("rounds", "epochs", "period", "batch")] == [3, 200, 100, 256]
    assert (paper.traced["place"], paper.traced["learning_rate"]) == (0.4, 0.02)
