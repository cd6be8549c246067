"""Facts of SAU: who is fooled, the perturbation set, the clamps of the outer loss, and what is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.sau import SAU, Pair, divergence, fooled, inner_loss, outer_loss, perturbation, shared, shared_risk
from bdjax.models import MODELS
from bdjax.train import optimizers
from bdjax.types import Batch, Data, Given, Net, Weights

SHAPE, CLASSES = (8, 8, 3), 3
REGISTRY = {"sau": SAU}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def dense() -> Net:
    """Two layers that compile in no time."""

    def init(key):
        one, two = jax.random.split(key)
        return Weights({"in": jax.random.normal(one, (192, 8)) / 8, "out": jax.random.normal(two, (8, CLASSES))}, {})

    def apply(weights, image, train=False, weight=None, edit=None):
        hidden = jnp.tanh((image - 0.5).reshape(len(image), -1) @ weights.params["in"])
        return hidden @ weights.params["out"], weights.batch_stats, {}

    return Net(init, apply, ())


def data(size=10):
    image = np.random.default_rng(0).integers(0, 256, (size, *SHAPE), np.uint8)
    return Data(jnp.asarray(image), jnp.arange(size, dtype=jnp.int32) % CLASSES)


def unlearned(text, net, data, victim):
    spec = lookup(text, REGISTRY, "defense")
    (stage,) = SAU.make(net, SHAPE, CLASSES, **spec.static)

    def given(operands):
        return Given(spec.traced, lambda key, image: image + 0.1, clean=sources.split(operands[0]), victim=operands[1])

    return train.fit(jax.random.key(2), stage, given, (data, victim)).weights


def one_hot(*classes):
    return 4.0 * jax.nn.one_hot(jnp.array(classes), CLASSES)


# Rows: neither fooled; the trained network alone; both, differently; both into class 2.
MADE = ((0, 1, 1, 2), (0, 0, 2, 2))
USUAL = Pair(np.zeros(4, np.int32), np.zeros(4, np.int32))


def test_who_is_fooled_and_what_is_shared():
    logits = Pair(*(one_hot(*row) for row in MADE))
    moved = fooled(logits, USUAL)
    np.testing.assert_array_equal(moved.trained, [False, True, True, True])
    np.testing.assert_array_equal(moved.backdoored, [False, False, True, True])
    np.testing.assert_array_equal(shared(logits, USUAL), [False, False, False, True])


def test_divergence_by_hand():
    """(1/2, 1/2) and (1, 0): the middle is (3/4, 1/4); opposite certainties are ln 2 apart."""
    half, sure, other = jnp.array([[0.0, 0.0]]), jnp.array([[40.0, 0.0]]), jnp.array([[0.0, 40.0]])
    expected = (np.log(0.5 / 0.75) + np.log(0.5 / 0.25)) / 4 + np.log(1 / 0.75) / 2
    np.testing.assert_allclose(divergence(Pair(half, sure)), [expected], atol=1e-6)
    np.testing.assert_allclose(divergence(Pair(sure, other)), [np.log(2)], atol=1e-6)
    np.testing.assert_allclose(divergence(Pair(sure, sure)), [0], atol=1e-15)


def test_inner_loss_by_hand():
    """Cross-entropy of rows not fooled over twice the four rows; divergence of rows not shared."""
    logits = Pair(*(one_hot(*row) for row in MADE))
    settings = {"adversarial_weight": 10.0, "divergence_weight": 0.0}
    label = jnp.zeros(4, jnp.int32)
    sure = np.log(1 + 2 * np.exp(-4))
    found = inner_loss(logits, USUAL, label, jnp.ones(4), settings)
    np.testing.assert_allclose(found, -10 * (sure + 2 * sure) / 8, rtol=1e-12)
    settings = {"adversarial_weight": 0.0, "divergence_weight": 2.0}
    found = inner_loss(logits, USUAL, label, jnp.array([1.0, 1.0, 0.0, 1.0]), settings)
    np.testing.assert_allclose(found, 2 * divergence(logits)[1] / 3, rtol=1e-12)


def _brightness(gains):
    """Two networks that say class 1 where an image is brighter than 1/2 by more than its gain says."""

    def networks(image):
        total = jnp.mean(image - 0.5, axis=(1, 2, 3))
        return Pair(*(jnp.stack([-gain * total, gain * total, total - 9], axis=1) for gain in gains))

    return networks


SETTINGS = {"adversarial_weight": 0.01, "divergence_weight": 1.0, "inner_rate": 0.2, "radius": 0.2}


def test_a_shared_batch_is_a_fixed_point():
    """At +0.2 dark images are bright to both networks alike: no step moves them, whatever the number of steps."""
    image = jnp.array([0.4, 0.45])[:, None, None, None] + jnp.zeros((2, 2, 2, 1))
    found = perturbation(_brightness((3.0, 5.0)), image, jnp.zeros(2, jnp.int32), jnp.ones(2), SETTINGS, 5)
    np.testing.assert_array_equal(found, jnp.full_like(image, 0.2))


def test_rows_that_are_not_shared_move_alone():
    """A bright image stays bright at +0.2; each step darkens it by 0.2 until at -0.2 both networks call it dark."""
    image = jnp.array([0.4, 0.6])[:, None, None, None] + jnp.zeros((2, 2, 2, 1))
    label, weight = jnp.array([0, 1]), jnp.ones(2)
    for steps, expected in ((1, 0.0), (2, -0.2), (5, -0.2)):
        found = perturbation(_brightness((5.0, 5.0)), image, label, weight, SETTINGS, steps)
        np.testing.assert_array_equal(found[0], jnp.full_like(image[0], 0.2))
        np.testing.assert_array_equal(found[1], jnp.full_like(image[0], expected))


def test_pixels_move_by_the_radius_or_not_at_all():
    net = dense()
    trained, backdoored = (net.init(jax.random.key(seed)) for seed in (0, 1))
    rows = sources.split(data()).read(jnp.array([*range(9), -1]))

    def networks(image):
        return Pair(net.apply(trained, image)[0], net.apply(backdoored, image)[0])

    found = perturbation(networks, rows.image, rows.label, rows.weight, SETTINGS, 5)
    np.testing.assert_array_equal(jnp.unique(found), [-0.2, 0, 0.2])
    np.testing.assert_array_equal(found[9], jnp.full(SHAPE, 0.2))  # padding has no gradient


def test_two_equal_networks_leave_the_adversarial_loss_alone():
    """The divergence of equal networks is 0 and flat, so that the first step follows the sign of cross-entropy."""
    net = dense()
    weights = net.init(jax.random.key(0))
    rows = sources.split(data()).read(jnp.arange(10))

    def logits(image):
        return net.apply(weights, image)[0]

    def losses(image):
        found = logits(image)
        return train.cross_entropy(found, rows.label, jnp.argmax(found, 1) == jnp.argmax(logits(rows.image), 1))

    settings = SETTINGS | {"inner_rate": 0.1}
    one = perturbation(lambda image: Pair(*[logits(image)] * 2), rows.image, rows.label, rows.weight, settings, 1)
    expected = jnp.minimum(0.2 + 0.1 * jnp.sign(jax.grad(losses)(rows.image + 0.2)), 0.2)
    still = jnp.argmax(logits(rows.image + 0.2), 1) == jnp.argmax(logits(rows.image), 1)
    assert jnp.sum(still) > 0
    np.testing.assert_allclose(one[still], expected[still], atol=1e-15)


@pytest.mark.parametrize(("chance", "flat"), [(0.0005, True), (0.01, False), (0.9, False), (0.9995, False)])
def test_shared_risk_and_its_clamps(chance, flat):
    """Below 0.001 the risk is what it is at 0.001 and has no slope; above, its slope is 1 / (1 - p)."""

    def risk(logit):
        logits = jnp.stack([jnp.array([logit, 0.0]), jnp.zeros(2), jnp.zeros(2)])
        return shared_risk(logits, jnp.zeros(3, jnp.int32), jnp.array([True, False, True]), jnp.array([1.0, 1.0, 0.0]))

    value, slope = jax.value_and_grad(risk)(jnp.log(chance / (1 - chance)))
    np.testing.assert_allclose(value, -np.log(1 + 1e-6 - max(chance, 0.001)) / 2, rtol=1e-9)
    np.testing.assert_allclose(slope, 0 if flat else chance / 2, rtol=3e-3)


def _outer(settings):
    """The outer loss of a network that reads its logits off the images, and of a victim that adds its weights."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return image[:, 0, 0] + weights.params, {}, {}

    rows = Batch(None, jnp.array([0, 0, 1]), jnp.arange(3), jnp.ones(3))
    clean, moved = one_hot(0, 0, 1)[:, None, None], one_hot(1, 0, 2)[:, None, None]
    own, victim = Weights(jnp.zeros(CLASSES), {}), Weights(jnp.array([0.0, 0.0, 1.0]), {})
    return outer_loss(Net(None, apply, ()), own, victim, clean, moved, rows, settings, False)


