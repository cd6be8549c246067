"""Facts of MOTH: the controller of a search by hand, what it finds, how pairs are chosen, remembered and hardened."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.moth import MOTH, choose, drawn, fallen, remembered, some_of_each
from bdjax.defenses.parts.directions import Search, control, restarted, search, unbounded
from bdjax.models import MODELS
from bdjax.train.inversion import bounded
from bdjax.types import Batch, Given, Layer, Net, Source, Weights

SHAPE, CLASSES = (8, 8, 3), 3


def triggers(value, directions=1, shape=(4, 4, 1)):
    """The same mask and pattern everywhere."""
    return {
        "mask": jnp.full((directions, *shape[:2], 1), value),
        "pattern": jnp.full((directions, *shape), value),
    }


def start(directions=1):
    none, blank = jnp.zeros(directions, jnp.int32), triggers(0.0, directions)
    far, row = jnp.full(directions, jnp.inf), jnp.zeros(1)
    return Search(blank, (), jnp.full(directions, 1e-3), none, none, far, blank, row, row)


def course(successes, norms):
    """The searches after each pass of a course, pass k under a mask of k."""
    state, found = start(), []
    for number, (success, norm) in enumerate(zip(successes, norms, strict=True)):
        given = jnp.array([success]), jnp.array([float(norm)]), triggers(float(number)), jnp.array([10.0 + number])
        state = control(state, *given, number == 0, 0.9)
        found.append(state)
    return found


def test_the_cost_rises_by_half_after_ten_good_passes_and_falls_after_ten_bad_ones():
    found = course([0.9] * 10 + [0.89] * 19 + [0.9] + [0.89] * 10, range(100, 60, -1))
    costs = [float(state.cost[0]) / 1e-3 for state in found]
    wanted = [1] * 9 + [1.5] * 10 + [1.5**-0.5] * 20 + [1.5**-2]
    np.testing.assert_allclose(costs, wanted, rtol=1e-5)


def test_the_smallest_trigger_that_worked_is_kept_with_the_loss_of_its_pass():
    found = course([0.5, 1.0, 1.0, 0.8, 1.0], [1, 8, 8, 1, 7])
    assert [float(state.best["mask"].max()) for state in found] == [0, 1, 1, 1, 4]
    assert [float(state.norm[0]) for state in found] == [np.inf, 8, 8, 8, 7]
    assert (float(found[-1].before[0]), float(found[-1].after[0]), float(found[2].after[0])) == (10, 14, 11)


@pytest.mark.parametrize(("better", "moved"), [((1, 0), 0), ((0, 1), 1), ((1, 1), 1)])
def test_a_better_trigger_is_where_the_search_starts_anew(better, moved):
    """The better direction within .01 of its trigger, the other at its own; of two that got better the last moves."""
    free = restarted(jax.random.key(0), triggers(0.0, 2), triggers(0.4, 2), jnp.asarray(better, bool))
    apart = np.abs(bounded(free["mask"]) - 0.4).reshape(2, -1).max(1)
    assert 1e-3 < apart[moved] < 0.01 + 1e-5 and apart[1 - moved] < 1e-5


def test_a_search_without_a_gain_goes_on():
    free = triggers(0.3, 2)
    found = restarted(jax.random.key(0), free, triggers(0.4, 2), jnp.zeros(2, bool))
    jax.tree.map(np.testing.assert_array_equal, found, free)


def test_bounds_are_undone():
    value = jnp.asarray([0.01, 0.5, 0.97])
    np.testing.assert_allclose(bounded(unbounded({"mask": value})["mask"]), value, rtol=1e-5)
    np.testing.assert_allclose(
        unbounded({"mask": jnp.asarray([-3.0])})["mask"], unbounded({"mask": jnp.zeros(1)})["mask"]
    )


def pixel():
    """Class 1 where the upper left value of an image is above a half, class 0 below."""

    def apply(weights, image, train=False, weight=None, edit=None):
        score = 40 * (image[:, 0, 0, 0] - 0.5) * weights.params["scale"]
        return jnp.stack([-score, score], 1), weights.batch_stats, {}

    return Net(lambda key: Weights({"scale": jnp.ones(())}, {}), apply, (Layer("linear", "linear", (), "linear"),))


@cache
def pair_search():
    """Both directions between 12 rows of class 0, at .2, and 8 of class 1, at .8; four more rows do not count."""
    value = jnp.asarray([0.2] * 12 + [0.8] * 8 + [0.5] * 4)
    image = jnp.broadcast_to(value[:, None, None, None], (24, 4, 4, 1))
    side, weight = jnp.asarray([0] * 12 + [1] * 8 + [0] * 4), jnp.asarray([1.0] * 20 + [0] * 4)
    rows, net = Batch(image, 1 - side, jnp.arange(24), weight), pixel()
    weights, settings = net.init(jax.random.key(0)), {"inversion_rate": jnp.asarray(0.1)}
    given = jax.random.key(1), weights, rows, side, triggers(0.5, 2), settings, 120, 0.05, 0.9
    return jax.jit(lambda: search(net, 32, *given))()


def test_a_search_finds_the_pixel_that_decides_in_both_directions():
    """At 1 of the mask's 16 places (1 - m) .2 + m p > .5 needs m > 3/8, and as much in the other direction."""
    found = pair_search()
    mask = np.asarray(found.best["mask"])[..., 0]
    assert np.isfinite(found.norm).all() and (mask[:, 0, 0] > 3 / 8 - 0.02).all()
    assert (mask.sum((1, 2)) - mask[:, 0, 0] < 1).all()
    assert found.best["pattern"][0, 0, 0, 0] > 0.5 > found.best["pattern"][1, 0, 0, 0]


