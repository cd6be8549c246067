"""Facts of I-BAU: the hypergradient on a quadratic, the truncated series on a network, and a round's parts by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.i_bau import I_BAU, ascended, bounded, hypergradient, inner_loss, marked, unlearning_gradient
from bdjax.models import MODELS
from bdjax.types import Batch, Data, Given, Net, Weights

SHAPE, CLASSES = (2, 2, 1), 3


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


CURVATURE, MIX = np.diag([2.0, 4.0]), np.array([[1.0, 0.0], [1.0, 1.0]])
AIM, DIRECT, WEIGHTS = np.array([1.0, 1.0]), np.array([0.5, -0.5]), np.array([2.0, 4.0])


def quadratic(terms, delta=None):
    """Inner d'Ad/2 - d'Bw, so that d(w) = A^-1 B w = (1, 1.5); outer |d - c|^2 / 2 + e'w. At rate 1/4."""
    delta = np.linalg.solve(CURVATURE, MIX @ WEIGHTS) if delta is None else delta

    def inner(delta, params):
        return delta @ CURVATURE @ delta / 2 - delta @ MIX @ params["w"]

    def outer(delta, params):
        return jnp.sum((delta - AIM) ** 2) / 2 + DIRECT @ params["w"]

    value, gradient = hypergradient(outer, inner, jnp.asarray(delta), {"w": jnp.asarray(WEIGHTS)}, 0.25, terms)
    return value, np.asarray(gradient["w"])


def test_hypergradient_tends_to_the_implicit_one():
    """D = (1, 1.5), g = d - c = (0, 0.5), A^-1 g = (0, 1/8), and the gradient is e + B'A^-1 g = (0.625, -0.375)."""
    value, found = quadratic(60)
    np.testing.assert_allclose(found, [0.625, -0.375], rtol=1e-14)
    np.testing.assert_allclose(value, 0.125 - 1.0, rtol=1e-14)
    # The same by differentiating the outer loss along the solution itself.

    def along(w):
        delta = jnp.linalg.solve(jnp.asarray(CURVATURE), MIX @ w)
        return jnp.sum((delta - AIM) ** 2) / 2 + DIRECT @ w

    np.testing.assert_allclose(found, jax.grad(along)(jnp.asarray(WEIGHTS)), rtol=1e-14)


@pytest.mark.parametrize(("terms", "expected"), [(1, 1.25), (2, 1.375), (3, 1.4375)])
def test_truncated_series_by_hand(terms, expected):
    """At d = (2, 3): g = (1, 2), I - A/4 = diag(1/2, 0), v = (1, 1.5, 1.75; 2), e + B'v/4 = (0.5 + (v + 2)/4, 0)."""
    _, found = quadratic(terms, np.array([2.0, 3.0]))
    np.testing.assert_allclose(found, [expected, 0], rtol=1e-14)


def dense(image, hidden, last, scale):
    return jnp.tanh(image.reshape(len(image), -1) / scale @ hidden) @ last


def network(scale=1.0):
    """Two layers without statistics to learn, to be run in inference mode; images are divided by `scale`."""

    def apply(weights, image, train=False):
        assert not train
        return dense(image, weights.params["hidden"], weights.params["last"], scale), weights.batch_stats, {}

    return Net(None, apply, ())


@pytest.fixture(scope="module")
def victim():
    draw = np.random.default_rng(0)
    hidden, last = draw.normal(size=(4, 5)), draw.normal(size=(5, CLASSES))
    return Weights({"hidden": hidden, "last": last}, {"mean": np.ones(2)})


@pytest.fixture(scope="module")
def data():
    image = np.random.default_rng(1).integers(0, 256, (12, *SHAPE), np.uint8)
    return Data(image, np.arange(12, dtype=np.int32) % CLASSES)


def rows(data, start, count):
    return sources.split(jax.tree.map(jnp.asarray, data)).read(jnp.arange(start, start + count))


SETTINGS = lookup("i_bau", {"i_bau": I_BAU}, "defense").traced


def test_series_on_a_convolutional_network_is_the_sum_of_powers():
    """Against explicit Hessians: sum over k < 4 of (I - rate H)^k g, and the mixed derivatives of the inner loss."""
    shape = (4, 4, 1)
    net = MODELS["small_cnn"].make(shape, CLASSES, (0.5,), (0.25,), width=1)
    weights = net.init(jax.random.key(1))
    weights = weights.replace(params=jax.tree.map(lambda leaf: 2 * leaf, weights.params))
    image = jax.random.uniform(jax.random.key(0), (4, *shape))
    batch = Batch(image, jnp.arange(4) % CLASSES, jnp.arange(4), jnp.ones(4))
    mark, settings = jnp.array([0.0, 1.0, 0.0, 1.0]), SETTINGS | {"implicit_rate": 0.5, "regularizer": 0.3}

    def loss(image, params):
        return train.cross_entropy(net.apply(weights.replace(params=params), image)[0], batch.label, batch.weight)

    def outer(delta, params):
        return loss(image + delta[None] * mark[:, None, None, None], params)

    def inner(delta, params):
        return 0.3 * jnp.sum(delta**2) - loss(image + delta[None], params)

    @jax.jit
    def both(delta):
        explicit = jax.jacrev(jax.grad(inner), (0, 1))(delta, weights.params)
        found = unlearning_gradient(net, weights, delta, batch, batch, mark, settings, 4)
        return jax.value_and_grad(outer, (0, 1))(delta, weights.params), explicit, found

    delta = 0.1 * jax.random.normal(jax.random.key(2), shape)
    (expected, (slope, direct)), (hessian, mixed), (value, found) = jax.tree.map(np.asarray, both(delta))
    hessian = hessian.reshape(delta.size, delta.size)
    step = np.eye(delta.size) - 0.5 * hessian
    v = sum(np.linalg.matrix_power(step, power) @ slope.reshape(-1) for power in range(4))
    implicit = jax.tree.map(lambda leaf: -0.5 * np.tensordot(v.reshape(shape), leaf, 3), mixed)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    # The implicit half by itself, because it is small beside the direct one.
    half = jax.tree.map(np.subtract, found, direct)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12), half, implicit)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(implicit)) > 1e-4
    assert np.abs(hessian - 0.6 * np.eye(delta.size)).max() > 1e-3