def test_weights_of_the_outer_loss():
    """Rows 0 and 2 are fooled, into classes 1 and 2, which the trained network gives e^4 / (e^4 + 2)."""
    weights = {"clean_weight": 0.0, "perturbed_weight": 0.0, "shared_weight": 0.0}
    sure, wrong = np.log(1 + 2 * np.exp(-4)), np.log(2 + np.exp(4))
    value, (_, info) = _outer(weights | {"clean_weight": 2.0})
    np.testing.assert_allclose(value, 2 * sure, rtol=1e-12)
    np.testing.assert_allclose([info["fooled"], info["shared"], info["accuracy"]], [2 / 3, 2 / 3, 1])
    np.testing.assert_allclose(_outer(weights | {"perturbed_weight": 3.0})[0], sure + 2 * wrong, rtol=1e-12)
    risk = -np.log(1e-6 + 1 - 1 / (1 + 2 * np.exp(-4)))
    np.testing.assert_allclose(_outer(weights | {"shared_weight": 3.0})[0], 2 * risk, rtol=1e-9)


def test_the_papers_weights():
    """Lambda 1 to 4 are 1, 1, 0.01 and 1, and there is no term for plain adversarial training."""
    spec = lookup("sau", REGISTRY, "defense")
    names = ("clean_weight", "shared_weight", "adversarial_weight", "divergence_weight", "perturbed_weight")
    assert [spec.traced[name] for name in names] == [1, 1, 0.01, 1, 0]
    assert spec.traced["inner_rate"] == spec.traced["radius"]


