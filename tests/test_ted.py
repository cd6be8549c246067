"""TED: ranks by hand, principal components against scikit-learn, and trajectories of a small network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detecting import CLASSES, SHAPE, build, detect, images, network, source
from sklearn.decomposition import PCA

from bdjax.detection.parts import outliers
from bdjax.detection.ted import distances, rank, watched
from bdjax.keys import root
from bdjax.types import Given, Trained


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_rank_by_hand():
    """Four references of classes 0, 1, 1, 2: a query of class 1 has one nearer stranger, in the other layer two."""
    distance = jnp.array([[3.0, 1.0], [2.0, 9.0], [7.0, 5.0], [1.0, 2.0]])[:, None]
    reference, everyone = jnp.array([0, 1, 1, 2]), jnp.ones((4, 1), bool)
    np.testing.assert_array_equal(rank(distance, jnp.array([1]), reference, everyone), [[1, 2]])
    np.testing.assert_array_equal(rank(distance, jnp.array([0]), reference, everyone), [[2, 0]])
    without = everyone.at[3].set(False)
    np.testing.assert_array_equal(rank(distance, jnp.array([1]), reference, without), [[0, 1]])
    np.testing.assert_array_equal(rank(distance, jnp.array([2]), reference, without), [[3, 3]])  # nobody of its class


def test_a_row_among_its_references_has_rank_0_in_all_layers():
    net, image = network(), jnp.asarray(images(9))
    weights, label = net.init(root(0)), jnp.arange(9) % CLASSES
    found = distances(net, weights, image, source(image))
    np.testing.assert_array_equal(rank(found, label, label, jnp.ones((9, 1), bool)), 0)


def test_distances_are_those_of_activations():
    net, one, two = network(), jnp.asarray(images(3)), jnp.asarray(images(70, 1))
    weights = net.init(root(0))
    found = distances(net, weights, one, source(two))
    assert watched(net) == ["conv1", "relu1", "conv2", "relu2", "conv3", "relu3", "linear"]
    for place, name in enumerate(watched(net)):
        first, second = (np.asarray(net.apply(weights, image)[2][name]).reshape(len(image), -1) for image in (one, two))
        expected = ((second[:, None] - first) ** 2).sum(2)
        np.testing.assert_allclose(found[..., place], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_principal_components_are_those_of_scikit_learn(seed):
    random = np.random.default_rng(seed)
    figures = random.normal(size=(60, 3)) @ random.normal(size=(3, 7)) + 0.1 * random.normal(size=(60, 7))
    member = random.uniform(size=60) < 0.8
    chosen = figures[member]
    scaled = (chosen - chosen.mean(0)) / chosen.std(0)
    wanted = PCA("mle").fit(scaled)
    axes = outliers.fit_axes(jnp.asarray(figures), jnp.asarray(member))
    number = wanted.n_components_
    assert int(axes.used.sum()) == number
    np.testing.assert_allclose(axes.variance[:number], wanted.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(axes.axis[:, :number].T, wanted.components_, atol=1e-9)
    place = wanted.transform(scaled)
    reach = (place**2 / wanted.explained_variance_).sum(1)
    np.testing.assert_allclose(outliers.reach(axes, jnp.asarray(chosen)), reach, rtol=1e-9)
    apart = np.linalg.norm(scaled[:, None] - wanted.components_, axis=2) / wanted.explained_variance_ratio_
    np.testing.assert_allclose(outliers.spread(axes, jnp.asarray(chosen)), apart.sum(1), rtol=1e-9)


def test_a_figure_that_never_varies_is_left_alone():
    figures = jnp.asarray(np.random.default_rng(0).normal(size=(30, 4))).at[:, 2].set(0)
    axes = outliers.fit_axes(figures, jnp.ones(30, bool))
    assert np.isfinite(outliers.reach(axes, figures)).all() and axes.scale[2] == 1


def test_misclassified_rows_are_not_compared_with():
    net, clean = network(), source(images(12), np.arange(12) % CLASSES)
    made, settings = build("ted", net, SHAPE, CLASSES)
    weights = net.init(root(0))
    given = Given(settings, None, clean=clean, victim=weights)
    found = made.fit(root(0), net, Trained(weights), given)
    order = np.asarray(jax.random.permutation(jax.random.key(0), 12))
    predicted = np.asarray(jnp.argmax(net.apply(weights, jnp.asarray(images(12)))[0], 1))[order]
    np.testing.assert_array_equal(found["label"], predicted)
    right = predicted == order % CLASSES
    counts = np.array([np.sum(right & (predicted == label)) for label in predicted])
    np.testing.assert_array_equal(found["member"], right & (counts > 1))


def test_scores_of_a_small_network_and_the_share_beyond_the_threshold():
    clean = source(images(30), np.zeros(30, int))  # of one class, as this random network predicts
    net = network()
    found = detect("ted:contamination=0.1", net, source(images(12, 1)), CLASSES, clean=clean, victim=net.init(root(0)))
    assert np.isfinite(found["score"]).all()
    made, settings = build("ted:contamination=0.1", net, SHAPE, CLASSES)
    own = jnp.arange(10.0)
    fitted = {"member": jnp.arange(10) > 1, "score": own}
    flagged = made.threshold(
        fitted, jnp.array([7.0, 8.5, 9.5]), own[:0], Given(settings | {"contamination": 0.25}, None)
    )
    np.testing.assert_array_equal(flagged, [False, True, True])  # of 8 members 2 may reach it