@pytest.mark.parametrize(
    ("rows", "one_in", "least", "count"),
    [(256, 100, 0, 2), (196, 100, 0, 1), (70, 100, 0, 0), (70, 100, 1, 1), (7, 1, 1, 7)],
)
def test_how_many_rows_are_perturbed(rows, one_in, least, count):
    weight = jnp.pad(jnp.ones(rows), (0, 5))
    keys = jax.random.split(jax.random.key(0), 3)
    found = jax.vmap(lambda key: marked(key, weight, one_in, least))(keys)
    np.testing.assert_array_equal(found.sum(1), count)
    np.testing.assert_array_equal(found[:, rows:], 0)
    if 0 < count < rows:
        assert len({tuple(np.flatnonzero(mark)) for mark in found}) > 1


def test_bound_on_the_perturbation():
    delta = jnp.array([3.0, 4.0])
    np.testing.assert_allclose(bounded(delta, jnp.array(2.0)), [1.2, 1.6])
    np.testing.assert_array_equal(bounded(delta, jnp.array(6.0)), delta)
    np.testing.assert_array_equal(bounded(delta, jnp.array(0.0)), delta)
    np.testing.assert_array_equal(bounded(0 * delta, jnp.array(2.0)), 0)


def test_one_step_away_by_hand():
    """Logits (x, 0) of one pixel 1: the network says 0, d(-CE)/dx = 1 - p, and the regulariser adds 2 * 0.1 * 0.5."""

    def apply(weights, image):
        pixel = image[:, 0, 0, 0]
        return jnp.stack([pixel, 0 * pixel], axis=1), {}, {}

    batch = Batch(
        jnp.array([0.5, 0.5, 9.0])[:, None, None, None], jnp.array([1, 1, 1]), None, jnp.array([1.0, 1.0, 0.0])
    )
    settings = {"unit": 1.0, "regularizer": 0.1, "inner_rate": 2.0}
    found = ascended(Net(None, apply, ()), Weights({}, {}), jnp.full((1, 1, 1), 0.5), batch, settings)
    chance = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(found, 0.5 - 2 * (1 - chance + 0.1), rtol=1e-12)


def test_a_unit_is_a_perturbation_of_normalised_values(victim, data):
    """A network that divides by 0.25 under unit 0.25 is one that takes images divided by 0.25 under unit 1."""
    batch, mark = rows(data, 0, 6), jnp.arange(6) % 2.0
    delta = jnp.full(SHAPE, 0.1)

    @partial(jax.jit, static_argnums=0)
    def both(net, batch, settings):
        moved = ascended(net, victim, delta, batch, settings)
        return moved, unlearning_gradient(net, victim, moved, batch, batch, mark, settings, 3)

    ours = both(network(0.25), batch, SETTINGS | {"unit": 0.25})
    theirs = both(network(), batch.replace(image=batch.image / 0.25), SETTINGS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, theirs)
    assert float(jnp.abs(ours[0] - delta).max()) > 1e-2


def purifier(data, victim, text=""):
    """Float settings -> the weights that two rounds leave."""
    spec = lookup(f"i_bau:rounds=2,batch=5{text}", {"i_bau": I_BAU}, "defense")
    (stage,) = I_BAU.make(network(), SHAPE, CLASSES, **spec.static)

    def given(operands):
        data, victim, settings = operands
        return Given(settings, lambda key, image: image, clean=sources.split(data), victim=victim)

    fit = jax.jit(lambda operands: train.fit(jax.random.key(2), stage, given, operands).weights)
    return lambda **settings: fit((data, victim, spec.traced | settings))


def apart(one, two):
    return max(float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))


def test_parameters_move_and_statistics_stay(data, victim):
    purify = purifier(data, victim)
    found = purify()
    np.testing.assert_array_equal(found.batch_stats["mean"], victim.batch_stats["mean"])
    assert all(apart(found.params[name], victim.params[name]) > 1e-4 for name in victim.params)
    assert apart(purify(learning_rate=0.0), victim) == 0


def test_benchmark_unlearns_nothing_in_small_batches(data, victim):
    """No row of a batch of 5 is perturbed, so that nothing about the perturbation matters: it is fine-tuning."""
    purify = purifier(data, victim, ",preset=benchmark")
    assert apart(purify(inner_rate=1.0, implicit_rate=0.5), purify()) == 0
    purify = purifier(data, victim, ",preset=benchmark,least=1")
    assert apart(purify(inner_rate=1.0), purify()) > 1e-6


def test_a_pass_raises_the_loss(data, victim):
    """The rate is small enough for every step to help."""
    batch = rows(data, 0, 12)
    label = jnp.argmax(network().apply(victim, batch.image)[0], axis=1)

    def step(delta, _):
        loss = inner_loss(network(), victim, delta, batch, label, SETTINGS)
        return ascended(network(), victim, delta, batch, SETTINGS | {"inner_rate": 0.1}), loss

    assert all(np.diff(jax.lax.scan(step, jnp.zeros(SHAPE), length=4)[1]) < 0)
