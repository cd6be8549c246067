"""Spectral signatures: scores and percentiles against NumPy, which rows go, and that only the others are trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data.sources import split
from bdjax.defenses import DEFENSES
from bdjax.detection.parts.signatures import above_percentile, reach
from bdjax.keys import root
from bdjax.models import MODELS
from bdjax.types import Batch, Data, Given, Source

CLASSES = 3


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def clouds(rows: int = 90, poisoned: int = 6):
    """Features of three classes; a few rows of class 0 lie apart."""
    random, label = np.random.default_rng(0), np.arange(rows) % CLASSES
    feature = random.normal(size=(rows, 5)) + 3 * label[:, None]
    apart = np.flatnonzero(label == 0)[:poisoned]
    feature[apart] += np.array([6.0, -6, 0, 0, 3])
    return jnp.asarray(feature), jnp.asarray(label), apart


@pytest.mark.parametrize("centered", [True, False])
def test_scores_are_those_of_a_singular_value_decomposition(centered):
    feature, label, _ = clouds()
    found = np.asarray(reach(feature, label, CLASSES, centered))
    for number in range(CLASSES):
        rows = np.asarray(feature)[np.asarray(label) == number]
        direction = np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][0]
        expected = np.abs((rows - rows.mean(0) if centered else rows) @ direction)
        np.testing.assert_allclose(found[np.asarray(label) == number], expected, atol=1e-9)


@pytest.mark.parametrize("percentile", [0.0, 50.0, 85.0, 100.0])
def test_the_cut_is_numpys_percentile_within_each_class(percentile):
    random = np.random.default_rng(1)
    score, label = random.normal(size=58 + 7), np.array([0] * 58 + [2] * 7)
    found = np.asarray(above_percentile(jnp.asarray(score), jnp.asarray(label), CLASSES, jnp.float64(percentile)))
    for number in (0, 2):
        own = score[label == number]
        np.testing.assert_array_equal(found[label == number], own > np.percentile(own, percentile))
    if percentile == 85:
        assert found[:58].sum() == 9  # 58 - 1 - floor(0.85 x 57)


def test_rows_that_lie_apart_are_removed():
    feature, label, apart = clouds()
    score = reach(feature, label, CLASSES, True)
    assert sorted(np.argsort(-np.where(label == 0, score, 0))[: apart.size]) == sorted(apart)


def test_a_new_network_is_trained_on_the_rows_that_are_left_alone():
    random, label = np.random.default_rng(0), np.arange(40, dtype=np.int32) % CLASSES
    image = random.integers(0, 256, (40, 8, 8, 3))
    net = MODELS["small_cnn"].make((8, 8, 3), CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
    spec = lookup("spectral:epochs=1,batch=8", DEFENSES, "defense")
    score, retrain = DEFENSES["spectral"].make(net, (8, 8, 3), CLASSES, **spec.static)
    settings = {name: jnp.asarray(value) for name, value in spec.traced.items()}
    data, victim = Data(jnp.asarray(image, jnp.uint8), jnp.asarray(label)), net.init(root(1))

    def given(data):
        return Given(settings, lambda key, image: image, suspects=split(data), victim=victim)

    left = train.fit(root(0), score, given, data)
    keep = ~np.asarray(left.carry["flagged"])
    removed = [int(np.sum(~keep[label == number])) for number in range(CLASSES)]
    assert removed == [14 - 1 - int(0.85 * 13), 13 - 1 - int(0.85 * 12), 13 - 1 - int(0.85 * 12)]
    jax.tree.map(np.testing.assert_array_equal, left.weights, victim)
    # What is removed may be anything: the new network never sees it.
    changed = data.replace(image=jnp.where(keep[:, None, None, None], data.image, 255 - data.image))
    one, two = (train.fit(root(0), retrain, given, each, left).weights for each in (data, changed))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert not np.array_equal(one.params["linear"]["kernel"], victim.params["linear"]["kernel"])


def test_the_last_step_of_an_epoch_of_fewer_rows_reads_nothing():
    keep = jnp.arange(10) < 4
    order = train.chosen(root(0), keep, 4)
    source = Source(10, lambda row: Batch(row[:, None, None, None] * 1.0, row, row, (row >= 0) * 1.0))
    weights = [float(source.read(row).weight.sum()) for row in order]
    assert weights == [4, 0, 0]
