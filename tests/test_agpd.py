"""AGPD: descriptors against finite differences, rounds and distances by hand, the choice of layer, who is flagged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from bdjax.detection.agpd import absorb, choose_layer, choose_round, cosine, describe, dispersion, divergence, seed
from bdjax.keys import root
from bdjax.models import MODELS
from bdjax.types import Batch


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def fan(angles) -> jnp.ndarray:
    """Directions in the plane, by their angles in degrees."""
    return jnp.stack([jnp.cos(jnp.radians(jnp.asarray(angles))), jnp.sin(jnp.radians(jnp.asarray(angles)))], 1)


def test_descriptors_are_how_the_label_grows_with_a_channel():
    net = MODELS["small_cnn"].make((8, 8, 3), 3, (0.5,) * 3, (0.25,) * 3, width=2)
    weights, image = net.init(root(0)), jax.random.uniform(root(1), (2, 8, 8, 3))
    rows = Batch(image, jnp.array([2, 0]), jnp.arange(2), jnp.ones(2))
    found = describe(net, weights, rows, ["conv1", "conv3"])
    for name, each in zip(["conv1", "conv3"], found, strict=True):
        for channel in (0, 1):
            edit = {name: lambda value, channel=channel: value.at[..., channel].add(1e-6)}
            slope = (net.apply(weights, image, edit=edit)[0] - net.apply(weights, image)[0]) / 1e-6
            pixels = net.apply(weights, image)[2][name][0, ..., 0].size
            np.testing.assert_allclose(
                each[:, channel] * pixels, slope[jnp.arange(2), rows.label], rtol=1e-3, atol=1e-5
            )


def test_seed_and_dispersion_by_hand():
    feature, member = fan([0.0, 60, 90, 180]), jnp.array([True, True, True, False])
    reference = fan([0.0])[0]
    np.testing.assert_array_equal(seed(feature, reference, member), [False, False, True, False])
    apart = np.array([1 - 0, np.cos(np.pi / 3) - np.cos(np.pi / 6)])  # to 0 degrees less to 90
    assert dispersion(feature, reference, member) == pytest.approx(np.linalg.norm(apart) / np.sqrt(3))
    assert cosine(jnp.zeros((1, 2)), reference)[0] == 0


def test_distances_are_those_of_scipy():
    edges = jnp.linspace(0, 1, 100)
    one, two = np.random.default_rng(0).uniform(size=50), np.random.default_rng(1).beta(2, 5, size=40)
    bins = np.linspace(0, 1, 100)
    expected = jensenshannon(np.histogram(one, bins, density=True)[0], np.histogram(two, bins, density=True)[0])
    padded = jnp.concatenate([jnp.asarray(two), jnp.full(10, jnp.inf)])
    assert divergence(jnp.asarray(one), padded, edges) == pytest.approx(expected)
    assert divergence(jnp.asarray(one), jnp.full(50, jnp.inf), edges) == 1
    assert divergence(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]), edges) == 0


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_a_share_of_0_absorbs_one_row_a_round_and_of_1_all_at_once(tau):
    angles = [0.0, 7, 15, 100, 120, 170]
    member = jnp.array([True] * 5 + [False])
    when, count, distances = absorb(fan(angles), fan([0.0])[0], member, jnp.float64(tau))
    np.testing.assert_array_equal(when, [4, 3, 2, 1, 0, 0] if tau == 0 else [1, 1, 1, 1, 0, 0])
    assert count == (4 if tau == 0 else 1)
    assert distances[count - 1] == 1 and not np.any(distances[count:])


def test_the_window_is_the_least_and_steadiest():
    distances = jnp.concatenate([jnp.linspace(0.9, 0.5, 6), jnp.full(12, 0.1), jnp.full(4, 0.8), jnp.zeros(8)])
    assert choose_round(distances, jnp.int32(22)) == 6
    assert choose_round(distances, jnp.int32(7)) == 7  # fewer than ten rounds: all but the last
    assert choose_round(jnp.full(30, 0.2), jnp.int32(20)) == 1  # at least the seed
    assert choose_round(jnp.zeros(30), jnp.int32(0)) == 1


def test_layer_and_classes_by_anomaly_else_by_height():
    gaps = jnp.array([[0.1, 0.11, 0.12, 0.13], [0.1, 0.1, 0.11, 5.0], [0.4, 0.1, 0.35, 0.1], [0.5, 0.5, 0.5, 0.5]])
    layer, targets = choose_layer(gaps, jnp.float64(np.exp(2)), jnp.float64(0.3))
    assert layer == 1 and list(targets) == [False, False, False, True]
    layer, targets = choose_layer(gaps, jnp.float64(1e9), jnp.float64(0.3))
    assert layer == 2 and list(targets) == [True, False, True, False]  # the last layer is never chosen so
    assert not choose_layer(gaps, jnp.float64(1e9), jnp.float64(9))[1].any()


def test_rows_of_another_direction_are_absorbed_before_the_others():
    random = np.random.default_rng(0)
    angles = np.concatenate([random.normal(0, 6, 60), random.normal(95, 6, 25)])
    when, count, distances = absorb(fan(angles), fan([0.0])[0], jnp.ones(85, bool), jnp.float64(0.02))
    assert np.max(when[60:]) < np.min(when[:60])
    flagged = np.asarray(when) < choose_round(distances, count)
    assert flagged[60:].all() and flagged[:60].mean() < 0.5  # of few rows histograms are rough, and it stops late
