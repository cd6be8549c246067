"""Facts of the retuning audit: which rows it tunes on, how they are augmented, and what it measures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.audits.retuning import RETUNING, augmented, drawn, pool
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.data.images import augmentation
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.types import Data, Given, Net, Trained, Weights

SHAPE, CLASSES = (8, 8, 3), 3


def split(count, seed=0):
    """One bright row of pixels for each class."""
    label = np.arange(count, dtype=np.int32) % CLASSES
    image = np.random.default_rng(seed).integers(0, 100, (count, *SHAPE), np.uint8)
    image[np.arange(count), label] += 150
    return Data(jnp.asarray(image), jnp.asarray(label))


def stamped(source, label=None):
    """The last two rows of pixels white; with the wanted label, or the true one."""

    def change(batch):
        wanted = batch.label if label is None else jnp.full_like(batch.label, label)
        return batch.replace(image=batch.image.at[:, -2:].set(1.0), label=wanted)

    return sources.mapped(source, change)


def door(settings, victim, clean, test, augment=lambda key, image: image):
    clean, test = sources.split(clean), sources.split(test)
    return Given(
        settings,
        augment,
        clean=clean,
        victim=victim,
        poisoned=stamped(sources.split(split(50, 9)), 0),
        queries=stamped(test),
        target=jnp.zeros_like,
        test=test,
    )


def audit(net, text="retuning"):
    spec = lookup(text, {"retuning": RETUNING}, "audit")
    return RETUNING.make(net, SHAPE, CLASSES, **spec.static), spec.traced


def test_it_is_an_oracle():
    assert RETUNING.card.oracle


def test_rows_are_distinct_and_the_poisoned_ones_are_all_in():
    found = np.asarray(drawn(jax.random.key(0), 20, 12, 5))
    assert len(set(found)) == 12
    np.testing.assert_array_equal(found[-5:], np.arange(20, 25))
    assert set(found[:7]) <= set(range(20))


def test_pool_is_clean_rows_then_the_first_poisoned_ones():
    given = door({}, None, split(20), split(6))
    source = pool(given, 5)
    assert source.size == 25
    rows = source.read(jnp.array([3, 20, 24]))
    first = sources.split(split(50, 9)).read(jnp.array([0, 4]))
    np.testing.assert_allclose(rows.image[1:, :6], first.image[:, :6], rtol=1e-6)
    np.testing.assert_array_equal(rows.image[1:, -2:], 1.0)
    np.testing.assert_array_equal(rows.label, [0, 0, 0])


def seen(text, keys, epoch_rows):
    """What the network is shown at two steps, by a network whose statistics are its images."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return jnp.broadcast_to(weights.params["w"], (len(image), CLASSES)), {"seen": image}, {}

    net = Net(None, apply, ())
    (stage,), _ = audit(net, text)[0].stages, None
    victim = Weights({"w": jnp.zeros(CLASSES)}, {"seen": jnp.zeros((len(epoch_rows), *SHAPE))})
    settings = {"learning_rate": 0.0, "momentum": 0.0, "weight_decay": 0.0}
    given = door(settings, victim, split(20), split(6), augmentation(2, True))
    state = stage.init(jax.random.key(5), given, None)
    rows = stage.source(given).read(jnp.asarray(epoch_rows))
    after = [stage.step(jax.random.key(key), state, rows, given)[0] for key in keys]
    return rows.image, [stage.finish(None, state, given).weights.batch_stats["seen"] for state in after]


def test_augmentation_is_frozen_unless_asked_for():
    rows = [4, 11, 7, 20, 22]
    plain, (one, two) = seen("retuning:rows=12", (0, 1), rows)
    np.testing.assert_array_equal(one, two)
    _, (fresh, other) = seen("retuning:rows=12,fresh=true", (0, 1), rows)
    assert not np.array_equal(fresh[:3], other[:3])
    for shown in (one, fresh, other):
        assert not np.array_equal(shown[:3], plain[:3])
        np.testing.assert_array_equal(shown[3:], plain[3:])  # poisoned images are never augmented


def test_frozen_augmentation_is_the_rows_own_wherever_it_stands():
    image = sources.split(split(6)).read(jnp.arange(6)).image
    turn = jnp.array([3, 1, 5, 0, 4, 2])
    one = augmented(jax.random.key(0), augmentation(2, True), image, jnp.arange(6))
    two = augmented(jax.random.key(0), augmentation(2, True), image[turn], turn)
    np.testing.assert_array_equal(one[turn], two)


def test_measures_by_hand():
    """The prediction is 0 where the last row is white, else the label but for one: acc 5/6; of 4 others all are hit."""

    def apply(weights, image, *args, **kwargs):
        bright = jnp.argmax(image[:, :3].mean((2, 3)), 1).at[0].set(2)
        return jax.nn.one_hot(jnp.where(image[:, -1, 0, 0] == 1, 0, bright), CLASSES), {}, {}

    net = Net(None, apply, ())
    measure = audit(net)[0].measure
    given = door({}, None, split(20), split(6))
    found = measure(jax.random.key(0), net, Trained(Weights({}, {})), given)
    np.testing.assert_allclose([found["acc"], found["asr"], found["ra"]], [5 / 6, 1, 0], rtol=1e-6)


def test_retuning_brings_a_backdoor_into_a_network():
    """Enough poisoned rows at a high rate teach any network the backdoor; with none it stays away."""
    net = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=4)

    def asr(poisoned):
        question, settings = audit(net, f"retuning:rows=60,poisoned={poisoned},batch=20,epochs=12,learning_rate=0.1")

        def given(operands):
            return door(settings, *operands)

        operands = (net.init(jax.random.key(0)), split(60), split(30, 1))
        trained = train.fit(jax.random.key(0), question.stages[0], given, operands)
        return {name: float(value) for name, value in question.measure(None, net, trained, given(operands)).items()}

    with_poison, without = asr(15), asr(0)
    assert with_poison["acc"] > 0.9 and without["acc"] > 0.9
    assert with_poison["asr"] > 0.8
    assert without["asr"] < 0.5


def test_too_many_poisoned_rows_are_refused():
    net = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
    question, settings = audit(net, "retuning:poisoned=20")
    with pytest.raises(InvalidInput, match="poisoned=20"):
        question.stages[0].init(jax.random.key(0), door(settings, None, split(20), split(6)), None)
