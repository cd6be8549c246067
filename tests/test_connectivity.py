"""Facts of the connectivity audit: its scores, its ends, its bend, and what it says where there is no path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.audits.connectivity import CONNECTIVITY, comparable, scores
from bdjax.cards import lookup
from bdjax.cells import functions
from bdjax.data import sources
from bdjax.metrics import geometry
from bdjax.models.parts.layers import MOMENTUM
from bdjax.models.parts.statistics import reestimated
from bdjax.types import Data, Given, Net, Weights

SHAPE, CLASSES = (8, 8, 3), 3


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def split(count, seed=0):
    label = np.arange(count, dtype=np.int32) % CLASSES
    image = np.random.default_rng(seed).integers(0, 100, (count, *SHAPE), np.uint8)
    image[np.arange(count), label] += 150
    return Data(jnp.asarray(image), jnp.asarray(label))


def white(source):
    return sources.mapped(source, lambda batch: batch.replace(image=batch.image.at[:, -2:].set(1.0)))


def door(settings, victim, backdoored, clean, test):
    clean, test = sources.split(clean), sources.split(test)
    fields = {"clean": clean, "queries": white(test), "target": jnp.zeros_like, "test": test}
    return Given(settings, lambda key, image: image, victim=victim, backdoored=backdoored, **fields)


def audit(net, text="connectivity"):
    spec = lookup(text, {"connectivity": CONNECTIVITY}, "audit")
    return CONNECTIVITY.make(net, SHAPE, CLASSES, **spec.static), spec.traced


def centred():
    """A linear layer on three features less their mean over the batch, or in evaluation less the moving one."""

    def init(key):
        return Weights({"kernel": jax.random.normal(key, (3, CLASSES))}, {"mean": jax.random.normal(key, (3,))})

    def apply(weights, image, train=False, weight=None, edit=None):
        features, held = 9 * image[:, :3].mean((2, 3)), weights.batch_stats["mean"]
        mean = jnp.average(features, 0, weight) if train else held
        return (features - mean) @ weights.params["kernel"], {"mean": held + MOMENTUM * (mean - held)}, {}

    return Net(init, apply, ())


@pytest.fixture
def models():
    net = centred()
    return net.init(jax.random.key(1)), net.init(jax.random.key(2))


def measured(net, victim, backdoored, text):
    question, settings = audit(net, text)

    def given(operands):
        return door(settings, *operands)

    operands = (victim, backdoored, split(20), split(12, 1))
    trained = train.fit(jax.random.key(0), question.stages[0], given, operands)
    return trained, question.measure(None, net, trained, given(operands)), given(operands)


def test_it_is_an_oracle():
    assert CONNECTIVITY.card.oracle


def test_scores_by_hand():
    """Logits (0, 0, log 2), or (log 2, 0, 0) where the last row is white: only labels 2 are right.

    Of 6 images the 2 of label 2 lose log 4 - log 2, the others log 4; all 4 that the attack moves are sent to 0.
    """

    def apply(weights, image, *args, **kwargs):
        place = jnp.where(image[:, -1, 0, 0] == 1, 0, 2)
        return jax.nn.one_hot(place, CLASSES) * jnp.log(2.0), {}, {}

    given = door({}, None, None, split(6), split(6))
    found = scores(Net(None, apply, ()), Weights({}, {}), given)
    np.testing.assert_allclose(found["loss"], np.log(4) - np.log(2) / 3, rtol=1e-12)
    np.testing.assert_allclose([found["error"], found["asr"]], [4 / 6, 1], rtol=1e-12)


@pytest.mark.parametrize("statistics", ["estimated", "interpolated"])
def test_ends_of_both_paths_are_the_two_models(models, statistics):
    net, (victim, backdoored) = centred(), models
    text = f"connectivity:points=3,epochs=2,batch=8,statistics={statistics}"
    _, found, given = measured(net, victim, backdoored, text)
    assert float(found["comparable"]) == 1
    for place, weights in ((0, victim), (-1, backdoored)):
        if statistics == "estimated":
            weights = reestimated(net, weights, sources.shuffled(given.clean), 8)
        for name, value in scores(net, weights, given).items():
            np.testing.assert_allclose(found[f"straight_{name}"][place], value, rtol=1e-9)
            np.testing.assert_allclose(found[f"bend_{name}"][place], value, rtol=1e-9)
    assert not np.allclose(found["straight_loss"][1], found["bend_loss"][1], rtol=1e-6)


def test_halfway_without_reestimation_statistics_are_halfway(models):
    net, (victim, backdoored) = centred(), models
    _, found, given = measured(net, victim, backdoored, "connectivity:points=3,epochs=1,statistics=interpolated")
    half = jax.tree.map(lambda a, b: (a + b) / 2, victim, backdoored)
    np.testing.assert_allclose(found["straight_loss"][1], scores(net, half, given)["loss"], rtol=1e-9)


def test_figures_of_a_path_belong_together(models):
    _, found, _ = measured(centred(), *models, "connectivity:points=4,epochs=1")
    for path in ("straight", "bend"):
        error, asr = found[f"{path}_error"], found[f"{path}_asr"]
        assert error.shape == asr.shape == (4,)
        np.testing.assert_allclose(found[f"{path}_barrier"], geometry.barrier(error), atol=1e-12)
        np.testing.assert_allclose(found[f"{path}_backdoor_barrier"], geometry.barrier(1 - asr), atol=1e-12)
        np.testing.assert_allclose(found[f"{path}_backdoored_share"], geometry.share_above(asr))
    kernels = [weights.params["kernel"] for weights in models]
    np.testing.assert_allclose(found["distance"], np.linalg.norm(kernels[0] - kernels[1]), rtol=1e-9)
    np.testing.assert_allclose(found["relative_distance"], found["distance"] / np.linalg.norm(kernels[1]), rtol=1e-9)


def test_middle_starts_halfway_and_training_lowers_the_loss_along_the_bend(models):
    still, line, _ = measured(centred(), *models, "connectivity:points=5,epochs=1,learning_rate=0")
    half = (models[0].params["kernel"] + models[1].params["kernel"]) / 2
    np.testing.assert_allclose(still.weights.params["kernel"], half, atol=1e-12)
    np.testing.assert_allclose(line["bend_loss"], line["straight_loss"], rtol=1e-9)
    _, bent, _ = measured(centred(), *models, "connectivity:points=5,epochs=40,batch=20,learning_rate=0.3")
    np.testing.assert_allclose(bent["straight_loss"], line["straight_loss"], rtol=1e-9)
    assert float(bent["bend_loss"][2]) < 0.5 * float(line["bend_loss"][2])


def test_gradient_of_the_middle_by_hand():
    """A model of one weight w whose logits are (w, 0), ends 0 and 1, middle 1/2, so the point at t is t.

    For label 0 the slope of the loss there is -1 / (1 + e^t) + decay t, and the middle takes 2 t (1 - t) of it.
    """

    def apply(weights, image, *args, **kwargs):
        return jnp.stack([jnp.full(len(image), weights.params["w"]), jnp.zeros(len(image))], 1), {}, {}

    net = Net(None, apply, ())
    question, _ = audit(net, "connectivity:batch=4")
    victim, backdoored = (Weights({"w": jnp.array(w, float)}, {}) for w in (0, 1))
    settings = {"learning_rate": 1.0, "momentum": 0.0, "decay": 0.3}
    data = Data(jnp.zeros((4, *SHAPE), jnp.uint8), jnp.zeros(4, jnp.int32))
    given = door(settings, victim, backdoored, data, data)
    (stage,) = question.stages
    state = stage.init(jax.random.key(0), given, None)
    moved = []
    for number in range(3):
        key = jax.random.key(number)
        after, _ = stage.step(key, state, stage.source(given).read(jnp.arange(4)), given)
        moved.append(0.5 - float(stage.finish(key, after, given).weights.params["w"]))
    places = np.linspace(0, 1, 100001)
    slopes = 2 * places * (1 - places) * (-1 / (1 + np.exp(places)) + 0.3 * places)
    assert len(set(moved)) == 3  # each step draws a place of its own
    for value in moved:
        assert np.abs(slopes - value).min() < 1e-5


def test_from_a_model_to_itself_there_is_no_barrier(models):
    _, found, _ = measured(centred(), models[0], models[0], "connectivity:points=4,epochs=1")
    assert all(np.isfinite(value).all() for value in found.values())
    assert float(found["distance"]) == 0 and float(found["straight_barrier"]) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found["straight_loss"], found["straight_loss"][0], rtol=1e-9)


def test_a_changed_network_gives_no_number(models):
    """A defense has put a layer in, here one that scales the logits."""
    net, (victim, backdoored) = centred(), models

    def apply(weights, image, *args, **kwargs):
        inner = weights.replace(params={"kernel": weights.params["kernel"]})
        logits, batch_stats, taps = net.apply(inner, image, *args, **kwargs)
        return weights.params["scale"] * logits, batch_stats, taps

    victim = victim.replace(params=victim.params | {"scale": jnp.ones(())})
    wide = Net(None, apply, ())
    trained, found, given = measured(wide, victim, backdoored, "connectivity:points=3,epochs=1")
    assert not comparable(wide, given) and comparable(net, given._replace(victim=models[0]))
    # One that wraps the network and leaves the weights' structure is no point of the same space either.
    (stage,) = audit(net)[0].stages
    wrapped = functions.wrapped(net, [stage._replace(wrap=lambda net: Net(net.init, net.apply, ()))])
    assert wrapped.plain is net and functions.wrapped(net, [stage]) is net
    assert not comparable(wrapped, given._replace(victim=models[0]))
    assert float(found.pop("comparable")) == 0
    assert found["straight_asr"].shape == (3,) and found["bend_barrier"].shape == ()
    assert all(np.isnan(value).all() for value in found.values())
    assert jax.tree.structure(trained.weights) == jax.tree.structure(victim)
