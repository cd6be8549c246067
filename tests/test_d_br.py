"""Facts of D-BR: the order of its batches, a step up and a step down by hand, and what it begins with."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.d_br import D_BR, in_turn
from bdjax.keys import root
from bdjax.models import MODELS
from bdjax.types import Data, Given, Layer, Net, Weights

SHAPE, CLASSES = (1, 1, 1), 3
SLOPE = np.array([1, -2, 1]) / 3
"""Of the cross-entropy at logits 0 where the label is 1."""


@pytest.mark.parametrize(("first", "second"), [(3, 5), (4, 4), (0, 6), (6, 0), (0, 0), (5, 5)])
def test_rows_of_one_kind_then_those_of_the_other_in_batches_of_their_own(first, second):
    """10 rows in batches of 4 have 3 steps, and here 4; a batch holds rows of one kind alone, every row once."""
    member = jnp.arange(10)
    one, other = member < first, (member >= 10 - second)
    rows = np.asarray(in_turn(root(0), one, other, 4))
    assert rows.shape == (4, 4)
    kinds = [set(batch[batch >= 0] < first) for batch in rows]
    assert all(len(kind) <= 1 for kind in kinds)
    flat = [kind.pop() for kind in kinds if kind]
    assert flat == [True] * -(-first // 4) + [False] * -(-second // 4)
    assert sorted(rows[rows >= 0]) == [*range(first), *range(10 - second, 10)]


def test_the_order_is_random():
    every, none = jnp.ones(10, bool), jnp.zeros(10, bool)
    assert not np.array_equal(in_turn(root(0), every, none, 4), in_turn(root(1), every, none, 4))


def numbers():
    """A network whose logits are its parameters, whatever the image; its head is said to read a layer."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return jnp.broadcast_to(weights.params["w"], (len(image), CLASSES)), weights.batch_stats, {}

    layers = (Layer("pool", "pool", (), "pool"), Layer("linear", "linear", ("linear",), "linear"))
    return Net(lambda key: Weights({"w": jnp.ones(CLASSES)}, {}), apply, layers)


def test_a_step_up_on_poisoned_rows_then_down_on_clean_ones():
    """Rate .3, momentum .9, no decay. Poisoned rows of label 1 climb: v = -g and w = .3 g, g = (1, -2, 1) / 3.

    Then at w = (.1, -.2, .1) clean rows of label 1: h = softmax(w) - (0, 1, 0), v = -.9 g + h and w = .3 g - .3 v.
    """
    text = "d_br:learning_rate=0.3,weight_decay=0,batch=2"
    spec = lookup(text, {"d_br": D_BR}, "defense")
    *_, stage = D_BR.make(numbers(), SHAPE, CLASSES, **spec.static)
    data = Data(jnp.zeros((6, *SHAPE), jnp.uint8), jnp.ones(6, jnp.int32))
    carry = {"poisoned": jnp.arange(6) < 2, "clean": jnp.arange(6) > 3}
    victim = Weights({"w": jnp.zeros(CLASSES)}, {})
    given = Given(spec.traced, lambda key, image: image, train=sources.split(data), victim=victim, carry=carry)
    other = Weights({"w": jnp.ones(CLASSES)}, {})  # of the split, which must not be gone on with
    state = stage.init(root(0), given, other)
    order = stage.order(root(1), state, jnp.int32(0), given)
    found = []
    for rows in order:
        state, _ = stage.step(root(2), state, given.train.read(rows), given)
        found.append(np.asarray(state.moving["w"]))
    up = 0.3 * SLOPE
    slope = np.exp(up) / np.exp(up).sum() - np.array([0, 1, 0])
    np.testing.assert_allclose(found[0], up, rtol=1e-5)
    np.testing.assert_allclose(found[1], up - 0.3 * (slope - 0.9 * SLOPE), rtol=1e-5)
    for late in found[2:]:  # batches of padding alone
        np.testing.assert_array_equal(late, found[1])
    left = stage.finish(root(3), state, given)
    assert set(left.carry) == {"poisoned", "clean"}


def test_presets():
    assert lookup("d_br", {"d_br": D_BR}, "defense").static["redraw"] is False
    bench = lookup("d_br:preset=benchmark", {"d_br": D_BR}, "defense")
    assert bench.static["redraw"] is True
    assert bench.traced["learning_rate"] == pytest.approx(1e-4)
    assert (bench.static["split_epochs"], bench.static["split_tuning_epochs"], bench.static["epochs"]) == (2, 10, 20)


def test_statistics_move_in_both_passes():
    net = MODELS["small_cnn"].make((8, 8, 3), CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
    spec = lookup("d_br:batch=3,learning_rate=0", {"d_br": D_BR}, "defense")
    *_, stage = D_BR.make(net, (8, 8, 3), CLASSES, **spec.static)
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)), jnp.uint8)
    data = Data(image, jnp.arange(6, dtype=jnp.int32) % CLASSES)
    carry = {"poisoned": jnp.arange(6) < 3, "clean": jnp.arange(6) > 2}
    given = Given(spec.traced, lambda key, image: image, train=sources.split(data), carry=carry)
    given = given._replace(victim=net.init(root(0)))
    state, seen = stage.init(root(0), given, None), [given.victim.batch_stats]
    for rows in stage.order(root(1), state, jnp.int32(0), given)[:2]:
        state, _ = stage.step(root(2), state, given.train.read(rows), given)
        seen.append(state.still)
    for one, two in pairwise(seen):
        assert not np.allclose(*(jax.tree.leaves(each)[0] for each in (one, two)))
