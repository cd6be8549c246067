"""Facts of FST: the new head, projected steps by hand, and the norm that does not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.fst import FST
from bdjax.defenses.ft import FT
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.types import Data, Given, Layer, Net, Weights

METHODS = {"fst": FST, "ft": FT}
SHAPE, CLASSES = (8, 8, 3), 3


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def one_feature():
    """A network whose one feature is 1 plus the pixel: of a black image the logits are kernel plus bias."""

    def apply(weights, image, train=False, weight=None, edit=None):
        head = weights.params["body"]["head"]
        return (1 + image[:, 0, 0]) @ head["kernel"] + head["bias"][None], weights.batch_stats, {}

    return Net(None, apply, (Layer("head", "linear", ("body", "head"), "head"),))


def made(text, net):
    spec = lookup(text, METHODS, "defense")
    (stage,) = METHODS[spec.name].make(net, SHAPE, CLASSES, **spec.static)
    return stage, spec.traced


def door(settings, data, victim):
    return Given(settings, lambda key, image: image, clean=sources.split(data), victim=victim)


BLACK = Data(np.zeros((4, 1, 1, 1), np.uint8), np.zeros(4, np.int32))


def begun_by_hand(stage, given):
    """The state before the first step, W = (1, 1) and no bias."""
    start = {"body": {"head": {"kernel": jnp.ones((1, 2)), "bias": jnp.zeros(2)}}}
    return stage.init(jax.random.key(0), given, None).replace(moving=start)


def head_of(stage, state, given):
    return stage.finish(None, state, given).weights.params["body"]["head"]


def by_hand(text, augment=lambda key, image: image):
    """The stage on black images of label 0, W' = (3, 4)."""
    stage, settings = made(text, one_feature())
    victim = Weights({"body": {"head": {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.zeros(2)}}}, {})
    return stage, door(settings, jax.tree.map(jnp.asarray, BLACK), victim)._replace(augment=augment)


def test_projected_steps_by_hand():
    """W' = (3, 4), W = (1, 1), label 0: the slope is (-0.5, 0.5) + 0.2 (3, 4); the momentum is not rescaled."""
    stage, given = by_hand("fst:batch=4,learning_rate=0.1,schedule=constant")
    state = begun_by_hand(stage, given)
    kernel, bias, velocity = np.ones(2), np.zeros(2), np.zeros((2, 2))
    for number in range(3):
        state, info = stage.step(jax.random.key(1), state, given.clean.read(jnp.arange(4)), given)
        chance = np.exp(kernel + bias) / np.exp(kernel + bias).sum()
        np.testing.assert_allclose(info["loss"], -np.log(chance[0]) + 0.2 * kernel @ [3, 4], rtol=1e-9)
        np.testing.assert_allclose(info["cosine"], kernel @ [3, 4] / np.linalg.norm(kernel) / 5, rtol=1e-9)
        slope = chance - [1, 0]
        velocity = 0.9 * velocity + [slope + 0.2 * np.array([3, 4]), slope]
        kernel, bias = kernel - 0.1 * velocity[0], bias - 0.1 * velocity[1]
        if not number:
            np.testing.assert_allclose(kernel, [0.99, 0.87], rtol=1e-9)
            np.testing.assert_allclose(bias, [0.05, -0.05], rtol=1e-9)
        kernel = 5 * kernel / np.linalg.norm(kernel)
        head = head_of(stage, state, given)
        np.testing.assert_allclose(head["kernel"][0], kernel, rtol=1e-9)
        np.testing.assert_allclose(head["bias"], bias, rtol=1e-9)


@pytest.fixture(scope="module")
def net():
    return MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)


@pytest.fixture(scope="module")
def data():
    image = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)
    return Data(jnp.asarray(image), jnp.arange(20, dtype=jnp.int32) % CLASSES)


@pytest.fixture
def victim(net):
    weights = net.init(jax.random.key(1))
    head = {"kernel": 3 * weights.params["linear"]["kernel"], "bias": jnp.array([1.0, 2.0, 3.0])}
    return weights.replace(params=weights.params | {"linear": head})


