"""Facts of fine-tuning: two steps by hand, and rows that pad a batch count for nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import sources, train
from bdjax.cards import lookup
from bdjax.defenses.ft import FT
from bdjax.types import Data, Given, Net, Weights

SPEC = lookup("ft", {"ft": FT}, "defense")


def two_numbers():
    """A network whose two logits are its two parameters, whatever the image."""

    def apply(weights, image, train=False, weight=None, edit=None):
        logits = jnp.broadcast_to(weights.params["w"], (len(image), 2))
        return logits, weights.batch_stats, {}

    return Net(lambda key: Weights({"w": jnp.zeros(2)}, {}), apply, ())


def tuned(w, rows, **settings):
    data = Data(jnp.zeros((rows, 1, 1, 1), jnp.uint8), jnp.zeros(rows, jnp.int32))
    static = SPEC.static | {name: settings.pop(name) for name in set(settings) & set(SPEC.static)}
    (stage,) = FT.make(two_numbers(), (1, 1, 1), 2, **static)

    def given(operands):
        return Given(
            SPEC.traced | settings, lambda key, image: image, clean=sources.split(operands[0]), victim=operands[1]
        )

    victim = Weights({"w": jnp.asarray(w)}, {})
    return train.fit(jax.random.key(0), stage, given, (data, victim)).weights.params["w"]


def slope(w, smoothing):
    chance = np.exp(w) / np.exp(w).sum()
    return chance - np.array([1 - smoothing, smoothing])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_two_steps_by_hand(smoothing):
    with jax.enable_x64(True):
        found = tuned([1.0, 2.0], 4, epochs=2, batch=4, schedule="constant", learning_rate=0.1, smoothing=smoothing)
    w = np.array([1.0, 2.0])
    first = slope(w, smoothing) + 5e-4 * w
    w = w - 0.1 * first
    second = 0.9 * first + slope(w, smoothing) + 5e-4 * w
    np.testing.assert_allclose(found, w - 0.1 * second, rtol=1e-12)


def test_padding_counts_for_nothing():
    """Five rows in batches of four are two steps, each of the same mean loss as any other batch of such rows."""
    settings = {"epochs": 1, "batch": 4, "schedule": "constant", "learning_rate": 0.1}
    np.testing.assert_allclose(tuned([1.0, 2.0], 5, **settings), tuned([1.0, 2.0], 8, **settings), rtol=1e-6)


def test_rate_falls_with_the_epochs():
    """The cosine over two epochs: the whole rate in the first, half of it in the second."""
    falling = tuned([1.0, 2.0], 4, epochs=2, batch=4, learning_rate=0.1, momentum=0.0, weight_decay=0.0)
    w = np.array([1.0, 2.0])
    for rate in (0.1, 0.05):
        w = w - rate * slope(w, 0.0)
    np.testing.assert_allclose(falling, w, rtol=1e-6)
