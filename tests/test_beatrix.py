"""Beatrix: Gram matrices, medians and deviations by hand, thresholds against folds written out, who is flagged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.cards import lookup
from bdjax.detection import DETECTORS
from bdjax.detection.beatrix import bound, correlate, exceed, fit_class, lower_median
from bdjax.errors import InvalidInput
from bdjax.types import Batch, Given, Layer, Net, Source, Trained, Weights


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_gram_matrices_by_hand():
    one_pixel, two = jnp.array([[[1.0, -2.0]]]), jnp.array([[[1.0, 2.0], [3.0, 0.0]]])
    np.testing.assert_allclose(correlate(one_pixel, 1, True)[0], [1, -2, 4])
    np.testing.assert_allclose(correlate(one_pixel, 3, True)[0], [1, -2, 4])  # of one pixel all orders are the first
    np.testing.assert_allclose(correlate(two, 2, True)[0], np.sqrt([82, 4, 16]))
    np.testing.assert_allclose(correlate(two, 2, False)[0], np.sqrt([10, 2, 4]))


def test_without_the_power_all_orders_are_roots_of_the_first():
    activation = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 5)))
    first = correlate(activation, 1, False)
    for order in (2, 5):
        np.testing.assert_allclose(
            correlate(activation, order, False), np.sign(first) * np.abs(first) ** (1 / order), rtol=1e-9
        )
        assert not np.allclose(correlate(activation, order, True), correlate(activation, order, False))


def test_medians_are_lower_ones_of_members():
    value = jnp.array([[10.0], [2], [1], [3], [-50]])
    assert lower_median(value, jnp.arange(5) < 4)[0] == 2
    assert lower_median(value, jnp.zeros(5, bool))[0] == 0
    # median 2, deviations 8, 0, 1, 1: their lower median is 1
    np.testing.assert_allclose(bound(value, jnp.arange(5) < 4, jnp.float64(10))[:, 0], [-8, 12])


def test_deviations_by_hand():
    low, high = jnp.array([8.0, -1, 1]), jnp.array([12.0, 1, 2])
    found = exceed(jnp.array([[14.0, 0, 1.5], [6, -3, 2]]), low, high)
    np.testing.assert_allclose(found, [2 / 12.000001, 2 / 8.000001 + 2 / 0.999999])


def test_of_constant_maps_only_others_deviate():
    same = jnp.full((6, 2, 2, 3), 0.7)
    bounds, threshold = fit_class(same, jnp.int32(6), 2, True, jnp.float64(10), jnp.float64(0.95))
    np.testing.assert_allclose(bounds[:, 0], bounds[:, 1])
    gram = correlate(jnp.stack([same[0], 2 * same[0]]), 1, True)
    found = exceed(gram, *bounds[0])
    assert found[0] == 0 and found[1] == pytest.approx(6 * 3, rel=1e-5)  # of six entries each is four times as large
    assert threshold == 1e-12


@pytest.mark.parametrize(("count", "quantile"), [(13, 0.95), (10, 0.5), (4, 0.95)])
def test_thresholds_are_those_of_five_contiguous_folds(count, quantile):
    activation = np.random.default_rng(1).exponential(size=(15, 2, 2, 3))
    _, found = fit_class(jnp.asarray(activation), jnp.int32(count), 3, True, jnp.float64(2), jnp.float64(quantile))
    size, held = count // 5, []
    for fold in range(5):
        out = np.arange(count) // max(size, 1) == fold
        total = np.zeros(size if size else 0)
        for order in (1, 2, 3):
            gram = np.asarray(correlate(jnp.asarray(activation[:count]), order, True))
            rest = np.sort(gram[~out], axis=0)
            median = rest[(len(rest) - 1) // 2]
            mad = np.sort(np.abs(rest - median), axis=0)[(len(rest) - 1) // 2]
            if size:
                low, high = median - 2 * mad, median + 2 * mad
                beside = np.maximum(low - gram[out], 0) / np.abs(low + 1e-6)
                total += np.sum(beside + np.maximum(gram[out] - high, 0) / np.abs(high + 1e-6), 1)
        held += list(total)
    if not size:
        assert np.isinf(found)
    else:
        assert found == pytest.approx(np.sort(held)[int(len(held) * quantile)])


def maps(activation, predicted) -> tuple[Net, Source]:
    """A network that gives these maps and predictions for images that are the rows' numbers, and its images."""
    activation, logits = jnp.asarray(activation), jax.nn.one_hot(jnp.asarray(predicted), 2, dtype=float)

    def apply(_weights, image, train=False, weight=None, edit={}):  # noqa: B006, as Net says
        row = image[:, 0, 0, 0].astype(jnp.int32)
        return logits[row], {}, {"relu": activation[row], "conv": activation[row]}

    def init(_key):
        return Weights({"conv": {"kernel": jnp.zeros((3, 3, 2, 2))}}, {})

    def read(row):
        return Batch(jnp.maximum(row, 0)[:, None, None, None] * 1.0, row, row, (row >= 0) * 1.0)

    return Net(init, apply, (Layer("relu", "relu", (), "relu"), Layer("conv", "conv", ("conv",), "conv"))), read


def test_rows_are_judged_by_the_class_that_they_are_taken_for():
    random, predicted = np.random.default_rng(0), np.arange(64) % 2
    activation = random.uniform(0.5, 1, size=(64, 2, 2, 2)) * np.array([[1.0, 3], [3, 1]])[predicted][:, None, None]
    activation[50] = activation[51]  # taken for class 0 with the maps of class 1
    net, read = maps(activation, predicted)
    spec = lookup("beatrix:orders=2,width=3", DETECTORS, "detector")
    made = DETECTORS["beatrix"].make(net, (1, 1, 1), 2, **spec.static)
    clean = Source(40, read)
    given = Given(spec.traced, lambda key, image: image, clean=clean)
    trained = Trained(net.init(None))
    found = jax.jit(lambda: made.fit(None, net, trained, given))()
    score = made.score(None, net, trained, found, read(jnp.arange(40, 64)), given)
    assert np.argmax(score) == 10 and made.threshold(found, score, None, given)[10]
    assert np.mean(np.asarray(score) > 1) < 0.2


def test_a_layer_without_height_and_width_is_refused():
    net, _ = maps(np.zeros((4, 2, 2, 2)), np.zeros(4, int))
    with pytest.raises(InvalidInput, match="no tap 'conv9'"):
        DETECTORS["beatrix"].make(net, (1, 1, 1), 2, orders=1, elementwise_power=True, per_class=5, tap="conv9")
