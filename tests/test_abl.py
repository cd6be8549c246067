"""Facts of ABL: the floor, the isolation of the rows of lowest loss, and what each stage reads."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.abl import ABL
from bdjax.detection.parts.isolation import floored, rank
from bdjax.models import MODELS
from bdjax.train import optimizers
from bdjax.types import Data, Given, Net, Trained, Weights

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
    np.testing.assert_array_equal(rank(Net(None, apply, ()), None, source, 2), [1, 4, 3, 2, 0])


def data(count=40):
    label = np.arange(count, dtype=np.int32) % CLASSES
    image = np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)
    return Data(jnp.asarray(image), jnp.asarray(label))


def stages(net, text):
    spec = lookup(text, {"abl": ABL}, "defense")
    return ABL.make(net, SHAPE, CLASSES, **spec.static), spec.traced


def door(settings):
    return lambda rows: Given(settings, lambda key, image: image, train=sources.split(rows))


def two_numbers():
    """A network whose logits are its parameters, whatever the image."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return jnp.broadcast_to(weights.params["w"], (len(image), CLASSES)), weights.batch_stats, {}

    return Net(lambda key: Weights({"w": jnp.zeros(CLASSES)}, {}), apply, ())


def left(net, rows=40, **carry):
    """What a stage before leaves whose ranking is the reverse order."""
    return Trained(net.init(jax.random.key(0)), {"ranking": jnp.arange(rows, dtype=jnp.int32)[::-1]} | carry)


def begun(stage, given, trained):
    """The state before the first step after a stage that has left `trained`, and what may then be read."""
    given = given._replace(carry=trained.carry)
    return stage.init(jax.random.key(2), given, trained.weights), given


def test_each_stage_reads_its_rows():
    net = two_numbers()
    (isolate, learn, unlearn), settings = stages(net, "abl:one_in=10,batch=16")
    numbered = data()
    numbered = numbered.replace(image=numbered.image.at[:, 0, 0, 0].set(jnp.arange(40, dtype=jnp.uint8)))

    def rows(stage, trained):
        state, given = begun(stage, door(settings)(numbered), trained)
        order = stage.order(jax.random.key(3), state, jnp.int32(0), given)
        read = stage.source(given).read(order.ravel())
        return order.shape, sorted(np.rint(255 * read.image[read.weight > 0, 0, 0, 0]).astype(int).tolist())

    assert rows(isolate, Trained(None)) == ((3, 16), list(range(40)))
    assert rows(learn, left(net)) == ((3, 16), list(range(36)))
    assert rows(unlearn, left(net)) == ((1, 4), list(range(36, 40)))


def learnt(text, step=0, **carry):
    """The weights after one step of the second stage, on the label 1 alone, and how the third then begins."""
    net = two_numbers()
    (_, learn, unlearn), settings = stages(net, text)
    state, given = begun(learn, door(settings)(data(8)), left(net, 8, **carry))
    rows = given.train.read(jnp.array([1, 4, 7]))
    after, _ = learn.step(jax.random.key(0), state.replace(step=jnp.int32(step)), rows, given)
    trained = learn.finish(jax.random.key(0), after, given)
    return trained.weights.params["w"], begun(unlearn, given, trained)[0]


SLOPE = np.array([1, -2, 1]) / 3


@pytest.mark.parametrize(("step", "rate"), [(4, 0.01), (5, 0.001)])
def test_step_of_nesterovs_kind_at_a_rate_that_falls_to_a_tenth(step, rate):
    """Weights 0, three classes, label 1: g = (1, -2, 1) / 3, v = g and w = -rate (g + 0.9 v)."""
    after, _ = learnt("abl:batch=7,drop_epoch=5", step)
    np.testing.assert_allclose(after, -rate * 1.9 * SLOPE, rtol=1e-5)


def test_momentum_is_taken_up():
    """v = 0.9 * 1 + g and w = -rate (g + 0.9 v)."""
    resting = optimizers.sgd(0.0, 0.9).init({"w": jnp.zeros(CLASSES)})
    after, _ = learnt("abl:batch=7", opt_state=optax.tree.set(resting, trace={"w": jnp.ones(CLASSES)}))
    np.testing.assert_allclose(after, -0.01 * (1.9 * SLOPE + 0.81), rtol=1e-5)


@pytest.mark.parametrize(("preset", "kept"), [("paper", 0), ("benchmark", 1)])
def test_momentum_goes_on_where_the_benchmark_lets_it(preset, kept):
    _, state = learnt(f"abl:preset={preset},batch=8")
    np.testing.assert_allclose(optax.tree.get(state.opt_state, "trace")["w"], kept * SLOPE, rtol=1e-5)


def test_unlearning_ascends():
    net = two_numbers()
    (_, _, unlearn), settings = stages(net, "abl:batch=8,one_in=2")
    state, given = begun(unlearn, door(settings)(data(8)), left(net, 8))
    after, _ = unlearn.step(jax.random.key(0), state, given.train.read(jnp.array([1, 4, 7])), given)
    found = unlearn.finish(jax.random.key(0), after, given).weights.params["w"]
    np.testing.assert_allclose(found, 0.001 * 1.9 * SLOPE, rtol=1e-5)


def test_isolates_and_unlearns_what_is_learnt_first():
    """24 of 120 rows of noise are half white and labelled 0; all 12 that are isolated are of them."""
    net = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=4)
    rows = data(120)
    rows = rows.replace(image=rows.image.at[:24, :4].set(255), label=rows.label.at[:24].set(0))
    epochs = "isolation_epochs=4,epochs=2,unlearning_epochs=20"
    parts, settings = stages(net, f"abl:one_in=10,batch=20,{epochs},unlearning_rate=0.01")
    given, trained, losses = door(settings), None, []
    for number, stage in enumerate(parts):
        trained = train.fit(jax.random.key(number), stage, given, rows, trained)
        read = sources.split(rows).read(jnp.arange(120))
        found = optax.softmax_cross_entropy_with_integer_labels(net.apply(trained.weights, read.image)[0], read.label)
        losses.append((float(found[:24].mean()), float(found[24:].mean())))
    assert max(trained.carry["ranking"][:12]) < 24
    (isolating, other), (learnt, _), (unlearnt, kept) = losses
    assert isolating < 0.1 * other
    assert learnt < 0.1
    assert unlearnt > 3 and unlearnt > 2 * kept
