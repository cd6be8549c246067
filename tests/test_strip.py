"""STRIP: entropies by hand, overlays that no batch changes, and the rule on clean scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detecting import by_hand, detect, source

from bdjax.detection.parts.decisions import above_clean
from bdjax.detection.strip import draw_overlays, entropy
from bdjax.keys import root

SHAPE = (4, 4, 3)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(count, *SHAPE))


def test_entropy_by_hand():
    share = np.array([0.5, 0.5]) + 1e-8
    even = -np.sum(share * np.log(share))
    sure = np.array([1 / (1 + np.exp(-50)), np.exp(-50) / (1 + np.exp(-50))]) + 1e-8
    found = entropy(jnp.array([[1.0, 1.0], [50.0, 0.0]]))
    np.testing.assert_allclose(found, [even, -np.sum(sure * np.log(sure))], rtol=1e-12)


def test_a_constant_network_has_one_score_and_nothing_is_flagged():
    logits = jnp.array([2.0, 0.0, -1.0])
    constant = by_hand(lambda image: jnp.broadcast_to(logits, (len(image), 3)))
    clean = source(images(6, 1), np.zeros(6, int))
    found = detect("strip:overlays=3", constant, source(images(5)), 3, clean=clean, valid=clean)
    share = np.exp(logits) / np.sum(np.exp(logits)) + 1e-8
    np.testing.assert_allclose(found["score"], np.sum(share * np.log(share)), rtol=1e-12)
    assert not found["flagged"].any()


def test_the_score_is_the_mean_entropy_over_images_laid_on_top():
    """All clean rows are laid on each image, whatever the order: the mean over them by NumPy."""

    def logits(image):
        return jnp.mean(image, (1, 2)) * jnp.array([3.0, -2.0, 5.0])

    judged, clean = images(4), images(5, 1)
    overlay = clean - clean.mean((0, 1, 2))
    expected = np.zeros(4)
    for one in overlay:
        z = np.mean(judged + 0.7 * one, (1, 2)) * [3, -2, 5]
        share = np.exp(z) / np.exp(z).sum(1, keepdims=True) + 1e-8
        expected += np.sum(share * np.log(share), 1) / 5
    rows = source(clean, np.zeros(5, int))
    found = detect("strip:alpha=0.7", by_hand(logits), source(judged), 3, clean=rows, valid=rows)
    np.testing.assert_allclose(found["score"], expected, rtol=1e-10)


def test_overlays_are_drawn_by_row_without_repetition():
    rows = jnp.arange(6)
    drawn = np.asarray(draw_overlays(root(0), rows, 20, 7, 0))
    assert drawn.shape == (6, 7) and all(len(set(one)) == 7 for one in drawn)
    np.testing.assert_array_equal(drawn[3:], draw_overlays(root(0), rows[3:], 20, 7, 0))
    assert len({tuple(one) for one in drawn.tolist()}) == 6


def test_rows_of_a_block_share_their_overlays():
    drawn = np.asarray(draw_overlays(root(0), jnp.arange(6), 20, 7, 4))
    assert (drawn[:4] == drawn[0]).all() and (drawn[4:] == drawn[4]).all() and (drawn[0] != drawn[4]).any()


def test_the_threshold_is_passed_by_a_share_of_clean_scores():
    clean = jnp.arange(10.0)
    score = jnp.array([8.5, 9.0, 9.5, 7.5, 0.0])
    np.testing.assert_array_equal(above_clean(score, clean, 0.1), [True, True, True, False, False])
    np.testing.assert_array_equal(above_clean(score, clean, 0.05), [False, False, True, False, False])
