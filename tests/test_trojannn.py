"""TrojanNN: the shapes, which features are driven, the descent on a linear model, and how the picture is put in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.attacks.trojannn import added, coverage, fitted, heaviest
from bdjax.cards import lookup
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.types import Data, Layer, Net, Weights

FLOATS = {"value": 100.0, "step": 0.1, "tolerance": 1e-3, "radius": 1.0}
MASK = jnp.zeros((2, 2, 1)).at[0].set(1.0)
START = jnp.array([[[0.5], [0.5]], [[0.0], [0.0]]])
SLOPES = jnp.array([[3.0, -1.0, 5.0, 5.0], [0.0, 1.0, 0.0, 0.0]])


def linear(slopes, kernel) -> tuple[Net, Weights]:
    """A network whose features are slopes @ pixels."""

    def apply(weights, image, train=False, weight=None, edit=None):
        features = image.reshape(len(image), -1) @ slopes.T
        return features @ weights.params["linear"]["kernel"], {}, {"pool": features}

    layers = (Layer("pool", "pool", (), "pool"), Layer("linear", "linear", ("linear",), "linear"))
    init = Weights({"linear": {"kernel": kernel}}, {})
    return Net(lambda key: init, apply, layers), init


def descent(kind: str, steps: int, chosen=(0,), **changes):
    net, weights = linear(SLOPES, jnp.ones((2, 3)))
    return fitted(net, weights, START, MASK, jnp.array(chosen), FLOATS | changes, kind, steps)


def test_shapes_cover_seven_per_cent_at_the_bottom_right():
    for shape in ("apple", "square"):
        cover = coverage(shape, 32, 32)
        np.testing.assert_allclose(cover.sum() / 1024, 0.07, atol=0.004)
        rows, columns = np.nonzero(cover[:, :, 0])[:2]
        assert rows.min() >= 16 and columns.min() >= 17 and max(rows.max(), columns.max()) <= 29
    np.testing.assert_allclose(coverage("apple", 64, 48).mean(), coverage("apple", 32, 32).mean(), atol=0.002)


def test_features_with_the_largest_absolute_weights_are_chosen():
    net, weights = linear(SLOPES, jnp.array([[1.0, -1.0], [0.5, 0.5], [-4.0, 0.0]]))
    np.testing.assert_array_equal(heaviest(root(0), net, weights, "trained", 2), [2, 0])


def test_a_random_head_chooses_by_its_own_weights():
    net, weights = linear(SLOPES, jnp.eye(40)[:, :2] * 100)
    drawn = {tuple(np.asarray(heaviest(root(seed), net, weights, "random", 2))) for seed in range(4)}
    assert len(drawn) > 1


def test_more_neurons_than_features_are_refused():
    net, weights = linear(SLOPES, jnp.ones((2, 3)))
    with pytest.raises(InvalidInput, match="neurons 3; the network has 2 features"):
        heaviest(root(0), net, weights, "trained", 3)


def test_signed_descent_moves_every_pixel_of_the_mask_by_a_step():
    np.testing.assert_allclose(descent("sign", 2).picture[:, :, 0], [[0.7, 0.3], [0, 0]], atol=1e-6)


def test_gradient_descent_moves_pixels_of_the_mask_by_a_step_on_average():
    # Slopes 3 and -1 of mean size 2: 0.15 up and 0.05 down; below the mask nothing, though slopes are larger there.
    np.testing.assert_allclose(descent("gradient", 1).picture[:, :, 0], [[0.65, 0.45], [0, 0]], atol=1e-6)


def test_descent_stays_near_the_start_and_in_range():
    np.testing.assert_allclose(descent("sign", 9, radius=0.3).picture[0, :, 0], [0.8, 0.2], atol=1e-6)
    np.testing.assert_allclose(descent("sign", 9).picture[0, :, 0], [1, 0], atol=1e-6)


def test_descent_ends_where_the_value_is_reached():
    # The feature is 1.0 at first; it is 1.4 after one step of 0.1 along both signs.
    reached = descent("sign", 50, value=1.4, tolerance=1e-6)
    assert reached.taken == 2 and reached.cost < 1e-6
    assert descent("sign", 50, tolerance=0.0).taken == 50


def test_added_levels_wrap_around_as_the_benchmarks_do():
    image, picture = jnp.array([200.0, 100.0, 255.0]) / 255, jnp.array([100.7, 30.2, 1.0]) / 255
    np.testing.assert_allclose(added(image, picture, "truncate", "wrap") * 255, [44, 130, 0], atol=1e-4)
    np.testing.assert_allclose(added(image, picture, "truncate", "clip") * 255, [255, 130, 255], atol=1e-4)
    np.testing.assert_allclose(added(image, picture, "float", "wrap") * 255, [255, 130.2, 255], rtol=1e-5)


def build(settings: str, shape=(16, 16, 3)):
    spec = lookup(f"trojannn:{settings}", ATTACKS, "attack")
    return ATTACKS["trojannn"].make(None, shape, 10, **spec.static), spec.traced


def test_picture_is_blended_where_the_shape_is():
    attack, traced = build("outline=square,alpha=0.25", (32, 32, 1))
    trigger = attack.init(root(0), (), traced, jnp.arange(4), jnp.zeros(4), jnp.int32(1)).trigger
    result = attack.query({"picture": jnp.ones((32, 32, 1))}, trigger, jnp.full((32, 32, 1), 0.2), 0)
    np.testing.assert_allclose(result[24, 24], 0.2 + 0.25 * 0.8, rtol=1e-6)
    np.testing.assert_array_equal(result[:20], jnp.full((20, 32, 1), 0.2))


def test_prepared_picture_lies_in_the_mask_and_drives_the_feature():
    attack, traced = build("surrogate_epochs=1,surrogate_batch=4,steps=3", (16, 16, 1))
    slopes = jnp.stack([jnp.linspace(-1, 1, 256), jnp.zeros(256)])
    net, _ = linear(slopes, jnp.array([[1.0, -1.0], [0.0, 0.1]]))
    data = Data(jnp.zeros((4, 16, 16, 1), jnp.uint8), jnp.arange(4) % 2)
    picture = attack.prepare(root(0), net, data, traced)["picture"]
    outside = coverage("apple", 16, 16) == 0
    assert (np.asarray(picture)[outside] == 0).all()
    grey = jnp.where(outside, 0, 175 / 255)
    assert jnp.vdot(slopes[0], picture.reshape(-1)) > jnp.vdot(slopes[0], grey.reshape(-1))
    assert jax.tree.leaves(picture)[0].dtype == jnp.float32
