"""ABL as a detector: what it trains, whose loss is the score, and how many rows it flags."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from detecting import build, source

from bdjax import train
from bdjax.detection.parts.isolation import floored
from bdjax.detection.parts.scoring import score_all
from bdjax.keys import root, stream
from bdjax.types import Given

SHAPE, CLASSES, ROWS = (8, 8, 3), 3, 20


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def rows():
    image = np.random.default_rng(0).uniform(size=(ROWS, *SHAPE))
    return source(image, np.arange(ROWS) % CLASSES)


def network():
    return tiny.network("small_cnn", SHAPE, CLASSES, (0.4,) * 3, (0.3,) * 3, width=2)


@pytest.mark.parametrize(("loss", "value", "slope"), [(0.2, 0.8, -1), (0.7, 0.7, 1)])
def test_flooding_by_hand(loss, value, slope):
    """|0.2 - 0.5| + 0.5 = 0.8 with slope -1; 0.7 is above the floor and stays, with slope 1."""

    def found(loss):
        return floored(loss * jnp.ones(4), jnp.ones(4), 0.5, "batch")

    np.testing.assert_allclose([found(loss), jax.grad(found)(loss)], [value, slope])


def test_the_score_is_the_loss_of_a_new_network_and_the_lowest_are_flagged():
    net = network()
    made, settings = build("abl:isolation_epochs=2,batch=10,share=0.15", net, SHAPE, CLASSES)
    victim = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), net.init(root(0)))  # never read
    given = Given(settings, lambda key, image: image, train=rows(), suspects=rows(), victim=victim)
    left = train.fit(root(0), made.stages[0], lambda _: given, ())
    found = train.fit(root(1), score_all(net, made), lambda _: given, (), left).carry
    batch = rows().read(jnp.arange(ROWS))
    loss = optax.softmax_cross_entropy_with_integer_labels(net.apply(left.weights, batch.image)[0], batch.label)
    np.testing.assert_allclose(found["score"], -loss, rtol=1e-12)
    np.testing.assert_array_equal(np.flatnonzero(found["flagged"]), np.sort(np.argsort(loss)[:3]))


def test_one_step_by_hand():
    """All rows in one batch whose loss is above the floor: plain Nesterov descent from the new network's weights."""
    net = network()
    made, settings = build("abl:isolation_epochs=1,batch=20,gamma=0.1,isolation_rate=0.05", net, SHAPE, CLASSES)
    given = Given(settings, lambda key, image: image, train=rows())
    left = train.fit(root(0), made.stages[0], lambda _: given, ()).weights
    first = net.init(stream(stream(root(0), "init"), "init"))
    batch = rows().read(jnp.arange(ROWS))
    slope = train.loss_gradient(net, first, batch.image, batch)[0]

    def step(weight, slope):
        slope = slope + 1e-4 * weight
        return weight - 0.05 * (slope + 0.9 * slope)

    expected = jax.tree.map(step, first.params, slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), left.params, expected)
