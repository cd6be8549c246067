"""FCT: similarity of centers by hand, views as NumPy turns and moves them, two losses in turn, how many are flagged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data.sources import split
from bdjax.detection import DETECTORS
from bdjax.detection.parts.sensitivity import center_similarity, draw_view, inconsistency, transform
from bdjax.keys import root
from bdjax.models import MODELS
from bdjax.types import Data, Given


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_similarity_of_centers_by_hand():
    feature = jnp.array([[2.0, 0], [4, 0], [0, 5], [0, 3], [9, 9]])
    label, weight = jnp.array([0, 0, 2, 1, 1]), jnp.array([1.0, 1, 1, 1, 0])
    # centers (1, 0), (0, 1) and (0, 1): two of nine entries are 1
    assert center_similarity(feature, label, weight, 4) == pytest.approx(2 / 9)
    slope = jax.grad(center_similarity)(feature, label, weight, 4)
    assert np.isfinite(slope).all() and not np.any(slope[4])


def test_an_image_is_turned_then_moved():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 6, 2)))
    assert any(np.allclose(transform(image, sign * jnp.pi / 2, jnp.zeros(2)), np.rot90(image)) for sign in (1, -1))
    moved = np.zeros((6, 6, 2))
    moved[2:, :-1] = image[:-2, 1:]
    np.testing.assert_allclose(transform(image, jnp.float64(0), jnp.array([2.0, -1])), moved)
    np.testing.assert_allclose(draw_view(root(0), image, jnp.float64(0), jnp.float64(0)), image)


def test_inconsistency_by_hand():
    np.testing.assert_allclose(inconsistency(jnp.array([[1.0, 2], [0, 0]]), jnp.array([[4.0, 2], [1, 1]])), [4.5, 1])


def made(text):
    net = MODELS["small_cnn"].make((8, 8, 3), 3, (0.5,) * 3, (0.25,) * 3, width=2)
    spec = lookup(text, DETECTORS, "detector")
    return net, DETECTORS["fct"].make(net, (8, 8, 3), 3, **spec.static), spec.traced


def test_two_epochs_of_one_loss_then_of_the_other():
    random = np.random.default_rng(0)
    data = Data(jnp.asarray(random.integers(0, 256, (12, 8, 8, 3)), jnp.uint8), jnp.arange(12, dtype=jnp.int32) % 3)
    left = {}
    for name, tuning in (("plain", 0), ("tuned", 1)):
        net, detector, settings = made(f"fct:epochs=2,tuning_epochs={tuning},batch=12")
        left[name] = train.fit(
            root(0), detector.stages[0], lambda data, s=settings: Given(s, None, suspects=split(data)), data
        ).weights
    before, after = left["plain"], left["tuned"]
    image, label = data.image / 255, data.label
    bias = before.params["linear"]["bias"]
    assert not np.allclose(before.params["conv1"]["kernel"], after.params["conv1"]["kernel"])
    # The tuning loss does not see the head: it goes on by momentum and decay alone, the same way in both parts.
    assert np.abs(after.params["linear"]["bias"] - bias).max() < np.abs(bias).max()

    def similarity(weights):
        found = net.apply(weights, image, train=True)[2]["pool"]
        return center_similarity(found, label, jnp.ones(12), 3)

    assert np.isfinite(similarity(after)) and similarity(after) != similarity(before)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.05, 2), (0.5, 20), (1.0, 40)])
def test_a_share_of_the_rows_is_flagged(share, count):
    detector, settings = made("fct")[1:]
    score = jnp.asarray(np.random.default_rng(0).uniform(size=40))
    flagged = detector.threshold((), score, None, Given(settings | {"share": jnp.float64(share)}, None))
    assert flagged.sum() == count and set(np.argsort(-score)[:count]) == set(np.flatnonzero(flagged))