def test_rows_without_weight_do_not_count():
    """Their loss is never written; that of the others is."""
    found = pair_search()
    assert not np.any(found.before[20:]) and not np.any(found.after[20:]) and np.all(found.before[:20] > 0)


def test_speed_is_the_relative_fall_of_the_loss():
    """(4 - 1) / 4 and (2 - 1) / 2 in class 0; in class 1 one row is padding and the other's loss stays; released: 1."""
    state = start()._replace(before=jnp.asarray([4.0, 2, 3, 9]), after=jnp.asarray([1.0, 1, 3, 0]), norm=jnp.ones(1))
    rows = Batch(jnp.zeros((4, 1)), jnp.zeros(4, int), jnp.arange(4), jnp.asarray([1.0, 1, 1, 0]))
    np.testing.assert_allclose(fallen(state, rows, 2, False, 2), [0.625, 0])
    np.testing.assert_allclose(fallen(state, rows, 2, True, 2), [1, 1])
    np.testing.assert_allclose(fallen(state, rows, 2, True, 3), [0.625, 0])
    np.testing.assert_allclose(fallen(state._replace(norm=jnp.full(1, jnp.inf)), rows, 2, False, 2), [0, 0])


def test_the_pair_passes_from_speed_to_gain():
    """Speed is largest for 0 and 2, gain for 1 and 2: from the middle of the ramp on 3 a > 2 (1 - a), a = .4."""
    speed = jnp.zeros((3, 3)).at[0, 2].set(2)
    gain = jnp.zeros((3, 3)).at[2, 1].set(3)
    settings = {"ramp": jnp.asarray(100.0), "random_pairs": jnp.asarray(0.0)}
    for step, wanted in ((0, (0, 2)), (39, (0, 2)), (41, (1, 2)), (1000, (1, 2))):
        assert tuple(choose(jax.random.key(0), speed, gain, jnp.asarray(step), settings)) == wanted


def test_drawn_pairs_are_of_two_classes():
    settings = {"ramp": jnp.asarray(1.0), "random_pairs": jnp.asarray(1.0)}
    keys, zero = jax.random.split(jax.random.key(0), 200), jnp.zeros((3, 3))
    pairs = np.asarray(jax.vmap(lambda key: choose(key, zero, zero, 0, settings))(keys))
    assert {tuple(pair) for pair in pairs} == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}


def test_a_gain_is_half_the_last_and_half_the_growth():
    """From .5 with sizes 10 to 15: (.5 + .5) / 2; back, from .3 with 20 to 10: (.3 - .5) / 2."""
    size = jnp.zeros((3, 3)).at[2, 0].set(10).at[0, 2].set(20)
    gain = jnp.zeros((3, 3)).at[2, 0].set(0.5).at[0, 2].set(0.3)
    pair, now = jnp.asarray([2, 0]), jnp.asarray([15.0, 10])
    after, grown = remembered(size, gain, pair, now)
    np.testing.assert_allclose([after[2, 0], after[0, 2], grown[2, 0], grown[0, 2]], [15, 10, 0.5, -0.1], rtol=1e-6)
    after, grown = remembered(size.at[0, 2].set(0), gain, pair, now)
    np.testing.assert_allclose([after[2, 0], after[0, 2], grown[2, 0], grown[0, 2]], [15, 10, 0.5, 0.3], rtol=1e-6)


