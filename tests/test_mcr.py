"""Facts of MCR: curves and steps along them by hand, what a point of the curve is, its statistics, and its rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.mcr import MCR, moved
from bdjax.keys import stream
from bdjax.metrics import geometry
from bdjax.models import MODELS
from bdjax.models.parts.statistics import reestimated
from bdjax.train import Clock, curves
from bdjax.types import Batch, Given, Net, Source, Trained, Weights

SHAPE, CLASSES, ROWS = (8, 8, 3), 3, 12


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def network():
    return MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)


def one_weight():
    """Logits (w, 0) whatever the image."""

    def apply(weights, image, *args, **kwargs):
        return jnp.stack([jnp.full(len(image), weights.params["w"]), jnp.zeros(len(image))], 1), {}, {}

    return Net(None, apply, ())


def point(value):
    return Weights({"w": jnp.array(value, float)}, {})


def rows(label):
    image = jax.random.uniform(jax.random.key(1), (len(label), *SHAPE))
    label = jnp.asarray(label, jnp.int32)
    return Source(len(label), lambda row: Batch(image[row], label[row], row, (row >= 0).astype(image.dtype)))


def built(text, net, victim, end=None, label=np.arange(ROWS) % CLASSES):
    spec = lookup(text, {"mcr": MCR}, "defense")
    carry = {} if end is None else {"end": end}
    given = Given(spec.traced, lambda key, image: image, clean=rows(label), victim=victim, carry=carry)
    return MCR.make(net, SHAPE, CLASSES, **spec.static), given


def purified(text, net, victim, end):
    (_, stage), given = built(text, net, victim, end)
    return train.fit(jax.random.key(0), stage, lambda _: given, (), Trained(victim, {"end": end})).weights, given


@pytest.mark.parametrize(
    ("place", "bezier", "chain"), [(0, 0, 0), (0.25, 28 / 64, 0.75), (0.5, 0.5, 0.5), (0.75, 36 / 64, 0.25), (1, 1, 1)]
)
def test_curves_of_four_points_by_hand(place, bezier, chain):
    """Points 0, 1, 0, 1. Bezier: 3 t (1 - t)^2 + t^3. Chain: up to 1 at t = 1/3, down to 0 at 2/3, up again."""
    points = tuple(jnp.array(value, float) for value in (0, 1, 0, 1))
    np.testing.assert_allclose(geometry.bezier(points, place), bezier)
    np.testing.assert_allclose(geometry.chain(points, place), chain)


def test_bends_begin_on_the_line_evenly_spaced():
    (_, stage), given = built("mcr:bends=3", one_weight(), point(0), point(8))
    state = stage.init(jax.random.key(0), given, None)
    np.testing.assert_allclose([float(bend["w"]) for bend in state.moving], [2, 4, 6])


@pytest.mark.parametrize("accumulate", ["false", "true"])
def test_steps_of_the_bend_by_hand(accumulate):
    """Ends and bend 0: all points are 0, where labels 0 give the slope -1/2. At t the bend takes 2 t (1 - t) of it.

    At rate 1e-9 the second step is that of the same point; summed up, its slope is -1, not -1/2.
    """
    settings = f"accumulate={accumulate},learning_rate=1e-9,momentum=0,point_decay=0,batch=4,rows=0"
    (_, stage), given = built(f"mcr:{settings}", one_weight(), point(0), point(0), np.zeros(4))
    state, before = stage.init(jax.random.key(0), given, None), 0.0
    for number in range(2):
        key = jax.random.key(number)
        state, _ = stage.step(key, state, given.clean.read(jnp.arange(4)), given)
        place = jax.random.uniform(stream(key, "place"), (), float)
        slope = 0.5 * (1 + number if accumulate == "true" else 1)
        now = float(state.moving[0]["w"]) * 1e9
        np.testing.assert_allclose(now - before, 2 * place * (1 - place) * slope, rtol=1e-6)
        before = now


def test_decay_of_the_point_and_of_the_bend_by_hand():
    """Ends 2, a bend that starts at 2, and no rows that count, so that the loss is 0.

    The point is 2 everywhere, so decay .3 of the point moves the bend by .6 * 2 t (1 - t), decay .3 of the bend by .6.
    """
    moves = {}
    for name in ("point_decay", "weight_decay"):
        settings = {"point_decay": 0, "weight_decay": 0} | {name: 0.3}
        text = ",".join(f"{key}={value}" for key, value in settings.items())
        (_, stage), given = built(f"mcr:learning_rate=1,momentum=0,{text}", one_weight(), point(2), point(2))
        batch = given.clean.read(jnp.arange(4)).replace(weight=jnp.zeros(4))
        state = stage.init(jax.random.key(0), given, None)
        moves[name] = 2 - float(stage.step(jax.random.key(5), state, batch, given)[0].moving[0]["w"])
    place = jax.random.uniform(stream(jax.random.key(5), "place"), (), float)
    np.testing.assert_allclose(moves["weight_decay"], 0.6)
    np.testing.assert_allclose(moves["point_decay"], 0.6 * 2 * place * (1 - place))


def test_the_tuned_model_is_the_end_and_the_victim_goes_on():
    net = network()
    victim = net.init(jax.random.key(0))
    (stage, _), given = built("mcr:tuning_epochs=3,rows=0,batch=6", net, victim)
    left = train.fit(jax.random.key(0), stage, lambda _: given, ())
    jax.tree.map(np.testing.assert_array_equal, left.weights, victim)
    batch = given.clean.read(jnp.arange(ROWS))

    def loss(weights):
        return float(train.cross_entropy(net.apply(weights, batch.image, train=True)[0], batch.label, batch.weight))

    assert loss(left.carry["end"]) < loss(victim)


@pytest.mark.parametrize("curve", ["bezier", "chain"])
def test_both_ends_of_the_curve_are_the_two_models(curve):
    net = network()
    ends = net.init(jax.random.key(0)), net.init(jax.random.key(1))
    for place, end in enumerate(ends):
        found, given = purified(f"mcr:place={place},epochs=1,rows=0,bends=2,curve={curve}", net, *ends)
        jax.tree.map(np.testing.assert_allclose, found.params, end.params)
        wanted = reestimated(net, end, given.clean).batch_stats  # all rows are one batch, in whatever order
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found.batch_stats, wanted)


def test_statistics_are_moved_on_by_one_pass():
    """Two batches of half of the rows, PyTorch's momentum .1: .81 of the old mean, .09 and .1 of the batches' own."""
    net = network()
    weights = net.init(jax.random.key(0))
    given = Given({}, None, clean=rows(np.arange(ROWS) % CLASSES))
    key = jax.random.key(2)
    order = train.shuffled(stream(key, "order"), ROWS, 6)
    old = jax.tree.map(lambda leaf: leaf + 7, weights.batch_stats)
    found = moved(net, weights.replace(batch_stats=old), key, given, 6, augment=False).batch_stats["bn1"]["mean"]
    own = []
    for batch in order:  # from 0, a tenth of the batch's own
        zero = jax.tree.map(jnp.zeros_like, old)
        image = given.clean.read(batch).image
        own.append(10 * net.apply(weights.replace(batch_stats=zero), image, train=True)[1]["bn1"]["mean"])
    np.testing.assert_allclose(found, 0.81 * 7 + 0.09 * own[0] + 0.1 * own[1], rtol=1e-9)


def test_rows_come_again_until_an_epoch_is_full():
    """Of 12 rows, 30 draws: each twice, six of them a third time; the fourth step of 8 has two rows of padding."""
    (stage, _), given = built("mcr:rows=30,batch=8", network(), None)
    order = np.asarray(stage.order(jax.random.key(0), train.State(None, {}, None, None), jnp.int32(0), given))
    assert order.shape == (4, 8) and (order[3, 6:] == -1).all()
    counts = np.bincount(order[order >= 0], minlength=ROWS)
    assert sorted(counts) == [2] * 6 + [3] * 6


def test_the_rate_falls_late():
    """Of 10 epochs: 1 to the fifth, then in four steps of .2475 to .01."""
    found = [float(curves.late(Clock(jnp.int32(epoch * 3), 3, 10))) for epoch in range(10)]
    np.testing.assert_allclose(found, [1] * 5 + [0.7525, 0.505, 0.2575, 0.01, 0.01], atol=1e-12)


def test_presets():
    paper, benchmark = (lookup(f"mcr:preset={preset}", {"mcr": MCR}, "defense") for preset in ("paper", "benchmark"))
    assert (paper.static["rows"], paper.static["accumulate"], benchmark.static["accumulate"]) == (10_000, False, True)
    np.testing.assert_allclose((paper.traced["learning_rate"], benchmark.traced["learning_rate"]), (0.01, 3e-5))
    assert paper.traced["place"] == benchmark.traced["place"] == 0.1
