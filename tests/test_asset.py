"""ASSET: medcouple and outlyingness by hand, the filter, both moves of a step, and the threshold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from detecting import build, source

from bdjax import train
from bdjax.detection.asset import find_bound, judge, start_filter, tell_apart
from bdjax.detection.parts.outlyingness import medcouple, outlyingness, quantile
from bdjax.keys import root, stream
from bdjax.types import Given

SHAPE, CLASSES = (8, 8, 3), 3


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def rows(count: int, seed: int = 0):
    return source(np.random.default_rng(seed).uniform(size=(count, *SHAPE)), np.arange(count) % CLASSES)


def everyone(value):
    return jnp.asarray(value, float), jnp.ones(len(value), bool)


def test_quantiles_are_numpys_of_the_members():
    value = np.random.default_rng(0).normal(size=21)
    member = np.arange(21) % 3 > 0
    for share in (0.25, 0.5, 0.75):
        found = quantile(jnp.asarray(value), jnp.asarray(member), share)
        np.testing.assert_allclose(found, np.quantile(value[member], share), rtol=1e-12)


@pytest.mark.parametrize(
    ("value", "skew"),
    [
        ([1, 2, 3, 4, 5], 0),
        ([0, 1, 2, 6, 12], 0.6),  # pairs about 2: 0, 1, 1 and 1/3, 3/5, 4/6, 9/11 and -1 twice
        ([-12, -6, -2, -1, 0], -0.6),
        ([0, 2, 2, 2, 10], 0),  # ties at the median
        ([1, 2, 4, 10], 3 / 8),  # about 3: -1/3, 0, 5/9, 3/4
    ],
)
def test_medcouple_by_hand(value, skew):
    expected = _medcouple(np.array(value, float))
    np.testing.assert_allclose(medcouple(*everyone(value)), expected, atol=1e-12)
    more = jnp.asarray([*value, 77.0]), jnp.arange(len(value) + 1) < len(value)
    np.testing.assert_allclose(medcouple(*more), expected, atol=1e-12)
    assert np.sign(expected) == np.sign(skew)


def _medcouple(value):
    """The median over pairs by a loop; a pair of the median's own equals counts -1, 0 or 1 by their places."""
    median, value = np.median(value), np.sort(value)
    low, high = value[value <= median], value[value >= median]
    ties, kernel = int(np.sum(value == median)), []
    for i, b in enumerate(high):
        for j, a in enumerate(low):
            if a == b:
                kernel.append(np.sign(i + (j - len(low) + ties) - ties + 1))
            else:
                kernel.append(((b - median) - (median - a)) / (b - a))
    return np.median(kernel)


def test_outlyingness_by_hand():
    """1 to 9 have no skew, quartiles 3 and 7: whiskers at -3 and 13, so 9 is 4 of 8 out and 25 would be 20 of 8."""
    value = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    np.testing.assert_allclose(outlyingness(*everyone(value)), np.abs(np.array(value) - 5) / 8)


def test_the_filter_tells_two_clouds_apart():
    random = np.random.default_rng(0)
    mixed, clean = jnp.asarray(random.normal(2, 0.1, size=(9, 4))), jnp.asarray(random.normal(-2, 0.1, size=(7, 4)))
    layers = start_filter(root(0), 4, 8)
    assert all(np.abs(layer["kernel"]).max() <= len(layer["kernel"]) ** -0.5 for layer in layers)
    layers = tell_apart(layers, mixed, clean, (jnp.ones(9), jnp.ones(7)), 0.05, 40)
    assert judge(layers, mixed).min() > 0.9 and judge(layers, clean).max() < 0.1


def test_a_step_without_suspects_lowers_the_variance_of_clean_logits_alone():
    """No outlyingness above a million: one step of Adam against the variance's gradient."""
    net = tiny.network("small_cnn", SHAPE, CLASSES, (0.4,) * 3, (0.3,) * 3, width=2)
    made, settings = build("asset:batch=12,filter_steps=2,outlying=1e6,rate=1e-3", net, SHAPE, CLASSES)
    clean = rows(6, 1)
    given = Given(settings, lambda key, image: image, train=rows(12), clean=clean, victim=net.init(root(3)))
    left = train.fit(root(0), made.stages[0], lambda _: given, ()).weights
    first = net.init(stream(stream(root(0), "init"), "init"))

    def variance(params):
        logits = net.apply(first.replace(params=params), clean.read(jnp.arange(6)).image, True)[0]
        return jnp.mean(jnp.var(logits, axis=1, ddof=1))

    rule = optax.adam(1e-3)
    updates, _ = rule.update(jax.grad(variance)(first.params), rule.init(first.params))
    for found, move, start in zip(*map(jax.tree.leaves, (left.params, updates, first.params)), strict=True):
        sure = np.abs(move) > 9e-4
        np.testing.assert_allclose((found - start)[sure], move[sure], rtol=1e-3)


def test_the_threshold_by_hand():
    """The lower half of 1, 1, 3, 9, 50 is 1, 1, 3: mean 5/3, variance 8/9."""
    found = find_bound(jnp.array([9.0, 1, 50, 3, 1]), 1e-6)
    deviation = np.sqrt(8 / 9 + 1e-6)
    expected = 5 / 3 + deviation * np.sqrt(-2 * np.log(1e-6) * deviation * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
