"""Facts of TSBD: neuron weight change, thresholds with ties, what is zeroed, the stop, and the blended gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.tsbd import (
    TSBD,
    blended,
    neuron_weight_change,
    ranked,
    reinitialisation,
    reinitialised,
    smallest_of_largest,
)
from bdjax.keys import stream
from bdjax.models import MODELS
from bdjax.types import Batch, Data, Given, Net, Weights

SHAPE, CLASSES = (2, 2, 1), 2


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def kernel(*channels):
    """A 1x1 kernel: a list of weights a channel -> (1, 1, in, out)."""
    return jnp.array(channels).T[None, None]


def test_neuron_weight_change_sums_over_all_but_the_channels_made():
    change = jnp.arange(24.0).reshape(2, 2, 3, 2)
    np.testing.assert_array_equal(neuron_weight_change(change), [132, 144])  # 0 + 2 + ... + 22 and 12 more


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, []), (0.19, []), (0.2, [1]), (0.4, [1, 0]), (0.79, [1, 0, 2]), (1.0, range(5))]
)
def test_ranking_takes_the_first_of_equals(share, expected):
    """Of 3, 5, 3, 1, 3 a share of 0.4 are two: the 5 and the first 3."""
    found = ranked(jnp.array([3.0, 5.0, 3.0, 1.0, 3.0]), share)
    np.testing.assert_array_equal(np.flatnonzero(found), sorted(expected))


def test_rounding_makes_ties():
    scores = jnp.array([0.00011, 0.00014, 0.00008])
    np.testing.assert_array_equal(ranked(scores, 0.34), [False, True, False])
    np.testing.assert_array_equal(ranked(scores, 0.34, decimals=4), [True, False, False])


@pytest.mark.parametrize(("count", "expected"), [(0, np.inf), (1, 7), (2, 4), (3, 4), (4, 2)])
def test_threshold_with_ties(count, expected):
    assert smallest_of_largest(jnp.array([4.0, 2.0, 7.0, 4.0, -1.0]), jnp.array(count)) == expected


BEFORE = [kernel([1.0, -2.0], [3.0, 4.0]), kernel([5.0, 6.0], [7.0, -8.0])]
AFTER = [kernel([1.5, -2.25], [3.1, 4.0]), kernel([3.0, 6.25], [7.0, -7.5])]
"""Changes by channel: (0.5, 0.25) 0.75, (0.1, 0) 0.1; (2, 0.25) 2.25, (0, 0.5) 0.5."""


@pytest.mark.parametrize(
    ("neurons", "weights", "zeroed"),
    [
        (0.25, 1.0, [[], [(0, 0), (1, 0)]]),  # channel 0 of the second kernel, both of its weights
        (0.5, 0.5, [[(0, 0)], [(0, 0)]]),  # 4 weights of two channels: 2, 0.5, 0.25, 0.25; the first two
        (0.5, 0.75, [[(0, 0), (1, 0)], [(0, 0), (1, 0)]]),  # three of them, and the tie of the third
        (0.75, 0.5, [[(0, 0)], [(0, 0), (1, 1)]]),  # 2, 0.5, 0.5 of six
        (1.0, 0.0, [[], []]),
        (0.0, 1.0, [[], []]),
    ],
)
def test_what_is_zeroed_by_hand(neurons, weights, zeroed):
    found = reinitialised(BEFORE, AFTER, {"neuron_share": neurons, "weight_share": weights})
    for before, after, places in zip(BEFORE, found, zeroed, strict=True):
        expected = np.array(before)
        for place in places:
            expected[0, 0][place] = 0
        np.testing.assert_array_equal(after, expected)


def test_diverged_unlearning_is_not_hidden():
    after = [AFTER[0].at[0, 0, 0, 0].set(jnp.nan), AFTER[1]]
    found = reinitialised(BEFORE, after, {"neuron_share": 0.5, "weight_share": 0.5})
    assert np.isnan(found[0]).any()


def test_convolutions_but_shortcuts_are_reinitialised():
    net = MODELS["preact_resnet18"].make((8, 8, 3), 3, (0.5,) * 3, (0.25,) * 3, width=1)
    one, two = (jax.jit(net.init)(jax.random.key(seed)) for seed in (0, 1))
    settings = {"neuron_share": 1.0, "weight_share": 1.0}
    found = jax.jit(lambda one, two: reinitialisation(net, one, two, settings, 0))(one, two)
    jax.tree.map(np.testing.assert_array_equal, found.batch_stats, one.batch_stats)
    kinds = {(*layer.path, leaf): layer for layer in net.layers for leaf in ("kernel", "scale", "bias")}
    seen = set()
    for (path, after), before in zip(jax.tree.leaves_with_path(found.params), jax.tree.leaves(one.params), strict=True):
        layer = kinds[tuple(entry.key for entry in path)]
        zero = layer.kind == "conv" and not layer.name.endswith("shortcut_0")
        seen.add((layer.kind, zero))
        np.testing.assert_array_equal(after, 0 if zero else before)
    assert ("conv", True) in seen and ("conv", False) in seen


def test_blended_gradient_on_a_quadratic(monkeypatch):
    """L = |a|^2 / 2 + b^2 at a = (3, 4), b = -2: g1 = (3, 4) and -4, of lengths 5 and 4, each tensor by its own.

    At ascent 0.5 the second is taken at a = (3.3, 4.4), b = -2.5 and is (3.3, 4.4) and -5; blended by 0.2.
    """

    def gradient(net, weights, image, batch):
        params = weights.params
        return {"a": params["a"], "b": 2 * params["b"]}, {"passes": jnp.array(9.0)}, {"at": params["b"]}

    monkeypatch.setattr(train, "loss_gradient", gradient)
    weights = Weights({"a": jnp.array([3.0, 4.0]), "b": jnp.array(-2.0)}, {"passes": jnp.array(1.0)})
    given = Given({"ascent": jnp.array(0.5), "blend": jnp.array(0.2)}, None)
    found, batch_stats, info = blended(None, weights, None, None, given)
    np.testing.assert_allclose(found["a"], [3.06, 4.08], rtol=1e-12)
    np.testing.assert_allclose(found["b"], -4.2, rtol=1e-12)
    # For one tensor of unit curvature that is the gradient of L + lambda |grad L| with lambda = 0.1.
    np.testing.assert_allclose(found["a"], jax.grad(lambda a: a @ a / 2 + 0.1 * jnp.sqrt(a @ a))(weights.params["a"]))
    assert float(batch_stats["passes"]) == 1 and float(info["at"]) == -2


def test_a_tensor_without_gradient_stays_a_number():
    def apply(weights, image, train=False, weight=None, edit=None):
        return weights.params["w"] + 0 * weights.params["idle"] * image[:, 0, 0], {}, {}

    rows = Batch(jnp.zeros((1, 1, 1, 1)), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), jnp.ones(1))
    weights = Weights({"w": jnp.array([[1.0, 2.0]]), "idle": jnp.ones((1, 1))}, {})
    given = Given({"ascent": jnp.array(np.sqrt(2.0)), "blend": jnp.array(1.0)}, None)
    found = blended(Net(None, apply, ()), weights, rows.image, rows, given)[0]
    # g1 = (-p, p), so w' = (1 - 1, 2 + 1) and g2 = (-p', p') with p' = 1 / (1 + exp(-3)).
    np.testing.assert_allclose(found["w"][0], np.array([-1, 1]) / (1 + np.exp(-3)), rtol=1e-9)
    np.testing.assert_array_equal(found["idle"], 0)


@pytest.fixture(scope="module")
def net():
    """A linear layer whose moving statistic follows the first logit's mean over the rows that count."""

    def apply(weights, image, train=False, weight=None):
        logits = image.reshape(len(image), -1) @ weights.params["kernel"]
        assert train or weight is None
        mean = jnp.sum(logits[:, 0] * weight) / jnp.sum(weight) if train else 0.0
        return logits, {"mean": 0.9 * weights.batch_stats["mean"] + 0.1 * mean}, {}

    return Net(None, apply, ())


