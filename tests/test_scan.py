"""SCAn: the model of features against its equations written out, the statistic by hand, which rows are flagged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_ac import reader

from bdjax.cards import lookup
from bdjax.data.sources import subset
from bdjax.detection import DETECTORS
from bdjax.detection.parts.classes import anomaly
from bdjax.detection.scan import covariance, diagonalize, fit_components, split_class
from bdjax.keys import root
from bdjax.types import Given, Trained, Weights


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_anomaly_by_hand():
    assert anomaly(jnp.array([1, 1.1, 0.9, 1, 9]), 0)[4] == pytest.approx(8 / 0.14826)


def test_covariances_become_unit_and_diagonal():
    random = np.random.default_rng(0)
    within, between = covariance(random.normal(size=(40, 5))), covariance(random.normal(size=(3, 5)))
    basis, inverse, variance = diagonalize(between, within)
    np.testing.assert_allclose(basis.T @ within @ basis, np.eye(5), atol=1e-9)
    np.testing.assert_allclose(basis.T @ between @ basis, np.diag(variance), atol=1e-9)
    np.testing.assert_allclose(basis @ inverse, np.eye(5), atol=1e-9)


def expected_components(feature, label, classes, rounds):
    """The EM of the paper with its inverses written out."""
    x = feature - feature.mean(0)
    identity = np.stack([x[label == number].mean(0) for number in range(classes)])
    for _ in range(rounds + 1):
        between, within = np.cov(identity[label].T), np.cov((x - identity[label]).T)
        identity = np.stack(
            [
                between @ np.linalg.inv(np.sum(label == number) * between + within) @ x[label == number].sum(0)
                for number in range(classes)
            ]
        )
    return between, within


@pytest.mark.parametrize("rounds", [0, 1, 7])
def test_components_are_those_of_expectation_maximization(rounds):
    random, label = np.random.default_rng(1), np.repeat(np.arange(3), (20, 30, 15))
    feature = random.normal(size=(65, 4)) + 2 * random.normal(size=(3, 4))[label]
    found = fit_components(jnp.asarray(feature), jnp.asarray(label), 3, rounds, jnp.float64(0))
    for ours, theirs in zip(found, expected_components(feature, label, 3, rounds), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_without_identities_the_null_mean_is_0_or_the_sum():
    place, member = jnp.array([[0.0], [1], [4], [5], [7]]), jnp.arange(5) < 4
    known = jnp.arange(5) == 0
    between = 4 * 0.5  # within the two groups, of 4 rows: each is 0.5 from its mean
    for variance, power, null in ((0.0, 1, 0.0), (0.0, 0, 10.0), (0.25, 1, 10 * 0.25 / 2)):

        def shrink(size, variance=variance, power=power):
            return variance**power / (size * variance + 1)

        statistic, ratio = split_class(root(0), place, member, known, shrink, 3)
        norms = np.sum((np.array([0, 1, 4, 5]) - null) ** 2)
        assert statistic == pytest.approx((norms - between / 2) / 4)
        # Means 0.5 and 4.5; row 0 is known to be clean, so the other group is suspect: (|x - 0.5|^2 - |x - 4.5|^2) / 2.
        np.testing.assert_allclose(ratio, [(0.25 - 20.25) / 2, (0.25 - 12.25) / 2, 6, 10, 0])


def test_the_statistic_is_the_expanded_sum_of_the_public_versions():
    random = np.random.default_rng(2)
    place = random.normal(size=(30, 3))
    place[:10] += 5
    found = split_class(root(0), jnp.asarray(place), jnp.ones(30, bool), jnp.zeros(30, bool), lambda n: 0.9 / n, 3)[0]
    null, one, two = 0.9 * place.mean(0), place[:10].mean(0), place[10:].mean(0)
    total = 10 * (null @ null - one @ one) + 20 * (null @ null - two @ two)
    total -= 2 * np.sum(place[:10] @ (null - one)) + 2 * np.sum(place[10:] @ (null - two))
    assert found == pytest.approx(total / 30)


def test_the_group_without_clean_rows_is_flagged():
    random = np.random.default_rng(0)
    feature = random.normal(size=(240, 4)) + 8 * np.eye(4)[:3][np.arange(240) % 3]
    apart = np.arange(0, 180, 3)[:20]
    feature[apart, 3] += 9
    net, rows = reader(feature)
    suspects, clean = subset(rows, jnp.arange(180)), subset(rows, jnp.arange(180, 240))
    spec = lookup("scan:bound=1", DETECTORS, "detector")  # of three classes the median class has anomaly 0
    made = DETECTORS["scan"].make(net, (1, 1, 4), 3, **spec.static)
    given = Given(spec.traced, lambda key, image: image, suspects=suspects, clean=clean)
    found = jax.jit(lambda key: made.fit(key, net, Trained(Weights({}, {})), given))(root(0))
    assert np.argmax(found["statistic"]) == 0 and found["anomaly"][0] > 7
    flagged = np.asarray(made.threshold(found, found["score"], None, given))
    np.testing.assert_array_equal(np.flatnonzero(flagged & (np.arange(180) % 3 == 0)), apart)
