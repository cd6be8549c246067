"""Facts of ABL: the floor, the isolation of the rows of lowest loss, and what each stage reads."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bdjax import sources, train
from bdjax.cards import lookup
from bdjax.defenses.abl import ABL, floored, ranked
from bdjax.models import MODELS
from bdjax.types import Data, Given, Net, Trained

SHAPE, CLASSES = (8, 8, 3), 3


@pytest.mark.parametrize(("loss", "sign"), [(0.25, -1), (0.5, 0), (0.75, 1)])
@pytest.mark.parametrize("floor", ["batch", "row"])
def test_gradient_turns_at_the_floor_and_is_nothing_on_it(loss, sign, floor):
    slope = jax.grad(lambda value: floored(value * jnp.ones(4), jnp.ones(4), 0.5, floor))(loss)
    np.testing.assert_allclose(slope, sign, atol=1e-7)


def test_floor_of_a_batch_and_of_rows_by_hand():
    """Losses 0.2 and 0.8 and a padded row: their mean is on the floor 0.5; row by row each is 0.3 from it."""
    losses, weight = jnp.array([0.2, 0.8, 9.0]), jnp.array([1.0, 1.0, 0.0])
    np.testing.assert_allclose(floored(losses, weight, 0.5, "batch"), 0.5, rtol=1e-6)
    np.testing.assert_allclose(floored(losses, weight, 0.5, "row"), 0.8, rtol=1e-6)


def test_local_gradient_ascent_has_the_gradient_of_flooding():
    """sign(L - gamma) L, the loss of the paper, and |L - gamma| + gamma differ by a constant on either side."""
    for loss in (0.1, 0.9):
        paper = jax.grad(lambda value: jax.lax.stop_gradient(jnp.sign(value - 0.5)) * value)(loss)
        np.testing.assert_allclose(jax.grad(lambda value: floored(value[None], jnp.ones(1), 0.5, "batch"))(loss), paper)


def test_rows_of_lowest_loss_come_first():
    """The pixel is the logit of class 0, and all are labelled 0: the brighter, the lower the loss."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return jnp.stack([image[:, 0, 0, 0], jnp.zeros(len(image))], 1), {}, {}

    image = np.array([10, 250, 30, 200, 250], np.uint8).reshape(5, 1, 1, 1)
    source = sources.split(Data(jnp.asarray(image), jnp.zeros(5, jnp.int32)))
    np.testing.assert_array_equal(ranked(Net(None, apply, ()), None, source, 2), [1, 4, 3, 2, 0])


@pytest.fixture(scope="module")
def net():
    return MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)


def data(count=40):
    label = np.arange(count, dtype=np.int32) % CLASSES
    image = np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)
    return Data(jnp.asarray(image), jnp.asarray(label))


def stages(net, text):
    spec = lookup(text, {"abl": ABL}, "defense")
    return ABL.make(net, SHAPE, CLASSES, **spec.static), spec.traced


def door(settings):
    return lambda rows: Given(settings, lambda key, image: image, train=sources.split(rows))


def test_each_stage_reads_its_rows(net):
    (isolate, learn, unlearn), settings = stages(net, "abl:one_in=10,batch=16")
    given = door(settings)(data())
    ranking = jax.random.permutation(jax.random.key(1), jnp.arange(40, dtype=jnp.int32))
    left = Trained(net.init(jax.random.key(0)), {"ranking": ranking})

    def rows(stage, previous):
        state = stage.init(jax.random.key(2), given, previous)
        order = stage.order(jax.random.key(3), state, jnp.int32(0), given)
        return order.shape, sorted(int(row) for row in order.ravel() if row >= 0)

    assert rows(isolate, None) == ((3, 16), list(range(40)))
    assert rows(learn, left) == ((3, 16), sorted(ranking[4:].tolist()))
    assert rows(unlearn, left) == ((1, 4), sorted(ranking[:4].tolist()))


def test_unlearning_raises_the_loss_of_isolated_rows_alone(net):
    """Rows that are all alike and of one label are what the network learns first: they are isolated and unlearnt."""
    rows = data()
    rows = rows.replace(image=rows.image.at[:8].set(255), label=rows.label.at[:8].set(0))
    epochs = "isolation_epochs=10,epochs=2,unlearning_epochs=30"
    text = f"abl:one_in=5,batch=20,{epochs},isolation_rate=0.05,unlearning_rate=0.02"
    parts, settings = stages(net, text)
    given, trained, losses = door(settings), None, []
    for number, stage in enumerate(parts):
        trained = train.fit(jax.random.key(number), stage, given, rows, trained)
        read = sources.split(rows).read(jnp.arange(40))
        found = optax.softmax_cross_entropy_with_integer_labels(net.apply(trained.weights, read.image)[0], read.label)
        losses.append((float(found[:8].mean()), float(found[8:].mean())))
    np.testing.assert_array_equal(np.sort(trained.carry["ranking"][:8]), np.arange(8))
    assert losses[0][0] < losses[0][1]
    assert losses[2][0] > losses[1][0] + 0.5
    assert losses[2][0] - losses[1][0] > 2 * (losses[2][1] - losses[1][1])


def test_rate_falls_to_a_tenth_and_momentum_may_be_kept(net):
    """One step of Nesterov's kind from rest moves by rate (1 + momentum) (g + decay w)."""

    def change(text, step, momentum=None):
        (_, learn, _), settings = stages(net, text)
        given = door(settings)(data(8))
        carry = {"ranking": jnp.arange(8, dtype=jnp.int32)} | ({} if momentum is None else {"momentum": momentum})
        left = Trained(net.init(jax.random.key(0)), carry)
        state = learn.init(jax.random.key(0), given, left).replace(step=jnp.int32(step))
        after, _ = learn.step(jax.random.key(0), state, given.train.read(jnp.arange(1, 8)), given)
        return after, after.weights.params["linear"]["bias"] - state.weights.params["linear"]["bias"]

    _, early = change("abl:batch=7,drop_epoch=5", 4)
    _, late = change("abl:batch=7,drop_epoch=5", 5)
    np.testing.assert_allclose(late, early / 10, rtol=1e-3)
    ones = jax.tree.map(jnp.ones_like, net.init(jax.random.key(0)).params)
    _, pushed = change("abl:batch=7,drop_epoch=5", 4, ones)
    # A momentum of 1 is taken up at 0.9, and once more at 0.9 for Nesterov.
    np.testing.assert_allclose(pushed, early - 0.01 * 0.81, rtol=1e-3)


@pytest.mark.parametrize(("preset", "kept"), [("paper", False), ("benchmark", True)])
def test_momentum_goes_on_where_the_benchmark_lets_it(net, preset, kept):
    (_, learn, unlearn), settings = stages(net, f"abl:preset={preset},batch=8")
    given = door(settings)(data(8))
    left = Trained(net.init(jax.random.key(0)), {"ranking": jnp.arange(8, dtype=jnp.int32)})
    state = learn.init(jax.random.key(0), given, left)
    state, _ = learn.step(jax.random.key(0), state, given.train.read(jnp.arange(1, 8)), given)
    begun = unlearn.init(jax.random.key(1), given, learn.finish(jax.random.key(1), state, given))
    found, old = (optax.tree.get(each.optimizer, "trace")["linear"]["bias"] for each in (begun, state))
    np.testing.assert_array_equal(found, old if kept else jnp.zeros_like(old))
