"""MM-BD: margins and the test by hand, and the ascent on a linear network, whose course can be worked out."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import gamma

from bdjax import train
from bdjax.audits import AUDITS
from bdjax.audits.mm_bd import margins, p_value
from bdjax.cards import lookup
from bdjax.keys import root
from bdjax.types import Given, Net, Weights

SHAPE, CLASSES = (1, 1, 2), 3
KERNEL = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])


def test_a_margin_is_over_the_best_other_class():
    logits = jnp.array([[3.0, 1.0, 2.0], [-1.0, -5.0, -2.0]])
    np.testing.assert_allclose(margins(logits, 0), [1, 1])
    np.testing.assert_allclose(margins(logits, 2), [-1, -1])


def test_one_margin_far_above_the_others_is_unlikely():
    ordinary = gamma.rvs(4.0, scale=2.0, size=9, random_state=0)
    assert p_value(np.append(ordinary, 60.0)) < 0.01
    fitted = gamma.fit(ordinary)
    assert p_value(np.append(ordinary, ordinary.max() + 0.1)) == pytest.approx(
        1 - gamma.cdf(ordinary.max() + 0.1, *fitted) ** 10
    )


def net() -> Net:
    def apply(weights, image, train=False, weight=None, edit={}):  # noqa: B006, as Net says
        return image.reshape(len(image), -1) @ weights.params, {}, {}

    return Net(lambda key: Weights(jnp.asarray(KERNEL), {}), apply, ())


def ascended(text: str) -> np.ndarray:
    spec = lookup(text, AUDITS, "audit")
    audit = AUDITS["mm_bd"].make(net(), SHAPE, CLASSES, **spec.static)
    victim = net().init(None)
    given = lambda _: Given(dict(spec.traced), lambda key, image: image, victim=victim)  # noqa: E731
    return np.asarray(train.fit(root(0), audit.stages[0], given, ()).carry["margin"])


def test_the_ascent_reaches_the_largest_margin_within_the_range_of_pixels():
    # Class 0 is at most 1 - 0 ahead, of an image (1, 0); class 1 2 ahead of (0, 1); class 2, whose logit is 0, never.
    np.testing.assert_allclose(ascended("mm_bd:steps=400,learning_rate=0.02,tolerance=0"), [1, 2, 0], atol=0.05)


def test_a_large_tolerance_ends_after_the_first_comparison():
    one, two = (ascended(f"mm_bd:steps={steps},tolerance=10") for steps in (1, 50))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(two, ascended("mm_bd:steps=50,tolerance=0"))
