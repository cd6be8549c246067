"""Facts of weight space: paths, planes and what a path says, by hand; statistics made anew for a known batch."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.data import sources
from bdjax.metrics import geometry
from bdjax.models.parts.layers import BatchNorm
from bdjax.models.parts.network import network
from bdjax.models.parts.statistics import reestimated
from bdjax.types import Data, Net, Weights


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def tree(*values):
    """A model of three weights in two leaves."""
    return {"a": jnp.array(values[:2], float), "b": {"c": jnp.array(values[2], float)}}


def flat(point):
    return np.concatenate([point["a"], [point["b"]["c"]]])


@pytest.fixture
def models():
    return tree(1, 0, 0), tree(4, 4, 0), tree(1, 0, 2)


@pytest.mark.parametrize(("place", "expected"), [(0, (1, 0, 0)), (0.25, (1.75, 1, 0)), (1, (4, 4, 0))])
def test_straight_by_hand(place, expected, models):
    one, two, _ = models
    np.testing.assert_allclose(flat(geometry.straight(one, two, place)), expected, rtol=1e-12)


@pytest.mark.parametrize(("place", "expected"), [(0, (1, 0, 0)), (0.5, (1.75, 1, 1)), (1, (4, 4, 0))])
def test_bend_by_hand(place, expected, models):
    """Halfway: a quarter of each end and half of the middle."""
    one, two, three = models
    np.testing.assert_allclose(flat(geometry.bend(one, three, two, place)), expected, rtol=1e-12)


def test_bend_with_its_middle_halfway_is_straight(models):
    one, two, _ = models
    middle = geometry.straight(one, two, 0.5)
    for place in (0.0, 0.2, 0.7, 1.0):
        curved, line = geometry.bend(one, middle, two, place), geometry.straight(one, two, place)
        np.testing.assert_allclose(flat(curved), flat(line), rtol=1e-12)


def test_norm_and_distance_by_hand(models):
    one, two, _ = models
    assert float(geometry.norm(tree(2, 3, 6))) == pytest.approx(7, rel=1e-12)
    assert float(geometry.distance(one, two)) == pytest.approx(5, rel=1e-12)


def test_plane_goes_through_its_three_models(models):
    """(1, 0, 0) to (4, 4, 0) is 5 long; (1, 3, 4) away from it lies 3 along (3, 4, 0) / 5, the rest is 17^0.5 long."""
    one, two, _ = models
    third = tree(2, 3, 4)
    found = geometry.plane(one, two, third)
    np.testing.assert_allclose(found.corners, [[0, 0], [5, 0], [3, np.sqrt(17)]], rtol=1e-12, atol=1e-12)
    for model, corner in zip((one, two, third), found.corners, strict=True):
        np.testing.assert_allclose(flat(geometry.located(found, *corner)), flat(model), atol=1e-12)
    first, second = found.axes
    np.testing.assert_allclose(flat(first), [0.6, 0.8, 0], rtol=1e-12)
    products = [geometry.dot(first, first), geometry.dot(second, second), geometry.dot(first, second)]
    np.testing.assert_allclose(products, [1, 1, 0], atol=1e-12)


def test_three_models_on_one_line_make_no_plane(models):
    one, two, _ = models
    assert np.isnan(geometry.plane(one, two, geometry.straight(one, two, 0.5)).corners[2, 1])
    assert np.isnan(geometry.plane(one, one, two).corners).any()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ([0.1, 0.5, 0.3], 0.3),  # the chord is 0.2 halfway
        ([0.0, 0.25, 0.3, 0.9, 1.0], 0.15),  # above the chord at three quarters alone
        ([0.4, 0.1, 0.2], 0.0),  # below the chord
        ([0.2, 0.2], 0.0),
    ],
)
def test_barrier_by_hand(error, expected):
    assert float(geometry.barrier(jnp.array(error))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([0.0, 1.0], 0.5),
        ([0.0, 0.6, 0.9], (1 / 6 + 1) / 2),  # the first half rises above one half in its last sixth
        ([0.9, 0.1, 0.1], 0.25),
        ([0.7, 0.7, 0.7], 1.0),
        ([0.5, 0.5], 0.0),  # at the level is not above it
        ([0.5, 0.2, 0.9], 4 / 7 / 2),
    ],
)
def test_share_above_one_half_by_hand(value, expected):
    assert float(geometry.share_above(jnp.array(value))) == pytest.approx(expected, abs=1e-12)


class Normed(nn.Module):
    """Normalisation and nothing else."""

    momentum: float

    @nn.compact
    def __call__(self, image, run):
        return BatchNorm(self.momentum, name="norm")(image, run)


def statistics(image, batch=256, start=0.0, module=Normed(0.1)):
    net = network(module, image.shape[1:])
    weights = net.init(jax.random.key(0))
    weights = weights.replace(batch_stats=jax.tree.map(lambda leaf: leaf + start, weights.batch_stats))
    source = sources.split(Data(jnp.asarray(image), jnp.zeros(len(image), jnp.int32)))
    found = reestimated(net, weights, source, batch)
    assert found.params is weights.params
    return found.batch_stats["norm"]


def test_statistics_of_known_batches_by_hand():
    """Images of one pixel, levels 0, 51, 102 | 153, 255, 0 of 255; the last batch has one row left, 204.

    Batches of 3, 3 and 1: means 0.2, 8/15 and 0.8, unbiased variances 0.04, 0.2533 and, of a single value, 0.
    """
    image = np.array([0, 51, 102, 153, 255, 0, 204], np.uint8).reshape(-1, 1, 1, 1)
    whole = statistics(image)
    values = image.ravel() / 255
    np.testing.assert_allclose(whole["mean"], values.mean(), rtol=1e-9)
    np.testing.assert_allclose(whole["var"], values.var(ddof=1), rtol=1e-9)
    pieces = statistics(image, batch=3)
    np.testing.assert_allclose(pieces["mean"], values.mean(), rtol=1e-9)
    variances = [values[:3].var(ddof=1), values[3:6].var(ddof=1)]
    np.testing.assert_allclose(variances, [0.04, 0.76 / 3], rtol=1e-9)
    np.testing.assert_allclose(pieces["var"], 3 / 7 * sum(variances), rtol=1e-9)


def test_statistics_do_not_depend_on_what_was_there():
    image = np.random.default_rng(0).integers(0, 256, (10, 2, 2, 3), np.uint8)
    jax.tree.map(np.testing.assert_array_equal, statistics(image, start=3.0), statistics(image))


class Unlisted(nn.Module):
    """Flax's normalisation, which the network's layers do not list: it keeps 99% and a biased variance."""

    @nn.compact
    def __call__(self, image, run):
        return nn.BatchNorm(use_running_average=not run.train, dtype=image.dtype, name="norm")(image)


def test_statistics_do_not_depend_on_how_fast_moving_ones_move():
    image = np.random.default_rng(0).integers(0, 256, (10, 2, 2, 3), np.uint8)
    usual, close = statistics(image), partial(np.testing.assert_allclose, rtol=1e-12)
    jax.tree.map(close, statistics(image, module=Normed(0.4)), usual)


def test_statistics_of_a_layer_that_is_not_listed():
    image = np.random.default_rng(0).integers(0, 256, (10, 2, 2, 3), np.uint8)
    usual, found, count = statistics(image), statistics(image, module=Unlisted()), image[..., 0].size
    np.testing.assert_allclose(found["mean"], usual["mean"], rtol=1e-6)  # flax keeps statistics in float32
    np.testing.assert_allclose(found["var"], usual["var"] * (count - 1) / count, rtol=1e-6)


def test_a_network_without_statistics_is_left_as_it_is():
    net = Net(None, lambda weights, image, train=False, weight=None: (image, weights.batch_stats, {}), ())
    source = sources.split(Data(jnp.zeros((3, 2, 2, 1), jnp.uint8), jnp.zeros(3, jnp.int32)))
    assert reestimated(net, Weights({}, {}), source).batch_stats == {}
