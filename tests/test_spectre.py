"""SPECTRE: the top quadratic form against all fourth moments, who is kept, quantum entropy by hand, who is flagged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_ac import reader

from bdjax.cards import lookup
from bdjax.detection import DETECTORS
from bdjax.detection.parts import robust
from bdjax.detection.spectre import assume_poisoned, score_class, weigh_directions
from bdjax.keys import root
from bdjax.types import Given, Trained, Weights


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("dims", [2, 4, 9])
def test_the_top_form_is_the_top_eigenvector_of_fourth_moments(dims):
    white = np.random.default_rng(0).laplace(size=(50, dims))
    weight = np.where(np.arange(50) < 40, 1 / 40, 0)
    square = np.stack([np.outer(row, row).ravel() for row in white])
    identity = np.eye(dims).ravel()
    values, axes = np.linalg.eigh(square.T @ (weight[:, None] * square) - np.outer(identity, identity))
    value, form = robust.top_form(jnp.asarray(white), jnp.asarray(weight))
    assert value == pytest.approx(values[-1], rel=1e-9)
    assert abs(np.sum(np.asarray(form).ravel() * axes[:, -1])) == pytest.approx(1, rel=1e-9)
    np.testing.assert_allclose(form, form.T, atol=1e-9)


def test_rows_far_out_go_first_and_no_more_than_twice_the_poisoned_ones():
    place = np.random.default_rng(1).normal(size=(300, 4))
    place[:6] *= 40
    member = jnp.arange(300) < 299
    for poisoned, gone in ((3, range(6)), (1, ())):
        kept = robust.keep(jnp.asarray(place), member, jnp.float64(poisoned), "rest")
        lost = np.flatnonzero(np.asarray(member) & ~np.asarray(kept))
        assert len(lost) <= 2 * poisoned
        assert set(gone) <= set(lost)
    assert not robust.keep(jnp.asarray(place), member, jnp.float64(0), "rest")[299]


def test_roots_undo_a_covariance_and_leave_out_what_does_not_vary():
    random = np.random.default_rng(2)
    place = random.normal(size=(30, 4)) @ random.normal(size=(4, 4))
    place[:, 3] = place[:, 0]
    member = jnp.arange(30) < 25
    found = robust.covariance(jnp.asarray(place), member)
    np.testing.assert_allclose(found, np.cov(place[:25].T), atol=1e-12)
    root_ = robust.inverse_root(found)
    np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(root_ @ found @ root_)), [0, 1, 1, 1], atol=1e-6)


def test_median_of_members():
    value = jnp.array([5.0, 1, 100, 2, 8])
    assert robust.median(value, jnp.array([True, True, False, True, True])) == 3.5
    assert robust.median(value, jnp.array([True, True, False, True, False])) == 2


def test_directions_are_weighed_by_the_exponential_of_their_variance():
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    covariance = turn @ np.diag([3.0, 2, 1]) @ turn.T
    expected = np.exp([4, 2, 0]) / np.sum(np.exp([4, 2, 0]))
    found = weigh_directions(jnp.asarray(covariance), jnp.float64(4), "matrix")
    np.testing.assert_allclose(turn.T @ found @ turn, np.diag(expected), atol=1e-12)
    entries = np.exp(4 * (covariance - np.eye(3)) / 2)
    found = weigh_directions(jnp.asarray(covariance), jnp.float64(4), "entries")
    np.testing.assert_allclose(found, entries / np.trace(entries))


def test_white_rows_of_which_none_is_left_out_score_their_norm():
    # Corners of a cube: E z z^T = I and no row stands out; with ddof 1 the covariance is 64/63 of that.
    place = np.array(np.meshgrid(*[[-1.0, 1]] * 6)).reshape(6, 64).T[:, :4]
    settings = {"alpha": jnp.float64(4), "removed": jnp.float64(1.5)}
    member = jnp.ones(64, bool)
    np.testing.assert_allclose(weigh_directions(jnp.eye(4), 4.0, "matrix"), np.eye(4) / 4)
    kept = robust.keep(jnp.asarray(place), member, jnp.float64(2), "rest")
    assert kept.all()
    white = np.asarray(place @ robust.inverse_root(robust.covariance(jnp.asarray(place), kept)))
    found = score_class(jnp.asarray(place), member, jnp.float64(2), settings, "matrix", "matrices", "rest")
    if not np.allclose(found[0], 1):  # of one dimension the score is the square of the first coordinate, 1
        np.testing.assert_allclose(found[0], np.sum(white**2, 1) / 4)
    assert found[1].sum() == 3


def test_how_many_are_taken_to_be_poisoned():
    share = jnp.float64
    assert assume_poisoned(jnp.int32(5000), 50000, share(0.01)) == 500
    assert assume_poisoned(jnp.int32(5000), 50000, share(0)) == 500
    assert assume_poisoned(jnp.int32(1000), 50000, share(0.01)) == 330
    assert assume_poisoned(jnp.int32(400), 50000, share(0.01)) == 40


@pytest.mark.parametrize("preset", ["paper", "benchmark"])
def test_rows_that_lie_apart_are_flagged_in_the_class_that_they_are_of(preset):
    feature = np.random.default_rng(0).normal(size=(600, 5))
    apart = np.arange(0, 600, 3)[:12]
    feature[apart, 1] += 7
    net, suspects = reader(feature)
    spec = lookup(f"spectre:preset={preset},share=0.02", DETECTORS, "detector")
    made = DETECTORS["spectre"].make(net, (1, 1, 5), 3, **spec.static)
    given = Given(spec.traced, lambda key, image: image, suspects=suspects)
    found = jax.jit(lambda key: made.fit(key, net, Trained(Weights({}, {})), given))(root(0))
    flagged = np.flatnonzero(made.threshold(found, None, None, given))
    assert set(apart) <= set(flagged)
    assert len(flagged) == (54 if preset == "benchmark" else 18)  # one and a half times 12 in each class
    assert np.argmax(found["variance"]) == 0