def test_rows_are_drawn_from_members_and_of_each_class():
    member = jnp.asarray([1, 0, 1, 1, 0, 1], bool)
    for count, wanted in ((0, 0), (2, 2), (9, 4)):
        found = drawn(jax.random.key(count), member, count)
        assert int(found.sum()) == wanted and not bool(jnp.any(found & ~member))
    rows = some_of_each(jax.random.key(0), jnp.asarray([2, 0, 0, 2, 0, 2]), 3, 2)
    assert set(rows[0].tolist()) < {1, 2, 4} and rows[1].tolist() == [-1, -1] and set(rows[2].tolist()) < {0, 3, 5}
    assert some_of_each(jax.random.key(0), jnp.asarray([0, 1]), 2, 2).tolist() == [[0, -1], [1, -1]]


SMALL = "moth:epochs=3,batch=12,images=2,warmup_steps=2,pair_steps=2,short_steps=1,success=0,pair_success=0,small=1"


@cache
def run(text):
    net = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
    image, label = jax.random.uniform(jax.random.key(1), (12, *SHAPE)), jnp.arange(12) % CLASSES
    clean = Source(12, lambda row: Batch(image[row], label[row], row, (row >= 0) * 1.0))
    victim, spec = net.init(jax.random.key(0)), lookup(text, {"moth": MOTH}, "defense")
    given, left = Given(spec.traced, lambda key, image: image, clean=clean, victim=victim), []
    for number, stage in enumerate(MOTH.make(net, SHAPE, CLASSES, **spec.static)):
        before = left[-1] if left else None
        left.append(
            train.fit(jax.random.key(number), stage, lambda victim: given._replace(victim=victim), victim, before)
        )
    return victim, left


def test_stages_hand_on_triggers_and_distances():
    """Every class has a trigger after the warm-up; the distance of a class from itself is 0 and no other is."""
    _, (warm, last) = run(f"{SMALL},portion=.5,learning_rate=.1")
    assert (np.asarray(warm.carry["triggers"]["mask"]).sum((1, 2, 3)) > 0).all()
    assert (np.asarray(last.carry["size"]) == 0).tolist() == np.eye(CLASSES, dtype=bool).tolist()
    before = 3 * np.asarray(warm.carry["triggers"]["mask"]).sum((1, 2, 3)) * (1 - np.eye(CLASSES))
    changed = ~np.isclose(last.carry["size"], before, rtol=1e-4)
    assert changed.any() and (changed | changed.T).sum() == 2  # three steps are one pair's


def test_a_portion_below_a_row_hardens_nothing():
    """.2 of 4 rows is none: the distances stay those of the warm-up."""
    _, (warm, last) = run(f"{SMALL},portion=.2,learning_rate=.1")
    before = 3 * warm.carry["triggers"]["mask"].sum((1, 2, 3)) * (1 - jnp.eye(CLASSES))
    np.testing.assert_allclose(last.carry["size"], before, rtol=1e-5)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_released_code_keeps_statistics(preset):
    victim, (_, last) = run(f"{SMALL},portion=.5,learning_rate=.1,preset={preset}")
    same = jax.tree.map(np.array_equal, last.weights.batch_stats, victim.batch_stats)
    assert all(jax.tree.leaves(same)) == (preset == "released")
    assert not np.array_equal(last.weights.params["conv1"]["kernel"], victim.params["conv1"]["kernel"])


def test_presets():
    paper, released = (lookup(f"moth:preset={one}", {"moth": MOTH}, "defense") for one in ("paper", "released"))
    assert (paper.static["warmup_steps"], paper.static["pair_steps"], paper.static["short_steps"]) == (500, 200, 50)
    assert (paper.static["starts"], released.static["starts"]) == ("own", "released")
    np.testing.assert_allclose([paper.traced[name] for name in ("success", "pair_success")], [0.99, 0.9])