def begun(text, net, data, victim, seed=0):
    stage, settings = made(text, net)
    given = door(settings, data, victim)
    return stage.finish(None, stage.init(jax.random.key(seed), given, None), given).weights


def test_a_new_head_and_nothing_else_is_new(net, data, victim):
    found = begun("fst", net, data, victim)
    head, width = found.params["linear"], 1 / np.sqrt(8)
    assert jax.tree.map(jnp.shape, head) == {"kernel": (8, 3), "bias": (3,)}
    for leaf in head.values():
        assert float(jnp.abs(leaf).max()) <= width and float(jnp.std(leaf)) > 0.1 * width
    assert float(jnp.abs(head["kernel"]).max()) > 0.8 * width
    rest = [{**weights.params, "linear": 0} for weights in (found, victim)]
    jax.tree.map(np.testing.assert_array_equal, *rest)
    jax.tree.map(np.testing.assert_array_equal, found.batch_stats, victim.batch_stats)
    assert not np.array_equal(begun("fst", net, data, victim, 1).params["linear"]["kernel"], head["kernel"])


def test_head_as_the_benchmark_begins_it(net, data, victim):
    free, fixed = (begun(text, net, data, victim).params["linear"] for text in ("fst", "fst:preset=benchmark"))
    np.testing.assert_array_equal(fixed["bias"], victim.params["linear"]["bias"])
    norms = [np.linalg.norm(head["kernel"]) for head in (free, fixed, victim.params["linear"])]
    np.testing.assert_allclose(norms[1], norms[2], rtol=1e-12)
    np.testing.assert_allclose(fixed["kernel"] / norms[1], free["kernel"] / norms[0], rtol=1e-9)


def tuned(text, net, data, victim):
    stage, settings = made(text, net)
    return train.fit(jax.random.key(2), stage, lambda held: door(settings, *held), (data, victim)).weights


RECIPE = "epochs=3,batch=8,learning_rate=0.05,weight_decay=1e-3"


def test_without_alpha_it_is_tuning_from_a_new_head_that_is_rescaled(net, data, victim):
    plain = tuned(f"ft:head=new,rescale=true,{RECIPE}", net, data, victim)
    still = tuned(f"fst:alpha=0,{RECIPE}", net, data, victim)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), still, plain)
    norms = [np.linalg.norm(each.params["linear"]["kernel"]) for each in (still, victim)]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-12)


def test_the_head_ends_opposite_to_the_victims():
    """The cosine falls to -1, and the norm is 5 throughout, however large alpha."""
    stage, given = by_hand("fst:batch=4,schedule=constant,alpha=10")
    state = begun_by_hand(stage, given)
    for _ in range(40):
        state, info = stage.step(jax.random.key(1), state, given.clean.read(jnp.arange(4)), given)
    assert info["cosine"] < -0.999
    np.testing.assert_allclose(head_of(stage, state, given)["kernel"], [[-3, -4]], atol=0.2)


@pytest.mark.parametrize(("augment", "feature"), [("true", 2.0), ("false", 1.0)])
def test_images_are_augmented_or_not(augment, feature):
    text = f"fst:batch=4,learning_rate=0.1,schedule=constant,alpha=0,augment={augment}"
    stage, given = by_hand(text, lambda key, image: jnp.ones_like(image))
    state = begun_by_hand(stage, given)
    state, _ = stage.step(jax.random.key(1), state, given.clean.read(jnp.arange(4)), given)
    kernel = np.array([1, 1]) - 0.1 * feature * np.array([-0.5, 0.5])
    found = head_of(stage, state, given)["kernel"][0]
    np.testing.assert_allclose(found, 5 * kernel / np.linalg.norm(kernel), rtol=1e-9)


def test_network_without_a_head_is_refused(net):
    headless = net._replace(layers=tuple(layer for layer in net.layers if layer.kind != "linear"))
    with pytest.raises(InvalidInput, match="linear"):
        made("fst", headless)
