"""Facts of NAB: suspects, their labels, the stamp in training and at inference, and the rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.nab import NAB, center_labels, relabeled
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.types import Data, Given, Net, Weights

SHAPE, CLASSES = (8, 8, 3), 3


def made(net, text):
    spec = lookup(text, {"nab": NAB}, "defense")
    return NAB.make(net, SHAPE, CLASSES, **spec.static), Given(spec.traced, lambda key, image: image)


def numbers(first=jnp.zeros(CLASSES)):
    """A network whose logits are its parameters, whatever the image."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return jnp.broadcast_to(weights.params["w"], (len(image), CLASSES)), weights.batch_stats, {"image": image}

    return Net(lambda key: Weights({"w": first}, {}), apply, ())


def data(label, level=0):
    return Data(jnp.full((len(label), *SHAPE), level, jnp.uint8), jnp.asarray(label, jnp.int32))


def test_nearest_center_of_rows_that_are_kept():
    """Centers 1 and 4: the row at 9 belongs to no center, 2.4 is nearer to 1, and class 2 has no center."""
    point = jnp.array([[0.0], [2], [4], [9], [2.4], [4.1]])
    label, kept = jnp.array([0, 0, 1, 1, 1, 2]), jnp.array([True, True, True, False, False, False])
    np.testing.assert_array_equal(center_labels(point, label, kept, 3), [0, 0, 1, 1, 0, 1])


def test_suspects_alone_get_labels_and_stamps():
    """A share of .5 of four rows are the two of lowest loss; of these one keeps its label and gets no stamp."""
    found = relabeled(jnp.array([2, 2, 2, 2]), jnp.array([0, 1, 2, 0]), jnp.array([0.1, 5, 0.2, 3]), jnp.array(0.5))
    np.testing.assert_array_equal(found["label"], [2, 1, 2, 0])
    np.testing.assert_array_equal(found["stamped"], [True, False, False, False])


def test_a_classifier_judges_stamped_images():
    """Logits are the brightness of three pixels: a dark image is class 1, behind the stamp of 51 levels class 0."""

    def apply(weights, image, train=False, weight=None, edit=None):
        pixels = jnp.stack([image[:, 0, 0, 0], image[:, 5, 0, 0], image[:, 6, 0, 0]], 1)
        return pixels + 0 * weights.params["w"], {}, {}

    net = Net(lambda key: Weights({"w": jnp.zeros(CLASSES)}, {}), apply, ())
    (_, judge, _), given = made(net, "nab:value=51,share=1,label_epochs=1,label_batch=2")
    rows = data([2, 1, 0])
    rows = rows.replace(image=rows.image.at[0, 5].set(50).at[1, 5].set(52).at[2, 6].set(200))
    given = given._replace(train=sources.split(rows), clean=sources.split(rows), carry={"losses": jnp.zeros(3)})
    state = judge.init(jax.random.key(0), given, None)
    left = judge.finish(jax.random.key(0), state, given)
    np.testing.assert_array_equal(left.carry["label"], [0, 1, 2])
    np.testing.assert_array_equal(left.carry["stamped"], [True, False, True])


def test_training_reads_new_labels_and_stamps_after_augmentation():
    """Rows 1 and 2 have another label now, row 1 a stamp of 2x2 pixels of 51 levels, .2, on what is augmented to .5."""
    seen = []

    def apply(weights, image, train=False, weight=None, edit=None):
        seen.append(image)
        return jnp.broadcast_to(weights.params["w"], (len(image), CLASSES)), {}, {}

    net = Net(lambda key: Weights({"w": jnp.zeros(CLASSES)}, {}), apply, ())
    (_, _, learn), given = made(net, "nab:value=51,batch=3,epochs=1,schedule=constant,momentum=0,weight_decay=0")
    carry = {"label": jnp.array([0, 0, 0]), "stamped": jnp.array([False, True, False])}
    given = given._replace(train=sources.split(data([0, 1, 2])), carry=carry, augment=lambda key, image: image + 0.5)
    state = learn.init(jax.random.key(0), given, None)
    rows = learn.source(given).read(jnp.arange(3))
    with jax.disable_jit():
        after, _ = learn.step(jax.random.key(0), state, rows, given)
    image = np.asarray(seen[-1])
    np.testing.assert_allclose(image[1, :2, :2], 0.2, rtol=1e-6)
    np.testing.assert_allclose(np.delete(image, 1, 0), 0.5)
    np.testing.assert_allclose([image[1, 2:].min(), image[1, :, 2:].min()], 0.5)
    np.testing.assert_allclose(after.moving["w"], 0.1 * np.array([2, -1, -1]) / 3, rtol=1e-5)
    assert set(learn.finish(jax.random.key(0), after, given).carry) == {"label", "stamped"}


