"""BaDExpert: the rule by hand, what each expert is trained on, and clean rows that are misclassified."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detecting import CLASSES, SHAPE, build, detect, network, source

from bdjax import train
from bdjax.detection.bad_expert import triangle
from bdjax.keys import root
from bdjax.types import Given


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def rows(count: int, seed: int = 0):
    return source(np.random.default_rng(seed).uniform(size=(count, *SHAPE)), np.arange(count) % CLASSES)


@pytest.mark.parametrize(
    ("backdoor", "clean", "corner", "score"),
    [
        (1.0, 0.0, 0.5, 0.0),  # the backdoor's own: most suspect
        (0.9, 0.9, 0.5, -2.0),  # 2 x 0.9 / 0.9 against 0.1 / 1e-8
        (0.8, 0.1, 0.5, -0.25),  # 0.2 / 0.8 against 0.2 / 0.4
        (0.5, 0.2, 0.5, -0.8),  # 0.4 / 0.5 against 0.5 / 0.3
        (0.8, 0.1, 0.2, -0.625),  # 5 x 0.1 / 0.8 against 0.2 / 0.1
        (0.99, 0.3, 0.5, -0.05),  # 0.6 / 0.99 against 0.01 / 0.2
    ],
)
def test_triangle_by_hand(backdoor, clean, corner, score):
    np.testing.assert_allclose(triangle(jnp.array([backdoor]), jnp.array([clean]), corner), [score], atol=1e-12)


def experts(text: str, clean, victim):
    net = network()
    made, settings = build(f"bad_expert:{text}", net, SHAPE, CLASSES)
    given, left = Given(settings, lambda key, image: image, clean=clean, victim=victim), None
    for number, stage in enumerate(made.stages):
        left = train.fit(root(number), stage, lambda _: given, (), left)
    return left


def test_the_backdoor_expert_learns_the_next_class():
    """One step of Adam moves every parameter by its rate against the gradient of the loss to (y + 1) mod K."""
    net, clean = network(), rows(9)
    victim = net.init(root(4))
    left = experts("backdoor_rate=1e-3,clean_epochs=1", clean, victim)
    jax.tree.map(np.testing.assert_array_equal, left.weights, victim)
    batch = clean.read(jnp.arange(9))
    batch = batch.replace(label=(batch.label + 1) % CLASSES)
    slope = train.loss_gradient(net, victim, batch.image, batch)[0]
    moved = jax.tree.map(jnp.subtract, left.carry["backdoor"].params, victim.params)
    for step, own in zip(jax.tree.leaves(moved), jax.tree.leaves(slope), strict=True):
        sure = np.abs(own) > 1e-6
        np.testing.assert_allclose(step[sure], -1e-3 * np.sign(own[sure]), rtol=0.02)


def test_the_clean_expert_learns_the_labels_of_clean_rows():
    net, clean = network(), rows(9)
    victim = net.init(root(4))
    left = experts("clean_epochs=1,clean_rate=0.01,weight_decay=0", clean, victim)
    batch = clean.read(jnp.arange(9))
    slope = train.loss_gradient(net, victim, batch.image, batch)[0]
    expected = jax.tree.map(lambda weight, slope: weight - 0.01 * 1.9 * slope, victim.params, slope)
    found = left.carry["clean"].params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, expected)


def test_misclassified_clean_rows_set_no_threshold():
    made, settings = build("bad_expert:fpr=0.5", network(), SHAPE, CLASSES)
    clean, score = jnp.array([1.0, 2, 3, 4, 90]), jnp.array([2.5, 3.5, 4.5])
    right = {"right": jnp.array([True, True, True, True, False])}
    given = Given(settings, None)
    np.testing.assert_array_equal(made.threshold(right, score, clean, given), [True, True, True])
    right = {"right": jnp.ones(5, bool)}
    np.testing.assert_array_equal(made.threshold(right, score, clean, given), [False, True, True])


def test_the_score_is_the_triangle_of_what_the_stages_left():
    found = detect("bad_expert:clean_epochs=2", network(), rows(6), CLASSES, clean=rows(9, 1), valid=rows(6, 2))
    assert np.isfinite(found["score"]).all() and len(set(np.asarray(found["score"]).tolist())) == 6