@pytest.fixture(scope="module")
def victim():
    return Weights({"kernel": np.random.default_rng(1).normal(size=(4, CLASSES))}, {"mean": np.ones(())})


@pytest.fixture(scope="module")
def data():
    label = np.arange(10, dtype=np.int32) % CLASSES
    return Data(np.random.default_rng(0).integers(0, 256, (10, *SHAPE), np.uint8), label)


def stages(net, **static):
    spec = lookup("tsbd:batch=4", {"tsbd": TSBD}, "defense")
    return TSBD.make(net, SHAPE, CLASSES, **spec.static | static)


SETTINGS = lookup("tsbd:unlearning_rate=0.1,stop=0", {"tsbd": TSBD}, "defense").traced


def given(data, victim, **settings):
    def noisy(key, image):
        return image + 0.05 * jax.random.normal(key, image.shape)

    source = sources.split(jax.tree.map(jnp.asarray, data))
    return Given(SETTINGS | settings, noisy, clean=source, victim=victim)


def test_unlearning_climbs_stops_and_then_stays(net, data, victim):
    """Cells in a batch: the second one stops after its first pass, the first never, and each is as if alone."""
    stage, _ = stages(net)

    def passes(stop):
        door = given(data, victim, stop=stop)

        def epoch(state, key):
            rows = stage.source(door).read(stage.order(key, state, 0, door)[0])
            state, info = stage.step(key, state, rows, door)
            return state, (state, info)

        start = stage.init(jax.random.key(0), door, None)
        return jax.lax.scan(epoch, start, jax.random.split(jax.random.key(0), 3))[1]

    both = jax.jit(jax.vmap(passes))(jnp.array([0.0, 2.0]))
    (never, moving), (early, stopped) = (jax.tree.map(lambda leaf, cell=cell: leaf[cell], both) for cell in (0, 1))
    kernels = [*never.weights.params["kernel"], *early.weights.params["kernel"]]
    np.testing.assert_array_equal(moving["unlearning"], [1, 1, 1])
    np.testing.assert_array_equal(stopped["unlearning"], [1, 0, 0])
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf[1:], leaf[:1].repeat(2, 0)), early)
    np.testing.assert_array_equal(kernels[0], kernels[3])
    assert all(np.abs(kernels[i] - kernels[i + 1]).max() > 1e-3 for i in (0, 1))
    alone = jax.jit(passes)(jnp.array(2.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), alone, (early, stopped))

    rows = stage.source(given(data, victim)).read(jnp.arange(10))
    losses = [train.cross_entropy(rows.image.reshape(10, -1) @ kernel, rows.label, rows.weight) for kernel in kernels]
    assert all(np.diff([float(loss) for loss in losses[:3]]) > 0.01)
    np.testing.assert_allclose(
        never.accuracy[-1], np.mean(np.argmax(rows.image.reshape(10, -1) @ kernels[2], 1) == rows.label)
    )