def test_every_image_is_stamped_at_inference():
    (_, _, last), _ = made(numbers(jnp.arange(3.0)), "nab:size=3,value=255")
    logits, _, taps = last.wrap(numbers()).apply(Weights({"w": jnp.arange(3.0)}, {}), jnp.full((2, *SHAPE), 0.25))
    np.testing.assert_array_equal(taps["image"][:, :3, :3], 1)
    np.testing.assert_array_equal(taps["image"][:, 3:], 0.25)
    np.testing.assert_array_equal(taps["image"][:, :, 3:], 0.25)
    np.testing.assert_array_equal(logits, [[0, 1, 2]] * 2)


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.2), (1, 0.2), (2, 0.1 * (1 + np.cos(np.pi / 10)))])
def test_the_rate_of_isolation_falls_an_epoch_late(epoch, rate):
    """One step on label 1 from 0: w = -rate (1/3, -2/3, 1/3)."""
    (isolate, _, _), given = made(numbers(), "nab:isolation_rate=0.2,isolation_decay=0,isolation_period=10,momentum=0")
    given = given._replace(train=sources.split(data([1, 1])))
    state = isolate.init(jax.random.key(0), given, None).replace(step=jnp.int32(epoch))
    after, _ = isolate.step(jax.random.key(0), state, given.train.read(jnp.arange(2)), given)
    np.testing.assert_allclose(after.moving["w"], -rate / 3 * np.array([1, -2, 1]), rtol=1e-5)


@pytest.mark.parametrize(("text", "expected"), [("true", False), ("false", True)])
def test_rows_come_in_their_order_where_they_are_not_shuffled(text, expected):
    (isolate, _, _), given = made(numbers(), f"nab:shuffle={text},isolation_batch=4")
    given = given._replace(train=sources.split(data([0] * 9)))
    state = isolate.init(jax.random.key(0), given, None)
    order = np.asarray(isolate.order(jax.random.key(1), state, jnp.int32(0), given))
    assert order.shape == (3, 4) and (list(order.ravel()[:9]) == list(range(9))) == expected


def test_suspects_are_what_is_learned_first():
    """24 of 120 rows of noise are half white and labeled 0. All of the 12 of lowest loss are of them."""
    net = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=4)
    image = np.random.default_rng(0).integers(0, 256, (120, *SHAPE), np.uint8)
    label = np.arange(120, dtype=np.int32) % CLASSES
    image[:24, :4], label[:24] = 255, 0
    (isolate, _, _), given = made(net, "nab:isolation_epochs=4,isolation_batch=20")
    rows = Data(jnp.asarray(image), jnp.asarray(label))
    left = train.fit(jax.random.key(0), isolate, lambda rows: given._replace(train=sources.split(rows)), rows)
    assert np.all(np.argsort(left.carry["losses"])[:12] < 24)


def test_a_stamp_must_leave_some_of_the_image():
    with pytest.raises(InvalidInput, match="size=8 covers the whole 8x8 image"):
        made(numbers(), "nab:size=8")


def test_presets_and_what_they_need():
    paper, benchmark = (lookup(f"nab:preset={preset}", {"nab": NAB}, "defense") for preset in ("paper", "benchmark"))
    assert NAB.card.needs_of(paper.static) == ("train", "clean")
    assert NAB.card.needs_of(benchmark.static) == ("train",)
    np.testing.assert_allclose((paper.traced["share"], benchmark.traced["share"]), (0.05, 0.1))
    np.testing.assert_allclose((paper.traced["isolation_decay"], benchmark.traced["isolation_decay"]), (1e-4, 5e-4))
