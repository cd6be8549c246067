"""SCALE-UP: the share of factors that keep a prediction, worked out by hand, and the rule on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detecting import by_hand, detect, source

from bdjax.detection.scale_up import consistency


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def bright():
    """Class 1 where the mean pixel is above one half, else class 0."""
    return by_hand(lambda image: jnp.stack([jnp.full(len(image), 0.5), jnp.mean(image, (1, 2, 3))], 1))


def gray(*values) -> np.ndarray:
    return np.array(values)[:, None, None, None] * np.ones((1, 4, 4, 3))


FACTORS = jnp.array([3.0, 5, 7, 9, 11])


def test_share_of_factors_by_hand():
    """A pixel of 0.06 is 0.18, 0.3, 0.42, 0.54 and 0.66 under the factors: two of five turn it bright."""
    image = jnp.asarray(gray(0.0, 0.06, 0.12, 0.4, 0.6, 1.0))
    found = consistency(bright(), None, image, jnp.full(6, -1), FACTORS)
    np.testing.assert_allclose(found, [1, 3 / 5, 1 / 5, 0, 1, 1])


def test_black_and_white_images_are_always_consistent():
    random = by_hand(lambda image: jnp.sin(37 * jnp.sum(image, (1, 2)) @ jnp.arange(9.0).reshape(3, 3)))
    found = consistency(random, None, jnp.asarray(gray(0.0, 1.0)), jnp.full(2, -1), FACTORS)
    np.testing.assert_array_equal(found, 1)


def test_labelled_rows_are_compared_with_their_label():
    """Dark images that are labelled bright: consistent under the factors that brighten them."""
    found = consistency(bright(), None, jnp.asarray(gray(0.06, 0.12)), jnp.array([1, 1]), FACTORS)
    np.testing.assert_allclose(found, [2 / 5, 4 / 5])


def test_the_rule_takes_the_score_as_it_is_or_standardized():
    """Clean shares 1/5 and 3/5 have mean 0.4 and deviation 0.2 sqrt(2); 3/5 is 0.71 above it, 1/5 below."""
    judged, valid = source(gray(0.06, 0.12, 0.6)), source(gray(0.12, 0.06), [0, 0])
    plain = detect("scale_up:standardized=false", bright(), judged, 2, valid=valid)
    np.testing.assert_allclose(plain["score"], [3 / 5, 1 / 5, 1])
    np.testing.assert_array_equal(plain["flagged"], [True, False, True])
    for bound, flagged in ((0.70, [True, False, True]), (0.71, [False, False, True])):
        found = detect(f"scale_up:bound={bound}", bright(), judged, 2, valid=valid)
        np.testing.assert_array_equal(found["flagged"], flagged)


def test_noise_is_added_before_images_are_scaled():
    """At most 0.02 on each pixel: 0.494 may become bright, 0.479 never does; the authors' first factor is 1."""
    judged, valid = source(gray(0.479, 0.494)), source(gray(0.2), [0])
    found = detect("scale_up:preset=authors_code,largest=1,standardized=false", bright(), judged, 2, valid=valid)
    np.testing.assert_array_equal(found["score"], 1)
    dark = detect(
        "scale_up:smallest=2,largest=2,noise=0.1,standardized=false", bright(), source(gray(0.24)), 2, valid=valid
    )
    np.testing.assert_array_equal(dark["score"], 0)
