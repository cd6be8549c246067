"""The contrastive loss by hand, which rows are compared, and the projection."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.models.auxiliary import projection
from bdjax.train.contrastive import contrast, own_view
from bdjax.types import Batch

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


def test_two_rows_in_two_equal_views_by_hand():
    """Similarities 1, 0, 0 at temperature 1/2: -log(e^2 / (e^2 + 2))."""
    point = jnp.array([EAST, NORTH, EAST, NORTH])
    alike = jnp.eye(2, 4, 2, dtype=bool)
    found = contrast(point, alike, jnp.ones(4), 0.5)
    np.testing.assert_allclose(found, -np.log(np.exp(2) / (np.exp(2) + 2)), rtol=1e-6)


def test_several_alike_by_hand_and_itself_is_not_one_of_them():
    """All four are anchors and all alike: of others with similarities 1, 0, 0 the mean of 1, 0, 0 less the log."""
    point = jnp.array([EAST, NORTH, EAST, NORTH])
    found = contrast(point, jnp.ones((4, 4), bool), jnp.ones(4), 1.0)
    np.testing.assert_allclose(found, np.log(np.e + 2) - 1 / 3, rtol=1e-6)


def test_padding_is_no_anchor_and_compared_with_nothing():
    point, few = jnp.array([EAST, NORTH, EAST, NORTH]), jnp.array([EAST, NORTH, [0.6, 0.8], EAST, NORTH, [0.8, 0.6]])
    alike = [jnp.eye(n, 2 * n, n, dtype=bool) for n in (2, 3)]
    weight = jnp.array([1.0, 1, 0, 1, 1, 0])

    def slope(point):
        return jax.value_and_grad(contrast)(point, alike[1], weight, 0.5)

    value, gradient = slope(few)
    np.testing.assert_allclose(value, contrast(point, alike[0], jnp.ones(4), 0.5), rtol=1e-6)
    np.testing.assert_array_equal(gradient[jnp.array([2, 5])], 0)
    assert np.isfinite(gradient).all()


def test_own_view():
    rows = Batch(None, None, jnp.arange(2), None)
    np.testing.assert_array_equal(own_view(rows, None), [[0, 0, 1, 0], [0, 0, 0, 1]])


def test_projection_is_on_the_sphere_and_moves_its_statistics():
    weights = projection.init(jax.random.key(0), 5)
    point, batch_stats = projection.project(weights, jax.random.normal(jax.random.key(1), (7, 5)))
    np.testing.assert_allclose(jnp.sum(point**2, 1), np.ones(7), rtol=1e-5)
    assert point.shape == (7, projection.SIZE) and np.any(batch_stats["bn1"]["mean"] != 0)
    plain = projection.init(jax.random.key(0), 5, normalized=False)
    assert sorted(plain.params) == ["linear1", "linear2"]
    assert projection.project(plain, jnp.ones((2, 5)))[1] == {}