def test_statistics_are_those_of_the_weights_after_the_step(net, data, victim):
    _, stage = stages(net, epochs=1)
    door = given(data, victim, learning_rate=1.0)
    state = stage.init(jax.random.key(0), door, victim)
    rows = stage.source(door).read(jnp.array([0, 1, 2, -1]))
    after, _ = stage.step(jax.random.key(0), state, rows, door)
    found = stage.finish(None, after, door).weights
    image = door.augment(stream(jax.random.key(0), "augment"), rows.image)[:3].reshape(3, -1)
    mean, early = (jnp.mean(image @ weights.params["kernel"][:, 0]) for weights in (found, victim))
    np.testing.assert_allclose(found.batch_stats["mean"], 0.9 + 0.1 * mean, rtol=1e-12)
    assert abs(mean - early) > 1e-4


@pytest.mark.parametrize("shuffle", [True, False])
def test_order_of_the_rows(net, data, victim, shuffle):
    door = given(data, victim)
    for stage in stages(net, shuffle=shuffle):
        state = stage.init(jax.random.key(0), door, victim)
        orders = [stage.order(jax.random.key(key), state, jnp.int32(0), door).reshape(-1) for key in (0, 1)]
        assert all(sorted(order.tolist()) == [-1, -1, *range(10)] for order in orders)
        assert np.array_equal(*orders) == (not shuffle)
        assert orders[0].tolist() != list(range(10))
