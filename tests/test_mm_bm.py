"""Facts of MM-BM: its loss by hand, which rows it uses, where bounds start, and when their weight changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.mm_bm import MM_BM
from bdjax.models import MODELS
from bdjax.types import Batch, Given, Source

SHAPE, CLASSES = (8, 8, 3), 3
NET = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
IMAGE = jax.random.uniform(jax.random.key(1), (6, *SHAPE))


@pytest.fixture(scope="module")
def victim():
    return NET.init(jax.random.key(0))


def ready(text, victim, label):
    """The stage under these settings and what it is given: six images with these labels."""
    spec = lookup(text, {"mm_bm": MM_BM}, "defense")

    def read(row):
        return Batch(IMAGE[row], label[row], row, (row >= 0).astype(IMAGE.dtype))

    given = Given(spec.traced, lambda key, image: image, clean=Source(6, read), victim=victim)
    return MM_BM.make(NET, SHAPE, CLASSES, **spec.static)[0], given


def run(text, victim, label):
    stage, given = ready(text, victim, label)
    return train.fit(jax.random.key(0), stage, lambda victim: given._replace(victim=victim), victim)


def predictions(victim):
    return jnp.argmax(NET.apply(victim, IMAGE)[0], axis=1)


def test_the_first_loss_by_hand(victim):
    """Bounds of .5 on two and four channels: the penalty is .1 (sqrt(2) + 2) .5; the rest differs from the victim's."""
    stage, given = ready("mm_bm:start=0.5,penalty=0.1,augment=false", victim, predictions(victim))
    state, _ = train.begin(stage, jax.random.key(0), given, None)
    assert {tap: bound.shape for tap, bound in state.moving.items()} == {"relu1": (2,), "relu2": (4,)}
    _, info = stage.step(jax.random.key(0), state, given.clean.read(jnp.arange(6)), given)
    edit = dict.fromkeys(("relu1", "relu2"), lambda x: jnp.minimum(x, 0.5))
    apart = jnp.mean((NET.apply(victim, IMAGE, edit=edit)[0] - NET.apply(victim, IMAGE)[0]) ** 2)
    assert float(apart) > 1e-6
    np.testing.assert_allclose(info["difference"], apart, rtol=1e-5)
    np.testing.assert_allclose(info["loss"], apart + 0.1 * (np.sqrt(2) + 2) * 0.5, rtol=1e-5)


def test_bounds_far_above_all_activations_fall_alike(victim):
    """The norm alone moves them: Adam's first steps are the rate, .1, so that 8 is 7.7 after three."""
    left = run("mm_bm:epochs=3", victim, predictions(victim))
    for bound in left.weights.params["bounds"].values():
        np.testing.assert_allclose(bound, 7.7, rtol=1e-5)
    rest = {name: value for name, value in left.weights.params.items() if name != "bounds"}
    jax.tree.map(np.testing.assert_array_equal, (rest, left.weights.batch_stats), (victim.params, victim.batch_stats))


@pytest.mark.parametrize(("correct", "steps"), [("true", 1), ("false", 3)])
def test_only_correct_rows_are_used(victim, correct, steps):
    """One row of six has its prediction as label: batches of two are one step, and 8 falls by .1; all rows, three."""
    label = (predictions(victim) + 1) % CLASSES
    label = label.at[4].add(-1) % CLASSES
    left = run(f"mm_bm:epochs=1,batch=2,correct_rows={correct}", victim, label)
    np.testing.assert_allclose(left.weights.params["bounds"]["relu1"], 8 - 0.1 * steps, rtol=1e-5)


def test_start_from_the_largest_activation(victim):
    stage, given = ready("mm_bm:preset=benchmark", victim, predictions(victim))
    state, _ = train.begin(stage, jax.random.key(0), given, None)
    seen = NET.apply(victim, IMAGE)[2]
    assert set(state.moving) == {"relu1", "relu2", "relu3"}
    for tap, bound in state.moving.items():
        np.testing.assert_allclose(bound, jnp.max(seen[tap]), rtol=1e-6)


@pytest.mark.parametrize(("allowed", "factor"), [(0.05, 1.2), (-0.5, 1 / 1.2)])
def test_the_weight_changes_after_its_epochs(victim, allowed, factor):
    """With first 2 and period 2 it changes after epochs 2 and 4; a change after the last epoch would serve nothing."""
    for epochs, changes in ((3, 0), (6, 2)):
        left = run(f"mm_bm:epochs={epochs},first=2,period=2,allowed={allowed}", victim, predictions(victim))
        np.testing.assert_allclose(left.carry["penalty"], 0.5 * factor**changes, rtol=1e-6)


def test_the_weight_falls_where_bounds_cost_accuracy(victim):
    """Labels are predictions, which differ; under bounds of 0 all images look alike."""
    names = predictions(victim)
    head = {"kernel": 200 * victim.params["linear"]["kernel"]}
    feature = NET.apply(victim, IMAGE)[2]["pool"]
    keen = victim.replace(params=victim.params | {"linear": head | {"bias": -jnp.mean(feature, 0) @ head["kernel"]}})
    names = predictions(keen)
    assert len(set(np.asarray(names))) > 1
    left = run("mm_bm:epochs=2,first=0,period=1,start=0,learning_rate=0", keen, names)
    np.testing.assert_allclose(left.carry["penalty"], 0.5 / 1.2, rtol=1e-6)


def test_presets():
    paper, benchmark = (lookup(f"mm_bm:preset={preset}", {"mm_bm": MM_BM}, "defense") for preset in MM_BM.card.presets)
    assert (paper.static["stages"], paper.static["first"], benchmark.static["first"]) == (3, 20, 10)
    np.testing.assert_allclose((paper.traced["learning_rate"], benchmark.traced["learning_rate"]), (0.1, 0.001))
