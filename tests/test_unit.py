"""Facts of UNIT: where bounds start, how the cost is controlled, and which bounds are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.unit import UNIT, control, positive, spread
from bdjax.models import MODELS
from bdjax.types import Batch, Given, Source

SHAPE, CLASSES = (8, 8, 3), 3
NET = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
SETTINGS = lookup("unit", {"unit": UNIT}, "defense").traced


def source(seed, victim=None):
    """Six images, labelled by the victim."""
    image = jax.random.uniform(jax.random.key(seed), (6, *SHAPE))
    label = jnp.zeros(6, jnp.int32) if victim is None else jnp.argmax(NET.apply(victim, image)[0], axis=1)
    return Source(6, lambda row: Batch(image[row], label[row], row, (row >= 0).astype(image.dtype)))


@pytest.fixture(scope="module")
def victim():
    """A network with a head that tells the images apart."""
    first = NET.init(jax.random.key(0))
    feature = NET.apply(first, source(1).read(jnp.arange(6)).image)[2]["pool"]
    kernel = 200 * first.params["linear"]["kernel"]
    return first.replace(params=first.params | {"linear": {"kernel": kernel, "bias": -jnp.mean(feature, 0) @ kernel}})


def run(text, victim):
    spec = lookup(text, {"unit": UNIT}, "defense")
    given = Given(
        spec.traced, lambda key, image: image, clean=source(1, victim), valid=source(2, victim), victim=victim
    )
    stage = UNIT.make(NET, SHAPE, CLASSES, **spec.static)[0]
    state, _ = train.begin(stage, jax.random.key(0), given, None)
    left = train.fit(jax.random.key(0), stage, lambda victim: given._replace(victim=victim), victim)
    return state.moving, left


def test_bounds_start_above_the_mean_by_unbiased_deviations(victim):
    x = NET.apply(victim, source(1).read(jnp.arange(6)).image)[2]["relu2"]
    found = spread(NET, victim, source(1), ["relu2"], jnp.asarray(4.0))["relu2"]
    assert found.shape == (4, 4, 4)
    np.testing.assert_allclose(found, jnp.mean(x, 0) + 4 * jnp.std(x, 0, ddof=1), rtol=1e-4, atol=1e-6)


def test_padding_has_no_part_in_the_start(victim):
    """256 rows a batch: 300 rows, each of them one of six, are two batches, the second padded."""
    rows = source(1)
    many = Source(300, lambda row: rows.read(jnp.where(row < 0, -1, row % 6)))
    image = jnp.tile(rows.read(jnp.arange(6)).image, (50, 1, 1, 1))
    x = NET.apply(victim, image)[2]["relu2"]
    found = spread(NET, victim, many, ["relu2"], jnp.asarray(4.0))["relu2"]
    np.testing.assert_allclose(found, jnp.mean(x, 0) + 4 * jnp.std(x, 0, ddof=1), rtol=1e-4, atol=1e-6)


def test_negative_bounds_count_as_zero_and_have_no_slope():
    bounds = {"relu1": jnp.asarray([-1.0, 0, 2])}
    np.testing.assert_array_equal(positive(bounds)["relu1"], [0, 0, 2])
    slope = jax.grad(lambda bounds: jnp.sum(positive(bounds)["relu1"]))(bounds)["relu1"]
    np.testing.assert_array_equal(slope, [0, 1, 1])


def costs(events, patience=2):
    """The cost after each step with (1) or without (0) enough accuracy, in units of its start."""
    zero, found = jnp.zeros((), jnp.int32), []
    state = {"cost": SETTINGS["cost"], "low": zero, "up": zero, "down": zero}
    for good in events:
        state = control(state, jnp.asarray(bool(good)), SETTINGS, patience)
        found.append(float(state["cost"] / SETTINGS["cost"]))
    return found


def test_the_cost_doubles_and_falls_by_two_to_the_power_of_one_and_a_half():
    """After two steps alike; a change of the event begins the count anew, and so does a change of the cost."""
    low = 2**-1.5
    np.testing.assert_allclose(costs([1, 1, 1, 0, 1, 1]), [1, 2, 2, 2, 2, 4], rtol=1e-5)
    np.testing.assert_allclose(costs([0, 0, 0, 0, 1]), [1, low, low, low**2, low**2], rtol=1e-5)


def test_a_cost_below_its_start_returns_to_it_at_once():
    """Two good steps bring it back to 1 and not to twice the low one; the count then goes on from 1."""
    low = 2**-1.5
    np.testing.assert_allclose(costs([0, 0, 0, 0, 1, 1, 1]), [1, low, low, low**2, low**2, 1, 2], rtol=1e-5)


def test_the_tightest_acceptable_bounds_are_kept_before_their_step(victim):
    """One step: what is kept are the bounds that it began with. Eleven: ten steps of .01 below."""
    start, left = run("unit:steps=1,allowed=1,learning_rate=0.01", victim)
    jax.tree.map(np.testing.assert_array_equal, left.weights.params["bounds"], positive(start))
    start, left = run("unit:steps=11,allowed=1,learning_rate=0.01,cost=1000,patience=99", victim)
    for tap, bound in left.weights.params["bounds"].items():
        np.testing.assert_allclose(bound, jnp.maximum(start[tap] - 0.1, 0), atol=1e-3)


def test_without_an_acceptable_step_the_last_bounds_stand_in(victim):
    """The cost falls after five such steps."""
    start, left = run("unit:steps=6,allowed=-1,learning_rate=0.01,cost=1000", victim)
    for tap, bound in left.weights.params["bounds"].items():
        np.testing.assert_allclose(bound, jnp.maximum(start[tap] - 0.05, 0), atol=1e-3)
    np.testing.assert_allclose(left.carry["cost"], 1000 * 2**-1.5, rtol=1e-5)


def test_bounds_stop_falling_where_accuracy_ends(victim):
    """Under a heavy cost bounds go to 0, where all images look alike; those kept still have the accuracy."""
    _, left = run("unit:steps=60,learning_rate=0.05,cost=100,allowed=0", victim)
    _, all_of_it = run("unit:steps=60,learning_rate=0.05,cost=100,allowed=1", victim)
    kept, lowest = (
        sum(jnp.mean(bound) for bound in one.weights.params["bounds"].values()) for one in (left, all_of_it)
    )
    assert float(lowest) < 0.01 < 0.1 < float(kept)


def test_only_bounds_are_new(victim):
    _, left = run("unit:steps=2", victim)
    rest = {name: value for name, value in left.weights.params.items() if name != "bounds"}
    jax.tree.map(np.testing.assert_array_equal, (rest, left.weights.batch_stats), (victim.params, victim.batch_stats))


def test_defaults_are_those_of_the_released_code():
    spec = lookup("unit", {"unit": UNIT}, "defense")
    assert (spec.static["steps"], spec.static["patience"], spec.static["augment"]) == (300, 5, True)
    wanted = {"learning_rate": 0.001, "deviations": 4, "cost": 0.001, "factor": 2, "allowed": 0.03}
    np.testing.assert_allclose([spec.traced[name] for name in wanted], list(wanted.values()))
