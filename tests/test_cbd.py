"""Facts of CBD: the weights of rows by hand, the network that is kept, and the rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.cbd import CBD, weigh
from bdjax.detection.parts.isolation import losses_of
from bdjax.models import MODELS
from bdjax.types import Data, Given, Net, Weights

SHAPE, CLASSES = (8, 8, 3), 3


def made(net, text):
    spec = lookup(text, {"cbd": CBD}, "defense")
    return CBD.make(net, SHAPE, CLASSES, **spec.static), Given(spec.traced, lambda key, image: image)


def two_numbers():
    """A network whose logits are its parameters, whatever the image, at first 0."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return jnp.broadcast_to(weights.params["w"], (len(image), CLASSES)), weights.batch_stats, {}

    return Net(lambda key: Weights({"w": jnp.zeros(CLASSES)}, {}), apply, ())


def data(label):
    return Data(jnp.zeros((len(label), *SHAPE), jnp.uint8), jnp.asarray(label, jnp.int32))


def test_a_row_counts_by_its_losses():
    """1 / (3 + 1) = .25; what the first network fits counts for nothing, what the second one fits for all."""
    np.testing.assert_allclose(weigh(jnp.array([1.0, 0, 2]), jnp.array([3.0, 1, 0])), [0.25, 0, 1], rtol=1e-6)


def step(text, number=0, weight=(1, 1, 1)):
    """The second network's weights after one step from 0 on labels 0, 1, 2, and the info."""
    (_, second), given = made(two_numbers(), text)
    first = Weights({"w": jnp.log(jnp.array([2.0, 1, 1]))}, {})  # chances 1/2, 1/4, 1/4
    given = given._replace(train=sources.split(data([0, 1, 2])), carry={"backdoored": first})
    state = second.init(jax.random.key(0), given, first)
    np.testing.assert_array_equal(state.moving["w"], 0)
    rows = given.train.read(jnp.arange(3)).replace(weight=jnp.array(weight, jnp.float32))
    after, info = second.step(jax.random.key(0), state.replace(step=jnp.int32(number)), rows, given)
    return after.moving["w"], info


ONE, TWO = np.log(2) / (np.log(3) + np.log(2)), np.log(4) / (np.log(3) + np.log(4))  # .387 and .558


@pytest.mark.parametrize(("number", "rate"), [(0, 0.1), (20, 0.01), (70, 0.001)])
def test_step_by_hand_at_a_rate_that_falls_twice(number, rate):
    """At chances 1/3 the gradient of row y is 1/3 - [k = y], and rows count by ONE, TWO, TWO; w = -rate 1.9 g."""
    total = ONE + 2 * TWO
    slope = 1 / 3 - np.array([ONE, TWO, TWO]) / total
    after, info = step("cbd:batch=3", number)
    np.testing.assert_allclose(after, -rate * 1.9 * slope, rtol=1e-4)
    np.testing.assert_allclose(info["counted"], total / 3, rtol=1e-6)


def test_padding_does_not_count():
    """Rows of labels 0 and 1 alone."""
    slope = 1 / 3 - np.array([ONE, TWO, 0]) / (ONE + TWO)
    np.testing.assert_allclose(step("cbd:batch=3", 0, (1, 1, 0))[0], -0.19 * slope, rtol=1e-4)


def test_the_first_network_is_trained_plainly_and_handed_on():
    """One step on label 1 from 0: w = -.1 * 1.9 (1/3, -2/3, 1/3)."""
    (first, _), given = made(two_numbers(), "cbd:batch=2,backdoor_epochs=1")
    trained = train.fit(jax.random.key(0), first, lambda rows: given._replace(train=sources.split(rows)), data([1, 1]))
    np.testing.assert_allclose(trained.carry["backdoored"].params["w"], -0.19 / 3 * np.array([1, -2, 1]), rtol=1e-5)


def test_poisoned_rows_count_less_once_the_first_network_has_learned_them():
    """30 of 150 rows of noise are half white and labeled 0: the first network fits them alone."""
    draw, label = np.random.default_rng(0), np.arange(150, dtype=np.int32) % CLASSES
    image = draw.integers(0, 256, (150, *SHAPE), np.uint8)
    image[:30, :4], label[:30] = 255, 0
    net = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=4)
    (one, two), given = made(net, "cbd:batch=30,backdoor_epochs=4,epochs=1")
    rows, door = Data(jnp.asarray(image), jnp.asarray(label)), lambda rows: given._replace(train=sources.split(rows))
    first = train.fit(jax.random.key(0), one, door, rows)
    count = weigh(losses_of(net, first.carry["backdoored"], sources.split(rows).read(jnp.arange(150))), np.log(CLASSES))
    assert np.mean(count[:30]) < 0.2 < 0.4 < np.mean(count[30:])
    second = train.fit(jax.random.key(1), two, door, rows, first)
    kernels = [trained.weights.params["linear"]["kernel"] for trained in (first, second)]
    assert np.all(kernels[0] != kernels[1])


def test_presets():
    paper = lookup("cbd:preset=paper", {"cbd": CBD}, "defense")
    assert (paper.static["backdoor_epochs"], paper.static["epochs"]) == (5, 100)
