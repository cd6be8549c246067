"""SentiNet: Grad-CAM, regions, the curve and distances to it by hand, and a network that one corner decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detecting import detect, source

from bdjax.detection.parts.gradcam import heat, last_map
from bdjax.detection.sentinet import choose, distance, fit_curve
from bdjax.types import Layer, Net, Weights


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def cornered() -> Net:
    """Class 1 where the top left corner is bright; its map `seen` has the image's red and green as channels."""

    def apply(weights, image, train=False, weight=None, edit={}):  # noqa: B006, as Net says
        seen = edit.get("seen", lambda x: x)(image[..., :2])
        pool = jnp.mean(seen, (1, 2))
        logits = jnp.stack([jnp.full(len(image), 0.2), 10 * seen[:, 0, 0, 0] - 5 + 0 * pool[:, 0]], 1)
        return logits, {}, {"seen": seen, "pool": pool}

    layers = Layer("seen", "conv", ("seen",), "seen"), Layer("pool", "pool", (), "pool")
    return Net(lambda key: Weights({}, {}), apply, layers)


def test_heat_by_hand():
    """The logit's mean slope is 10 / 16 for red and 0 for green: heat is red, scaled to [0, 1]."""
    image = np.random.default_rng(0).uniform(size=(2, 4, 4, 3))
    image[:, 0, 0, 0] = 1
    red = image[..., 0]
    expected = (red - red.min((1, 2), keepdims=True)) / (1 - red.min((1, 2), keepdims=True))
    assert last_map(cornered()) == "seen"
    np.testing.assert_allclose(heat(cornered(), Weights({}, {}), jnp.asarray(image), "seen"), expected, atol=1e-5)


def test_regions_by_hand():
    """Of 20 pixels 15% are three: those above the third largest are two; ties at it are left out."""
    found = jnp.arange(20.0).reshape(1, 4, 5) / 19
    np.testing.assert_array_equal(np.flatnonzero(choose(found, "largest", 0.15)), [18, 19])
    np.testing.assert_array_equal(np.flatnonzero(choose(found, "hot", 16.5 / 19)), [17, 18, 19])


def test_the_curve_goes_through_the_highest_point_of_each_bin():
    """Points of a parabola at the middles of bins, others below them; an empty bin counts only where asked for."""
    first = 0.3
    middle = first + (np.array([0, 1, 2, 4]) + 0.5) * 0.02
    height = 0.1 + 0.5 * middle - 0.3 * middle**2
    confidence = np.concatenate([[first], middle, middle[1:]])
    fooled = np.concatenate([[0.0], height, height[1:] - 0.1])
    curve = fit_curve(jnp.asarray(confidence), jnp.asarray(fooled), False)
    np.testing.assert_allclose(curve, [0.1, 0.5, -0.3], atol=1e-6)
    bins = first + (np.arange(5) + 0.5) * 0.02
    wanted = np.polyfit(bins, [*height[:3], 0, height[3]], 2)[::-1]
    np.testing.assert_allclose(fit_curve(jnp.asarray(confidence), jnp.asarray(fooled), True), wanted, rtol=1e-6)


def test_distance_by_hand():
    """To the parabola y = x^2: from (0, 0.25) to its vertex, from (0.5, 0) below it; to a line at 45 degrees."""
    found = distance(jnp.array([0.0, 0, 1]), jnp.array([0.0, 1.0]), jnp.array([0.25, 0.0]))
    grid = np.linspace(0, 1, 1_000_001)
    np.testing.assert_allclose(found, [0.25, -np.sqrt(((grid - 1) ** 2 + grid**4).min())], atol=1e-9)
    np.testing.assert_allclose(distance(jnp.array([0.0, 1, 0]), jnp.zeros(1), jnp.ones(1)), [np.sqrt(0.5)], atol=1e-9)


def test_a_corner_that_decides_fools_every_overlay():
    """With a bright corner its region takes over dark images; under noise in its place they are not sure."""
    image = np.full((3, 8, 8, 3), 0.1)
    image[0, 0, 0] = 1
    image[2, 4, 4] = 0.6
    dark = source(np.full((6, 8, 8, 3), 0.2) + 0.01 * np.arange(6)[:, None, None, None], np.zeros(6, int))
    found = detect("sentinet:overlays=5", cornered(), source(image), 2, clean=dark, valid=dark)
    assert found["score"].shape == (3,) and np.isfinite(found["score"]).all()
    kept = detect("sentinet:preset=benchmark,overlays=5", cornered(), source(image), 2, clean=dark, valid=dark)
    sure = np.exp(5) / (np.exp(5) + np.exp(0.2))
    np.testing.assert_allclose(kept["score"][0], sure, rtol=1e-9)
    np.testing.assert_array_equal(kept["flagged"], kept["score"] > 0.9)
