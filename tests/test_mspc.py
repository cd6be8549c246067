"""MSPC: consistency and the mask's gradient by hand, and rows that are suspected anew in every round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detecting import build, by_hand, detect, source

from bdjax import train
from bdjax.detection.mspc import amplify, consistency, make_gradient
from bdjax.keys import root
from bdjax.types import Given


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def gray(*values) -> np.ndarray:
    return np.array(values)[:, None, None, None] * np.ones((1, 4, 4, 3))


def bright():
    """Class 1 where the mean pixel is above one half."""
    return by_hand(lambda image: jnp.stack([jnp.full(len(image), 0.5), jnp.mean(image, (1, 2, 3))], 1))


def test_amplified_images_by_hand():
    mask = jnp.array([[1.0, 0.5]])
    found = amplify(jnp.full((1, 1, 2, 1), 0.3), mask, 0.2, 4.0)
    np.testing.assert_allclose(found[0, 0, :, 0], [0.4, 0.2])
    np.testing.assert_allclose(amplify(jnp.full((1, 1, 2, 1), 0.1), mask, 0.2, 4.0), 0)


def test_consistency_by_hand():
    """0.3 - 0.2 under 2 to 12 is above one half from 6 on: 7 of 11 change, 4 stay; 0.1 and 0.9 always stay."""
    factors = jnp.arange(2.0, 13)
    found = consistency(bright(), None, jnp.asarray(gray(0.3, 0.1, 0.9)), jnp.ones((4, 4)), 0.2, factors)
    np.testing.assert_allclose(found, [-3 / 11, 1, 1])
    found = consistency(bright(), None, jnp.asarray(gray(0.3)), jnp.full((4, 4), 0.5), 0.2, factors)
    np.testing.assert_allclose(found, [7 / 11])


def test_the_gradient_is_that_of_the_mean_divergence_of_suspected_rows():
    def logits(image):
        return 3 * jnp.mean(image, (1, 2))

    image = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.5, size=(3, 4, 4, 3)))
    net, factors, mask = by_hand(logits), np.array([2, 3]), jnp.full((4, 4), 0.7)
    settings = {"shift": 0.1, "sparsity": 0.01}
    suspected = jnp.array([1.0, 0, 1])

    def whole(mask):
        total = 0
        for factor in factors:
            one, two = (
                jax.nn.softmax(logits(each))
                for each in (image, jnp.clip(factor * (image - 0.1) * mask[..., None], 0, 1))
            )
            total += jnp.sum(suspected * jnp.sum(one * jnp.log(one / two), 1)) / 3 / 2
        return total + 0.01 * jnp.sum(jnp.abs(mask))

    rows = source(image).read(jnp.arange(3))
    slope, _, info = make_gradient(net, factors)(None, mask, {"suspected": suspected}, rows, Given(settings, None))
    np.testing.assert_allclose(slope, jax.grad(whole)(mask), rtol=1e-9)
    np.testing.assert_allclose(info["divergence"], whole(mask) - 0.01 * 16 * 0.7, rtol=1e-9)


def test_a_mask_that_nothing_holds_up_vanishes():
    """No row keeps its prediction, none is suspected: the norm alone is descended, by hand for two steps."""
    net = by_hand(lambda image: jnp.stack([jnp.mean(image, (1, 2, 3)), 0.3 - jnp.mean(image, (1, 2, 3))], 1))
    made, settings = build("mspc:rounds=1,epochs=2,weight_decay=0", net, (4, 4, 3), 2)
    rows = source(gray(0.17, 0.18), [0, 0])
    given = Given(settings, lambda key, image: image, suspects=rows, victim=net.init(root(0)))
    assert (consistency(net, None, jnp.asarray(gray(0.17)), jnp.ones((4, 4)), 0.2, jnp.arange(2.0, 13)) < 0).all()
    left = train.fit(root(0), made.stages[0], lambda _: given, ())
    np.testing.assert_allclose(left.carry["mask"], 1 - 0.001 - 0.0019, rtol=1e-9)


def test_rows_that_keep_their_prediction_are_flagged():
    found = detect("mspc:rounds=2,epochs=2,batch=2", bright(), source(gray(0.3, 0.1, 0.9), [0, 0, 0]), 2)
    np.testing.assert_array_equal(found["flagged"], found["score"] > 0)
    assert found["flagged"][1] and found["flagged"][2]
