"""Neural Cleanse: the controller and the rule for outliers by hand, what inversion finds, and what is unlearned."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data.sources import split
from bdjax.defenses import DEFENSES
from bdjax.defenses.nc import rows_of
from bdjax.keys import root
from bdjax.train import inversion
from bdjax.types import Data, Given, Layer, Net, Trained, Weights

SHAPE, CLASSES, ROWS = (4, 4, 1), 4, 20


@pytest.mark.parametrize(
    ("norms", "flagged"),
    [
        ((55, 60, 48, 52, 63, 12, 58, 50, 61, 57), {5}),
        ((20, 60, 48, 52, 63, 12, 58, 50, 61, 57), {0, 5}),
        ((30, 30, 30, 31, 30, 12, 30, 30, 30, 30), {5}),  # the median deviation is 0: 0 / 0 is no outlier
    ],
)
def test_outliers_worked_out_by_hand(norms, flagged):
    for median in ("mean", "lower"):
        assert set(np.flatnonzero(inversion.outliers(jnp.asarray(norms, jnp.float32), median)[1])) == flagged


def test_the_median_of_an_even_number_of_norms():
    """Of 2, 9, 10, 12 it is 9.5 or 9. Deviations are 7.5, .5, .5, 2.5, median 1.5; or 7, 0, 1, 3, median 1."""
    norms = jnp.array([2.0, 9.0, 10.0, 12.0])
    for median, index in (("mean", 7.5 / (1.4826 * 1.5)), ("lower", 7 / 1.4826)):
        np.testing.assert_allclose(inversion.outliers(norms, median)[0][0], index, rtol=1e-6)


def course(successes, norms, free_start=False, keep="first", enough=0.98, strict=True):
    """The controllers of one class after each pass of a course, as the benchmark has it unless said otherwise."""
    state, found = inversion.begin_controller(1, SHAPE, free_start), []
    step = partial(inversion.control, enough=enough, strict_gain=strict, keep=keep)
    for number, (success, norm) in enumerate(zip(successes, norms, strict=True)):
        mask = jnp.full((1, 4, 4, 1), float(number))
        pattern = jnp.full((1, *SHAPE), float(number))
        state = step(state, jnp.array([success]), jnp.array([float(norm)]), mask, pattern)
        found.append(state)
    return found


def test_lambda_doubles_after_five_good_passes_and_falls_after_five_bad_ones():
    found = course([1.0] * 5 + [0.9] * 5 + [0.98] * 5, range(100, 85, -1))
    weights = [float(state.weight[0]) / inversion.START for state in found]
    np.testing.assert_allclose(weights, [1] * 4 + [2] * 5 + [2**-0.5] * 5 + [2**0.5], rtol=1e-6)
    assert found[-1].raised[0] and found[-1].lowered[0]


def test_lambda_is_0_until_the_trigger_has_worked_five_times():
    """It begins with the pass that is the fifth in a row, the first of the five after which it doubles."""
    found = course([1.0] * 4 + [0.9] + [1.0] * 9 + [0.9] * 5, range(100, 81, -1), free_start=True)
    weights = [float(state.weight[0]) / inversion.START for state in found]
    np.testing.assert_allclose(weights, [0] * 9 + [1] * 4 + [2] * 5 + [2**-0.5], rtol=1e-6)
    assert not found[9].raised[0] and found[13].raised[0] and found[-1].lowered[0]


def test_what_lowered_a_lambda_of_0_is_forgotten_when_it_begins():
    found = course([0.5] * 5 + [1.0] * 5, range(10), free_start=True)
    assert found[4].lowered[0] and not found[-1].lowered[0] and found[-1].weight[0] == np.float32(inversion.START)


def test_success_must_be_99_percent_and_any_smaller_norm_is_a_gain_as_the_authors_have_it():
    found = course([0.985, 0.99, 1.0], [9, 8, 7.95], enough=0.99, strict=False)
    assert [float(state.norm[0]) for state in found] == [np.inf, 8, np.float32(7.95)]
    assert [int(state.waited[0]) for state in found] == [0, 0, 0]
    assert [int(state.waited[0]) for state in course([1.0, 1.0], [8, 7.95])] == [0, 1]  # less than a hundredth


def test_the_smallest_mask_that_worked_is_kept_and_the_first_or_last_where_none_did():
    for keep, masks in (("first", [0, 0, 2, 2, 2, 5]), ("last", [0, 1, 2, 2, 2, 5])):
        found = course([0.5, 0.5, 1.0, 1.0, 0.9, 1.0], [9, 9, 8, 8, 1, 7], keep=keep)
        assert [float(state.mask.max()) for state in found] == masks
        assert [float(state.norm[0]) for state in found] == [np.inf, np.inf, 8, 8, 8, 7]


def test_masks_and_patterns_begin_at_random_and_apart_for_each_class():
    (find, _), given = stages("")
    first = jax.tree.map(inversion.bounded, find.init(root(0), given(data()), None).moving)
    for value in jax.tree.leaves(first):
        assert 0 < value.min() < 0.2 and 0.8 < value.max() < 1 and not np.array_equal(value[0], value[1])
    (find, _), given = stages("preset=benchmark")
    first = jax.tree.map(inversion.bounded, find.init(root(0), given(data()), None).moving)
    for value in jax.tree.leaves(first):
        np.testing.assert_allclose(value, 0.5 + np.tanh(1) / 2, rtol=1e-6)


def test_a_class_ends_once_lambda_has_gone_both_ways_and_nothing_is_gained():
    found = course([1.0] * 5 + [0.5] * 5 + [1.0] * 40, [10] * 50)
    ended = next(index for index, state in enumerate(found) if state.done[0])
    assert ended == 25  # a gain at pass 0, then 25 passes without one
    jax.tree.map(np.testing.assert_array_equal, found[ended + 1], found[-1])


def backdoored() -> Net:
    """A net that says the class of the brightest row of pixels, and class 2 as soon as a corner is bright."""

    def apply(weights, image, train=False, weight=None, edit=None):
        bright = image[..., 0].mean(2)
        logits = 8 * bright + 60 * jax.nn.relu(image[:, :1, 0, 0] - 0.5) * jax.nn.one_hot(2, CLASSES)
        return logits + image.reshape(len(image), -1) @ weights.params["linear"]["kernel"], weights.batch_stats, {}

    def init(key):
        return Weights({"linear": {"kernel": jnp.zeros((16, CLASSES)), "bias": jnp.zeros(CLASSES)}}, {})

    return Net(init, apply, (Layer("linear", "linear", ("linear",), "linear"),))


def data() -> Data:
    label = np.arange(ROWS, dtype=np.int32) % CLASSES
    image = np.zeros((ROWS, *SHAPE), np.uint8)
    image[np.arange(ROWS), label] = 120
    return Data(jnp.asarray(image), jnp.asarray(label))


def stages(settings: str):
    spec = lookup(f"nc:{settings}", DEFENSES, "defense")
    net = backdoored()
    floats = {name: jnp.float32(value) for name, value in spec.traced.items()}

    def given(data):
        return Given(floats, lambda key, image: image, clean=split(data), victim=net.init(None))

    return DEFENSES["nc"].make(net, SHAPE, CLASSES, **spec.static), given


def test_inversion_finds_the_corner_of_the_class_that_has_a_trigger():
    # From a random start a corner that begins dark has no slope in this net.
    (find, _), given = stages("preset=benchmark,inversion_batch=4")
    left = train.fit(root(0), find, given, data())
    norm = np.asarray(left.carry["norm"])
    assert norm.argmin() == 2 and norm[2] < 0.5 * np.sort(norm)[1]
    np.testing.assert_allclose(norm, np.abs(left.carry["mask"]).sum((1, 2, 3)), rtol=1e-6)
    assert np.unravel_index(np.argmax(left.carry["mask"][2, ..., 0]), (4, 4)) == (0, 0)
    stamped = inversion.stamp(data().image / 255, left.carry["mask"][2], left.carry["pattern"][2])
    assert (jnp.argmax(backdoored().apply(backdoored().init(None), stamped)[0], 1) == 2).mean() > 0.95


def found(norm) -> Trained:
    mask = jnp.zeros((CLASSES, 4, 4, 1)).at[:, 3, 3].set(1.0)
    pattern = jnp.arange(CLASSES)[:, None, None, None] * jnp.ones(SHAPE) / 10
    return Trained(backdoored().init(None), {"mask": mask, "pattern": pattern, "norm": jnp.asarray(norm)})


def test_the_last_rows_are_stamped_once_for_every_class_and_keep_their_labels():
    _, given = stages("")
    known = given(data())._replace(carry=found([9.0, 9.0, 1.0, 9.0]).carry)
    source, first = rows_of(known, 5)
    assert (first, source.size) == (16, 16 + 4 * CLASSES)
    batch = source.read(jnp.arange(source.size))
    corner = np.asarray(batch.image[:, 3, 3, 0])
    np.testing.assert_allclose(corner[16:], np.repeat(np.arange(CLASSES), 4) / 10, rtol=1e-6)
    np.testing.assert_array_equal(batch.label[16:20], batch.label[20:24])
    assert not np.isin(corner[:16], [0.1, 0.2, 0.3]).any()


def test_only_flagged_classes_are_unlearned_and_without_one_the_model_stays():
    (_, tune), given = stages("epochs=2,batch=4,learning_rate=0.1")
    known = given(data())
    for norm, rows in (([9.0, 9.0, 1.0, 9.1], 16 + 4), ([9.0, 9.1, 9.0, 9.2], 0)):
        order = tune.order(root(0), train.State(None, None, None, None), 0, known._replace(carry=found(norm).carry))
        chosen = np.asarray(order)[np.asarray(order) >= 0]
        assert chosen.size == rows and set(chosen[chosen >= 16]) == set(range(24, 28) if rows else ())
        after = train.fit(root(0), tune, given, data(), found(norm)).weights
        same = np.array_equal(after.params["linear"]["kernel"], jnp.zeros((16, CLASSES)))
        assert same == (rows == 0)
