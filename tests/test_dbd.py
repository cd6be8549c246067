"""Facts of DBD: what each stage moves, whose optimizer goes on, and how rows are split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import images, sources
from bdjax.defenses.dbd import DBD
from bdjax.keys import root, stream
from bdjax.models import MODELS
from bdjax.types import Data, Given, Trained

SHAPE, CLASSES, ROWS = (8, 8, 3), 3, 24
HEAD = "linear"
TEXT = (
    "dbd:contrastive_epochs=2,contrastive_batch=6,contrastive_rate=0.02,warmup_epochs=3,warmup_batch=6,epochs=2,batch=4,"
    "steps=3"
)


def data() -> Data:
    label = np.arange(ROWS, dtype=np.int32) % CLASSES
    noise = np.random.default_rng(0).integers(0, 120, (ROWS, *SHAPE))
    return Data(jnp.asarray(noise + 60 * label[:, None, None, None], jnp.uint8), jnp.asarray(label))


def network():
    return MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)


def stages(text=TEXT):
    spec = lookup(text, {"dbd": DBD}, "defense")
    made = DBD.make(network(), SHAPE, CLASSES, **spec.static)
    return made, lambda data: Given(spec.traced, images.augmentation(1, True), train=sources.split(data))


@pytest.fixture(scope="module")
def left() -> list[Trained]:
    made, given = stages()
    found = [None]
    for number, stage in enumerate(made):
        found.append(train.fit(root(number), stage, given, data(), found[-1]))
    return found[1:]


def rest(params):
    return {name: value for name, value in params.items() if name != HEAD}


def test_features_are_learned_without_labels(left):
    """Other labels leave the same features, and they are not those that training began with."""
    made, given = stages()
    other = train.fit(root(0), made[0], given, data().replace(label=jnp.zeros(ROWS, jnp.int32)))
    jax.tree.map(np.testing.assert_array_equal, left[0].weights, other.weights)
    first = jax.jit(lambda key: made[0].init(key, given(data()), None))(stream(root(0), "init"))
    assert np.any(first.moving["own"]["conv1"]["kernel"] != other.weights.params["conv1"]["kernel"])


def test_a_new_head_learns_alone_and_statistics_move(left):
    before, after = left[0].weights, left[1].weights
    jax.tree.map(np.testing.assert_array_equal, rest(before.params), rest(after.params))
    assert not np.array_equal(before.params[HEAD]["kernel"], after.params[HEAD]["kernel"])
    assert not np.array_equal(before.batch_stats["bn1"]["mean"], after.batch_stats["bn1"]["mean"])


def test_the_heads_optimizer_goes_on_and_that_of_the_others_begins(left):
    """Three epochs of four batches: in the last stage the head's clock goes on from 12, that of the rest from 0."""
    assert int(left[1].carry["adam"][0].count) == 3 * ROWS // 6
    made, given = stages()
    known = given(data())._replace(carry=left[1].carry)
    state = jax.jit(lambda key: made[2].init(key, known, left[1].weights))(root(0))
    assert [int(state.opt_state[name][0].count) for name in ("head", "rest")] == [12, 0]
    assert np.any(state.opt_state["head"][0].mu["kernel"] != 0)


def test_half_of_the_rows_keep_their_labels(left):
    assert left[2].carry["labeled"].dtype == bool and left[2].carry["labeled"].sum() == ROWS // 2


def test_rows_that_the_head_believes_keep_their_labels(left):
    """Without augmentation and with wrong labels on six rows that the head has learned otherwise, these lose them."""
    made, given = stages()
    bright = jnp.asarray(60 * data().label[:, None, None, None] + jnp.full((ROWS, *SHAPE), 40), jnp.uint8)
    rows = data().replace(image=bright)
    trained, setup = None, {"learning_rate": 0.05}
    for number, stage in enumerate(stages(TEXT.replace("warmup_epochs=3", "warmup_epochs=20"))[0][:2]):
        trained = train.fit(
            root(number),
            stage,
            lambda data: given(data)._replace(settings=given(data).settings | setup, augment=plain),
            rows,
            trained,
        )
    wrong = jnp.arange(ROWS) < 6
    changed = rows.replace(label=jnp.where(wrong, (rows.label + 1) % CLASSES, rows.label))
    known = given(changed)._replace(carry=trained.carry, augment=plain)
    known = known._replace(settings=known.settings | {"labeled": jnp.float32(0.75)})

    @jax.jit
    def labeled(key):
        state = made[2].init(key, known, trained.weights)
        return made[2].renew(key, state, {}, jnp.int32(0), known).still["labeled"]

    found = labeled(root(0))
    np.testing.assert_array_equal(found, ~wrong)


def plain(_key, image, **_named):
    return image


@pytest.mark.parametrize(("period", "factor"), [(0, 0.5), (4, 0.5 + 0.125**0.5)])
def test_the_self_supervised_rate_falls_along_a_cosine_by_epoch(period, factor):
    """In the second of two epochs (1 + cos(pi / 2)) / 2 or, of a half period of four, (1 + cos(pi / 4)) / 2."""
    made, given = stages(f"{TEXT},period={period},momentum=0,weight_decay=0")
    known = given(data())
    start = jax.jit(lambda key: made[0].init(key, known, None))(root(0))

    @jax.jit
    def kernel(step):
        rows = known.train.read(jnp.arange(6))
        after, _ = made[0].step(root(1), start.replace(step=step), rows, known)
        return after.moving["own"]["conv1"]["kernel"] - start.moving["own"]["conv1"]["kernel"]

    np.testing.assert_allclose(kernel(jnp.int32(4)), factor * kernel(jnp.int32(3)), rtol=1e-3, atol=1e-7)


def test_presets():
    paper, benchmark = (lookup(f"dbd:preset={one}", {"dbd": DBD}, "defense") for one in ("paper", "benchmark"))
    names = "contrastive_epochs", "warmup_epochs", "epochs", "steps", "period", "border"
    assert [paper.static[name] for name in names] == [1000, 10, 190, 1024, 0, "reflected"]
    assert [benchmark.static[name] for name in names] == [100, 10, 100, 1024, 1000, "black"]
    assert (paper.traced["ramp"], paper.traced["unlabeled_weight"]) == (190, 15)
