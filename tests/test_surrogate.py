"""The attacker's model: which rows it learns from, and how it is measured on the others."""

import jax.numpy as jnp
import numpy as np

from bdjax.attacks.fitting.surrogate import accuracy, surrogate_model
from bdjax.keys import root
from bdjax.types import Data, Net, Weights

ROWS = 20


def data() -> Data:
    """Row k is an image of level k + 1, which zero padding never has."""
    level = jnp.arange(1, ROWS + 1, dtype=jnp.uint8)[:, None, None, None]
    return Data(jnp.broadcast_to(level, (ROWS, 8, 8, 1)), jnp.arange(ROWS, dtype=jnp.int32) % 2)


def levels(image):
    return jnp.any(jnp.round(image * 255)[..., None] == jnp.arange(1, ROWS + 1), axis=(0, 1, 2, 3))


def test_it_learns_from_all_rows_but_those_that_it_is_measured_on():
    def seen(net, weights, image, batch, given):
        del net, batch, given
        return weights.params, weights.batch_stats | levels(image), {"loss": jnp.zeros(())}

    def apply(weights, image):
        return jnp.stack([jnp.ones(len(image)), jnp.zeros(len(image))], axis=1), {}, {}

    net = Net(lambda key: Weights({}, jnp.zeros(ROWS, bool)), apply, ())
    settings = {"surrogate_learning_rate": 0.1}
    model = surrogate_model(root(0), net, data(), settings, epochs=2, batch=4, gradient=seen)
    held = np.asarray(levels(model.held.image / 255))
    assert held.sum() == 2
    np.testing.assert_array_equal(model.weights.batch_stats, ~held)
    np.testing.assert_array_equal(model.held.label, (model.held.image[:, 0, 0, 0] - 1) % 2)
    assert model.figures == {"surrogate_accuracy": np.mean(model.held.label == 0)}


def test_accuracy_is_the_share_of_right_answers():
    # Levels above the threshold are said to be of class 1: of levels 1 to 4, labelled 0, 1, 0, 1, all but level 3.
    def apply(weights, image):
        return jnp.stack([jnp.full(len(image), weights.params), image[:, 0, 0, 0] * 255], axis=1), {}, {}

    four = Data(data().image[:4], data().label[:4])
    assert accuracy(Net(None, apply, ()), Weights(jnp.array(1.5), {}), four) == 0.75
