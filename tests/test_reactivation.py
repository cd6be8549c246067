"""Facts of the reactivation audit: which rows its generator learns from, its objective and its rates by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax import train
from bdjax.audits.reactivation import REACTIVATION, divergence, drawn, objective, perturbed, pool, rates
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.models.auxiliary.perturbation import perturbation
from bdjax.types import Batch, Data, Given, Net, Weights

SHAPE, CLASSES = (8, 8, 3), 3


def split(count, seed=0):
    """One bright row of pixels for each class."""
    label = np.arange(count, dtype=np.int32) % CLASSES
    image = np.random.default_rng(seed).integers(0, 100, (count, *SHAPE), np.uint8)
    image[np.arange(count), label] += 150
    return Data(jnp.asarray(image), jnp.asarray(label))


def white(source, label=None):
    """The last two rows of pixels white; with the wanted label, or the true one."""

    def change(batch):
        wanted = batch.label if label is None else jnp.full_like(batch.label, label)
        return batch.replace(image=batch.image.at[:, -2:].set(1.0), label=wanted)

    return sources.mapped(source, change)


def door(settings, victim, clean_model, clean, test):
    clean, test = sources.split(clean), sources.split(test)
    return Given(
        settings,
        lambda key, image: image,
        clean=clean,
        victim=victim,
        clean_model=clean_model,
        poisoned=white(sources.split(split(30, 9)), 0),
        triggered=white(clean),
        queries=white(test),
        target=jnp.zeros_like,
        test=test,
    )


def audit(net, text="reactivation"):
    spec = lookup(text, {"reactivation": REACTIVATION}, "audit")
    return REACTIVATION.make(net, SHAPE, CLASSES, **spec.static), spec.traced


def test_it_is_an_oracle():
    assert REACTIVATION.card.oracle


def test_rows_are_clean_ones_and_other_ones_with_the_trigger():
    """Of 12 rows the 8 that the attack moves are those of labels 1 and 2."""
    label = np.arange(12) % 3
    found = np.asarray(drawn(jax.random.key(0), jnp.asarray(label != 0), 4, 4))
    clean, triggered = found[:4], found[4:] - 12
    assert len(set(clean)) == 4 and len(set(triggered)) == 4
    assert not set(clean) & set(triggered)
    assert set(label[triggered]) <= {1, 2}
    all_moved = np.asarray(drawn(jax.random.key(0), jnp.asarray(label != 0), 12, 12))
    assert set(all_moved[:12]) == set(range(12))
    # There are but 8: they come once, then 4 of them once more.
    moving = all_moved[12:] - 12
    assert set(moving) == set(np.flatnonzero(label))
    np.testing.assert_array_equal(moving[8:], moving[:4])


def test_pool_is_clean_rows_then_their_triggered_copies():
    given = door({}, None, None, split(5), split(6))
    rows = pool(given).read(jnp.array([3, 8]))
    np.testing.assert_array_equal(rows.image[1, -2:], 1)
    np.testing.assert_array_equal(rows.image[1, :6], rows.image[0, :6])
    np.testing.assert_array_equal(rows.label, [0, 0])


def test_generator_by_hand():
    """Two values, width 2, all weights 1/2 and no bias: x - 1/2 by 1/4 is (1, -3/5), its halved sum 1/5.

    Each further layer halves and adds two alike: 1/5 thrice more, then tanh.
    """
    generator = perturbation((1, 1, 2), 2)
    weights = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.5 * (leaf.ndim == 2)), generator.init(jax.random.key(0)))
    image = jnp.array([0.75, 0.35]).reshape(1, 1, 1, 2)
    found = generator.apply(weights, image)[0]
    np.testing.assert_allclose(found, np.full((1, 1, 1, 2), np.tanh(0.2)), rtol=1e-6)
    changed = perturbed(generator, weights, 0.1, jnp.array([0.99, 0.11]).reshape(1, 1, 1, 2))
    # (0.49 - 0.39) / 0.25 / 2 is 0.2 again; the first value is cut at white.
    np.testing.assert_allclose(changed.ravel(), [1, 0.11 + 0.1 * np.tanh(0.2)], rtol=1e-5)


def test_generator_starts_as_pytorch_does():
    """Uniform within 1/sqrt(inputs), biases too: 192 inputs, then 50."""
    params = perturbation(SHAPE, 50).init(jax.random.key(0)).params
    for name, inputs in (("linear1", 192), ("linear2", 50), ("linear3", 50), ("linear4", 50)):
        for leaf in params[name].values():
            assert 0.8 < float(jnp.abs(leaf).max()) * np.sqrt(inputs) <= 1
    assert params["linear4"]["bias"].shape == (192,)


def test_divergence_by_hand():
    """KL of (3/4, 1/4) to (1/2, 1/2) is log 2 less the entropy; the second row does not count."""
    teacher = jnp.log(jnp.array([[0.75, 0.25], [0.5, 0.5]]))
    student = jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]]))
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    np.testing.assert_allclose(divergence(teacher, student, jnp.array([1.0, 0.0])), expected, rtol=1e-5)
    np.testing.assert_allclose(divergence(teacher, teacher, jnp.ones(2)), 0, atol=1e-7)


def test_objective_by_hand():
    """Models of one weight whose logits are (w x, 0): the teacher sees x, both others x with its perturbation."""

    def apply(weights, image, *args, **kwargs):
        return jnp.stack([weights.params["w"] * image[:, 0, 0, 0], jnp.zeros(len(image))], 1), {}, {}

    def model(w):
        return Weights({"w": jnp.array(w)}, {})

    generator = Net(None, lambda weights, image: (jnp.ones_like(image), {}, {}), ())
    settings = {"epsilon": jnp.array(0.1), "alpha": jnp.array(0.5)}
    given = Given(settings, None, victim=model(2.0), clean_model=model(3.0))
    rows = Batch(jnp.full((1, 1, 1, 1), 0.4), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), jnp.ones(1))
    value, info = objective(Net(None, apply, ()), generator, model(0.0), model(5.0), rows, given)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    teacher, student = sigmoid(5 * 0.4), sigmoid(2 * 0.5)
    copied = teacher * np.log(teacher / student) + (1 - teacher) * np.log((1 - teacher) / (1 - student))
    kept = -np.log(sigmoid(3 * 0.5))
    np.testing.assert_allclose([info["copied"], info["kept"]], [copied, kept], rtol=1e-5)
    np.testing.assert_allclose(value, 0.5 * copied + kept, rtol=1e-6)


def test_the_clean_model_is_asked_by_the_network_that_it_was_made_for():
    """A defense has put in a layer that doubles logits; the clean model, logits (w x, 0), lacks it."""

    def apply(weights, image, *args, **kwargs):
        return jnp.stack([weights.params["w"] * image[:, 0, 0, 0], jnp.zeros(len(image))], 1), {}, {}

    def doubled(weights, image, *args, **kwargs):
        return weights.params["layer"] * apply(weights, image)[0], {}, {}

    wide = Net(None, doubled, (), plain=Net(None, apply, ()))
    generator = Net(None, lambda weights, image: (jnp.zeros_like(image), {}, {}), ())
    purified = Weights({"w": jnp.array(1.0), "layer": jnp.array(2.0)}, {})
    given = Given({"epsilon": 0.1, "alpha": 1.0}, None, victim=purified, clean_model=Weights({"w": jnp.array(3.0)}, {}))
    rows = Batch(jnp.full((1, 1, 1, 1), 0.5), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), jnp.ones(1))
    _, info = objective(wide, generator, Weights({}, {}), purified, rows, given)
    np.testing.assert_allclose(info["kept"], np.log1p(np.exp(-1.5)), rtol=1e-6)
    np.testing.assert_allclose(info["copied"], 0, atol=1e-7)


def test_rates_by_hand():
    """Every image but the first is darkened; what is dark is taken for 0, else white means 1, else the label is seen.

    Of 6 test images of labels 0, 1, 2, 0, 1, 2 the first is the only bright one: 2 of 6 are right (0 and 3); of the 4
    that the attack moves all are sent to 0, with the trigger and without it.
    """

    def apply(weights, image, *args, **kwargs):
        seen = jnp.where(image[:, -1, 0, 0] == 1, 1, jnp.argmax(image[:, :3].mean((2, 3)), 1))
        return jax.nn.one_hot(jnp.where(image[:, 4, 0, 0] == 0, 0, seen), CLASSES), {}, {}

    def change(image):
        return image.at[1:, 4, 0, 0].set(0.0)

    given = door({}, None, None, split(6), split(6))
    found = rates(Net(None, apply, ()), Weights({}, {}), given, change)
    np.testing.assert_allclose([found["acc"], found["asr"], found["activation"]], [2 / 6, 1, 1], rtol=1e-6)
    same = rates(Net(None, apply, ()), Weights({}, {}), given, lambda image: image)
    np.testing.assert_allclose([same["acc"], same["asr"], same["activation"]], [1, 0, 0], rtol=1e-6)


def linear():
    """One linear layer, which learns the trigger, and compiles in no time."""
    size = int(np.prod(SHAPE))

    def init(key):
        return Weights({"kernel": jax.random.normal(key, (size, CLASSES)) / np.sqrt(size)}, {})

    def apply(weights, image, train=False, weight=None, edit=None):
        return (image - 0.5).reshape(len(image), -1) @ weights.params["kernel"], {}, {}

    return Net(init, apply, ())


def fitted(net, seed, source):
    stage = train.supervised(net, lambda given: given.train, epochs=20, batch=20, fresh=True, augment=False)

    def given(operands):
        settings = {"learning_rate": 0.1, "momentum": 0.9}
        return Given(settings, lambda key, image: image, train=source(sources.split(operands)))

    return train.fit(jax.random.key(seed), stage, given, split(60)).weights


def test_generator_wakes_the_backdoor_and_leaves_a_clean_model_alone():
    """The victim has learnt the trigger from 2 rows, which sends some images to the target; a retuned copy learns 6."""
    net = linear()
    victim = fitted(net, 1, lambda rows: sources.concatenated(rows, sources.subset(white(rows, 0), jnp.arange(2))))
    clean_model = fitted(net, 2, lambda rows: rows)
    text = "rows=40,poisoned=6,epochs=9,batch=20,learning_rate=0.1,width=32,generator_epochs=40,generator_batch=40"
    question, settings = audit(net, f"reactivation:{text},epsilon=0.1,alpha=5")

    def given(operands):
        return door(settings, *operands)

    operands, previous = (victim, clean_model, split(60), split(30, 1)), None
    for number, stage in enumerate(question.stages):
        previous = train.fit(jax.random.key(number), stage, given, operands, previous)
    before = rates(net, victim, given(operands), lambda image: image)
    after = question.measure(None, net, previous, given(operands))
    assert before["asr"] < 0.6 and after["asr"] > 0.8
    assert after["acc"] > 0.9 and after["acc_clean_model"] > 0.9
    for name in ("activation", "activation_clean_model", "asr_clean_model"):
        assert after[name] < 0.1, name
