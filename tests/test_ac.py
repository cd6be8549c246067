"""Activation clustering: 2-means and distances by hand, components as scikit-learn has them, which class is flagged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA, FastICA

from bdjax.cards import lookup
from bdjax.detection import DETECTORS
from bdjax.detection.ac import independent_components, separate
from bdjax.detection.parts.classes import largest, principal, two_means
from bdjax.keys import root
from bdjax.types import Batch, Given, Layer, Net, Source, Trained, Weights


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("seed", range(3))
def test_two_means_of_three_numbers(seed):
    place, member = jnp.array([[0.0], [1], [10], [100]]), jnp.array([True, True, True, False])
    margin, centers = two_means(root(seed), place, member, 3)
    np.testing.assert_allclose(np.sort(centers[:, 0]), [0.5, 10])
    sign = 1 if centers[1, 0] > 5 else -1  # |x - 0.5|^2 - |x - 10|^2
    np.testing.assert_allclose(sign * margin, [0.25 - 100, 0.25 - 81, 90.25, 99.5**2 - 90**2])


@pytest.mark.parametrize("rows", [0, 1])
def test_a_class_of_no_rows_or_one_is_no_pair_of_clusters(rows):
    place = jnp.arange(4.0)[:, None]
    score = separate(root(0), place, jnp.arange(4) < rows, 2, jnp.float64(0.35))
    np.testing.assert_array_equal(score, np.zeros(4))


def test_scores_are_distances_to_the_plane_between_the_clusters():
    place = jnp.array([[0.0, 1]] * 7 + [[4.0, 1]] * 3 + [[9.0, 1]])
    member = jnp.arange(11) < 10
    np.testing.assert_allclose(separate(root(0), place, member, 3, jnp.float64(0.35)), [-2] * 7 + [2] * 3 + [0])
    np.testing.assert_array_equal(separate(root(0), place, member, 3, jnp.float64(0.3)), np.zeros(11))


def test_exactly_so_many_are_the_largest_and_the_first_of_equal_ones():
    score, member = jnp.array([5.0, 3, 9, 3, 3]), jnp.array([True, True, False, True, True])
    np.testing.assert_array_equal(largest(score, member, jnp.int32(2)), [True, True, False, False, False])
    np.testing.assert_array_equal(largest(score, member, jnp.int32(9)), member)


def test_components_are_those_of_scikit_learn():
    random, label = np.random.default_rng(0), np.arange(80) % 2
    feature = random.exponential(size=(80, 6)) @ random.normal(size=(6, 6))
    feature[label == 1, 3:] = 1.0  # of rank three
    found = independent_components(feature, label, np.int32(5), classes=3, dims=4)
    own = feature[label == 0] - feature[label == 0].mean(0)
    expected = FastICA(4, random_state=5, whiten="unit-variance").fit_transform(own)
    np.testing.assert_allclose(found[label == 0], expected)
    np.testing.assert_allclose(found[label == 1].var(0), [1, 1, 1, 0], atol=1e-9)
    axes = principal(jnp.asarray(feature), jnp.asarray(label == 0), 4)
    np.testing.assert_allclose(axes[label == 0], PCA(4).fit_transform(own), atol=1e-9)


def reader(feature) -> tuple[Net, Source]:
    """A network whose features are the pixels, and images that are `feature` (n, d)."""
    feature = jnp.asarray(feature)

    def apply(_weights, image, train=False, weight=None, edit={}):  # noqa: B006, as Net says
        flat = image.reshape(len(image), -1)
        return flat[:, :3], {}, {"pool": flat, "linear": flat[:, :3]}

    def read(row):
        return Batch(feature[row][:, None, None], row % 3, row, (row >= 0) * 1.0)

    layers = (Layer("pool", "pool", (), "pool"), Layer("linear", "linear", ("linear",), "linear"))
    return Net(lambda key: Weights({}, {}), apply, layers), Source(len(feature), read)


@pytest.mark.parametrize("projection", ["ica", "pca"])
def test_a_small_group_that_lies_apart_is_flagged_and_no_other_class(projection):
    feature = np.random.default_rng(0).normal(size=(180, 4))
    apart = np.arange(0, 180, 3)[:15]  # a quarter of class 0
    feature[apart] += 12
    net, suspects = reader(feature)
    spec = lookup(f"ac:projection={projection},dims=2", DETECTORS, "detector")
    made = DETECTORS["ac"].make(net, (1, 1, 4), 3, **spec.static)
    given = Given(spec.traced, lambda key, image: image, suspects=suspects)
    trained = Trained(Weights({}, {}))
    found = jax.jit(lambda key: made.fit(key, net, trained, given))(root(0))
    flagged = made.threshold(found, found["score"], None, given)
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(flagged) & (np.arange(180) % 3 == 0)), apart)
    np.testing.assert_array_equal(made.score(None, None, None, found, suspects.read(apart), given) > 0, True)