def test_amsgrad_by_hand():
    """A gradient of 1 moves by the rate; after one of 0 the largest square, 0.001, is still the first's."""
    rule = optimizers.amsgrad(0.1)
    state = rule.init(jnp.zeros(()))
    first, state = rule.update(jnp.array(1.0), state)
    second, state = rule.update(jnp.array(0.0), state)
    np.testing.assert_allclose(first, -0.1, rtol=1e-6)
    np.testing.assert_allclose(second, -0.1 * (0.09 / 0.19) / np.sqrt(0.001 / 0.001999), rtol=1e-6)


def test_without_a_fooled_row_it_is_adam_on_clean_rows():
    net, rows = dense(), data()
    victim = net.init(jax.random.key(1))
    found = unlearned("sau:epochs=1,radius=0,inner_rate=0", net, rows, victim)

    def loss(params):
        batch = sources.split(rows).read(jnp.arange(10))
        return train.cross_entropy(net.apply(victim.replace(params=params), batch.image)[0], batch.label, batch.weight)

    rule = optimizers.amsgrad(1e-4)
    updates, _ = rule.update(jax.grad(loss)(victim.params), rule.init(victim.params))
    expected = jax.tree.map(jnp.add, victim.params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found.params, expected)


def test_augmentation_is_a_setting():
    net, rows = dense(), data()
    victim = net.init(jax.random.key(1))
    plain, augmented = (unlearned(f"sau:epochs=1,augment={text}", net, rows, victim) for text in ("false", "true"))
    assert float(jnp.abs(augmented.params["out"] - plain.params["out"]).max()) > 1e-7


def test_what_is_trained_and_what_stays():
    net, rows = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=1), data()
    victim = net.init(jax.random.key(1))
    plain = unlearned("sau:epochs=1,batch=4,inner_steps=1", net, rows, victim)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), plain.params, victim.params)
    assert min(jax.tree.leaves(moved)) > 1e-5  # scales and biases of BatchNorm, too
    jax.tree.map(np.testing.assert_array_equal, plain.batch_stats, victim.batch_stats)
    learnt = unlearned("sau:epochs=1,batch=4,inner_steps=1,learn_statistics=true", net, rows, victim)
    assert float(jnp.abs(learnt.batch_stats["bn1"]["var"] - 1).max()) > 1e-2
