"""Cognitive Distillation: masks before and after steps worked out by hand, and which rows are flagged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detecting import build, by_hand, detect, source

from bdjax.detection.cd import distill, draw_color, variation
from bdjax.keys import root
from bdjax.types import Given

START = (np.tanh(1) + 1) / 2


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def blind():
    """Two logits that no image changes: only the norm and the variation of a mask are left."""
    return by_hand(lambda image: jnp.zeros((len(image), 2)) + 0 * jnp.sum(image))


def images(count: int, size: int = 4) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(count, size, size, 3))


def black(_step):
    return jnp.zeros((1, 1, 1, 3))


def test_a_mask_begins_at_0_8808_a_pixel():
    """Nothing pulls: the norm of 32 x 32 pixels stays 1,024 x 0.8808 = 901.9."""
    mask = distill(blind(), None, jnp.asarray(images(1, 32)), black, 3, 0.1, 0.0, 0.0)
    np.testing.assert_allclose(np.sum(mask), 901.9, atol=0.05)
    np.testing.assert_allclose(mask, START, rtol=1e-12)


def test_steps_by_hand_where_only_the_norm_counts():
    """Adam's first step is the rate, whatever the gradient g; the second one follows its two means."""
    gamma, rate = 0.5, 0.1
    free, mean, square = 1.0, 0.0, 0.0
    for step in (1, 2):
        slope = gamma * (1 - np.tanh(free) ** 2) / 2
        mean, square = 0.1 * mean + 0.9 * slope, 0.1 * square + 0.9 * slope**2
        free -= rate * (mean / (1 - 0.1**step)) / (np.sqrt(square / (1 - 0.1**step)) + 1e-8)
    mask = distill(blind(), None, jnp.asarray(images(2)), black, 2, rate, gamma, 0.0)
    np.testing.assert_allclose(mask, (np.tanh(free) + 1) / 2, rtol=1e-12)


def test_variation_by_hand():
    """One bright pixel in a corner of 2 x 3 differs from two neighbors, one in the middle of a side from three."""
    corner, side = np.zeros((2, 3)), np.zeros((2, 3))
    corner[0, 0], side[0, 1] = 1, 2
    found = variation(jnp.asarray(np.stack([corner, side])[..., None]))
    np.testing.assert_allclose(found, [2 / 6, 3 * 4 / 6])


def test_the_gradient_is_that_of_the_whole_loss():
    """A linear network of one logit w x: d|w(m x + (1 - m) c) - w x| / dm = |w| sign (x - c) a pixel, by hand."""
    image = np.full((1, 1, 1, 1), 0.2)
    net = by_hand(lambda image: 3 * image[:, 0, 0])
    color = jnp.full((1, 1, 1, 1), 0.7)
    found = distill(net, None, jnp.asarray(image), lambda step: color, 1, 0.1, 1.0, 0.0)
    # The part that is not shown pulls the logit up, so a larger mask lowers the loss: -1.5 + 1 < 0, and it grows.
    np.testing.assert_allclose(found, (np.tanh(1.1) + 1) / 2, rtol=1e-7)
    found = distill(net, None, jnp.asarray(image), lambda step: color, 1, 0.1, 2.0, 0.0)
    np.testing.assert_allclose(found, (np.tanh(0.9) + 1) / 2, rtol=1e-7)


def test_colors_differ_by_row_and_step_and_not_by_batch():
    colors = np.stack([draw_color(root(0), jnp.arange(4), step, 3) for step in range(3)])
    assert len(np.unique(colors)) == colors.size and colors.min() >= 0 and colors.max() <= 1
    np.testing.assert_array_equal(colors[2, 2:], draw_color(root(0), jnp.array([2, 3]), 2, 3))


@pytest.mark.parametrize("flag", ["below", "above"])
def test_norms_a_deviation_below_the_mean_of_clean_ones_are_flagged(flag):
    """Clean norms 8, 10, 12 have mean 10 and deviation 2: below 8 is flagged, and the benchmark flags the others."""
    made, settings = build(f"cd:flag={flag}", blind(), (4, 4, 3), 2)
    score, clean = -jnp.array([7.9, 8.1, 10, 13]), -jnp.array([8.0, 10, 12])
    flagged = made.threshold((), score, clean, Given(settings, None))
    np.testing.assert_array_equal(flagged, np.array([True, False, False, False]) == (flag == "below"))


def test_a_row_that_one_pixel_decides_keeps_a_smaller_mask():
    """The logit of an image with a bright corner depends on that alone; that of another one on all pixels."""

    def logits(image):
        corner = image[:, 0, 0, 0]
        return jnp.where(corner > 0.9, 50 * corner, 800 * jnp.mean(image[..., 0], (1, 2)))[:, None]

    image = np.full((2, 4, 4, 3), 0.5)
    image[0, 0, 0] = 1
    rows = source(image, [0, 0])
    found = detect("cd:steps=60,gamma=1,beta=0", by_hand(logits), rows, 1, valid=rows)
    assert found["score"][0] > found["score"][1] + 1
