"""Facts of PDB: its trigger, its labels, its rows, and the network behind it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.parts.guarding import guarded, mask
from bdjax.defenses.pdb import PDB, disturbed
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.types import Data, Given, Net, Weights

SHAPE, CLASSES = (8, 8, 3), 3


def make(net, **static):
    spec = lookup("pdb:size=3", {"pdb": PDB}, "defense")
    return PDB.make(net, SHAPE, CLASSES, **spec.static | static)


def split(count, seed=0):
    """One bright row of pixels for each class."""
    label = np.arange(count, dtype=np.int32) % CLASSES
    image = np.random.default_rng(seed).integers(0, 100, (count, *SHAPE), np.uint8)
    image[np.arange(count), 3 + label] += 150
    return Data(jnp.asarray(image), jnp.asarray(label))


@pytest.mark.parametrize(
    ("trigger", "size", "expected"),
    [
        ("block", 2, ["##....", "##....", "......", "......", "......", "......"]),
        ("border", 1, ["######", "#....#", "#....#", "#....#", "#....#", "######"]),
        ("dashes", 1, ["#.#.##", "......", "#....#", "......", "#....#", "#.#.#."]),
    ],
)
def test_pixels_of_the_trigger(trigger, size, expected):
    found = mask(trigger, size, 6, 6)[:, :, 0]
    np.testing.assert_array_equal(found, [[pixel == "#" for pixel in row] for row in expected])


def test_logits_are_read_at_the_defensive_label():
    """K = 3 and h(y) = y + 1: class 0 is scored by logit 1, class 1 by logit 2, class 2 by logit 0."""
    net = Net(None, lambda weights, image, *args, **kwargs: (jnp.array([[10.0, 11.0, 12.0]]), {}, {}), ())
    logits, _, _ = guarded(net, lambda image: image, 1).apply(None, jnp.zeros((1, *SHAPE)))
    np.testing.assert_array_equal(logits, [[11, 12, 10]])


def test_the_other_order_is_wrong_everywhere():
    """A network that gives h(y) on every stamped image is always right behind the trigger, never if rolled back."""
    label = jnp.arange(CLASSES)
    net = Net(
        None, lambda weights, image, *args, **kwargs: (jax.nn.one_hot((label + 1) % CLASSES, CLASSES), {}, {}), ()
    )
    image = jnp.zeros((CLASSES, *SHAPE))
    right, _, _ = guarded(net, lambda image: image, 1).apply(None, image)
    wrong, _, _ = guarded(net, lambda image: image, -1).apply(None, image)
    np.testing.assert_array_equal(jnp.argmax(right, 1), label)
    assert not np.any(jnp.argmax(wrong, 1) == label)


def test_inference_stamps_exactly():
    seen = Net(None, lambda weights, image, *args, **kwargs: (jnp.zeros((1, CLASSES)), {}, {"image": image}), ())
    (stage,) = make(seen)
    taps = stage.wrap(seen).apply(None, jnp.full((1, *SHAPE), 0.25), train=True)[2]
    np.testing.assert_array_equal(taps["image"][0, :3, :3], 2.0)
    np.testing.assert_array_equal(taps["image"][0, 3:], 0.25)
    np.testing.assert_array_equal(taps["image"][0, :, 3:], 0.25)


def test_rows_and_their_disturbance():
    """Six training rows as they are, then four clean ones five times, stamped, relabelled and disturbed."""

    def apply(weights, image, train=False, weight=None, edit=None):
        logits = jnp.broadcast_to(weights.params["w"], (len(image), CLASSES))
        return logits, {"seen": image}, {}

    net = Net(lambda key: Weights({"w": jnp.zeros(CLASSES)}, {"seen": jnp.zeros((26, *SHAPE))}), apply, ())
    settings = {"learning_rate": 0.0, "dimmed": 1.0, "turned": 0.0, "angle": 0.0}
    given = Given(settings, lambda key, image: image, train=sources.split(split(6)), clean=sources.split(split(4, 1)))
    (stage,) = make(net, batch=26)
    rows = stage.source(given).read(jnp.arange(26, dtype=jnp.int32))
    np.testing.assert_array_equal(rows.label[:6], np.arange(6) % 3)
    np.testing.assert_array_equal(rows.label[6:], np.tile([1, 2, 0, 1], 5))
    np.testing.assert_array_equal(rows.image[6:, :3, :3], 2.0)
    np.testing.assert_array_equal(rows.image[6:10], rows.image[22:])
    state, _ = stage.step(jax.random.key(0), stage.init(jax.random.key(1), given, None), rows, given)
    seen = stage.finish(None, state, given).weights.batch_stats["seen"]
    np.testing.assert_array_equal(seen[:6], rows.image[:6])
    factor = np.asarray(seen[6:, 0, 0, 0]) / 2
    assert factor.min() >= 0.5 and factor.max() <= 1 and len(set(factor)) == 20
    np.testing.assert_allclose(seen[6:], factor[:, None, None, None] * rows.image[6:], rtol=1e-5)


def test_turned_images_hold_old_pixels_and_black():
    image = jnp.arange(1.0, 65.0).reshape(1, 8, 8, 1)
    settings = {"dimmed": 0.0, "turned": 1.0, "angle": 45.0}
    found = disturbed(jax.random.key(3), image, settings)
    assert set(np.unique(found)) <= set(range(65))
    assert not np.array_equal(found, image)
    np.testing.assert_array_equal(disturbed(jax.random.key(3), image, settings | {"angle": 0.0}), image)


def test_learns_to_classify_behind_the_trigger():
    net = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=4)
    spec = lookup("pdb", {"pdb": PDB}, "defense")
    (stage,) = make(net, epochs=8, batch=30)

    def given(operands):
        settings = spec.traced | {"learning_rate": 0.1}
        train_rows, clean = (sources.split(data) for data in operands)
        return Given(settings, lambda key, image: image, train=train_rows, clean=clean)

    weights = train.fit(jax.random.key(0), stage, given, (split(60), split(30, 1))).weights
    test = sources.split(split(60, 2)).read(jnp.arange(60))

    def accuracy(network):
        return float(jnp.mean(jnp.argmax(network.apply(weights, test.image)[0], 1) == test.label))

    assert accuracy(stage.wrap(net)) > 0.9
    assert accuracy(net) > 0.9
    assert accuracy(guarded(net, lambda image: image, 1)) < 0.1  # permuted without the trigger


@pytest.mark.parametrize(("static", "message"), [({"size": 8}, "size=8"), ({"shift": 3}, "shift=3")])
def test_useless_settings_are_refused(static, message):
    with pytest.raises(InvalidInput, match=message):
        make(None, **static)
