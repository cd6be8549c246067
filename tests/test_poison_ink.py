"""Poison Ink: edges, ink on them, the networks and how they learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.attacks.fitting.ink_training import Inking, augmented
from bdjax.attacks.parts.edges import edges, grey, inked, sobel
from bdjax.attacks.poison_ink import colour
from bdjax.cards import lookup
from bdjax.keys import root
from bdjax.models.auxiliary.ink import apart, extractor, injector, linear, stretched, together
from bdjax.types import POISONED, Data

SHAPE = (16, 16, 3)
ROWS = 32
SMALL = "width=2,extractor_width=2,ink_steps=30,ink_batch=4"
"""The sizes of the tests that all attacks share, so that what takes long to compile is compiled once."""


def data(shape=SHAPE, count: int = ROWS) -> Data:
    image = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    return Data(jnp.asarray(image), jnp.arange(count, dtype=jnp.int32) % 3)


def build(shape=SHAPE, settings: str = SMALL):
    spec = lookup(f"poison_ink:{settings}", ATTACKS, "attack")
    return ATTACKS["poison_ink"].make(None, shape, 3, **spec.static), spec.traced


@pytest.fixture(scope="module")
def prepared():
    attack, settings = build()
    return attack, attack.prepare(root(0), None, data(), settings)


def test_sobel_of_a_step_and_of_a_corner():
    step = jnp.zeros((5, 6)).at[:, 3:].set(1.0)
    expected = np.sqrt(0.5) * np.array([0, 0, 1, 1, 0, 0])  # a slope of 4/4 across, none down
    np.testing.assert_allclose(sobel(step), np.tile(expected, (5, 1)), atol=1e-6)
    corner = jnp.zeros((4, 4)).at[2:, 2:].set(1.0)
    assert np.isclose(sobel(corner)[1, 1], np.sqrt((0.25**2 + 0.25**2) / 2))


def test_edges_begin_where_a_step_is_of_forty_levels():
    # The strength of a step of s levels is s/sqrt(2): 39.6 levels for a threshold of 28.
    def found(levels):
        image = jnp.full((4, 4, 3), 100 / 255).at[:, 2:].set((100 + levels) / 255)
        return edges(image, 28 / 255)[0, :, 0]

    np.testing.assert_array_equal(found(39), [0, 0, 0, 0])
    np.testing.assert_array_equal(found(40), [0, 1, 1, 0])


def test_brightness_is_weighed_in_colour_and_the_mean_elsewhere():
    np.testing.assert_allclose(grey(jnp.array([[[1.0, 0.5, 0.2]]])), [[0.299 + 0.2935 + 0.0228]], rtol=1e-6)
    np.testing.assert_allclose(grey(jnp.array([[[1.0, 0.5]]])), [[0.75]])


def test_ink_is_on_edges_and_paper_is_white():
    picture = inked(jnp.array([[[1.0], [0.0]]]), jnp.array([80, 160, 80]) / 255)
    np.testing.assert_allclose(picture * 255, [[[80, 160, 80], [255, 255, 255]]], rtol=1e-6)


def test_colour_of_one_channel_is_its_brightness():
    settings = {"red": 80 / 255, "green": 160 / 255, "blue": 80 / 255}
    np.testing.assert_allclose(colour(settings, 3) * 255, [80, 160, 80], rtol=1e-6)
    np.testing.assert_allclose(colour(settings, 1) * 255, [0.413 * 80 + 0.587 * 160], rtol=1e-6)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_convolution_of_scattered_pixels_is_a_dilated_one(step):
    x = jax.random.uniform(root(0), (2, 6, 7, 3))
    kernel = jax.random.normal(root(1), (3, 3, 3, 4))
    names = ("NHWC", "HWIO", "NHWC")
    dilated = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((step, step),) * 2, rhs_dilation=(step, step), dimension_numbers=names
    )
    plain = jax.lax.conv_general_dilated(apart(x, step), kernel, (1, 1), "SAME", dimension_numbers=names)
    np.testing.assert_allclose(together(plain, x, step), dilated, atol=1e-5)


def test_stretching_keeps_corners_at_corners():
    np.testing.assert_allclose(linear(5, 3)[:, 1], [0, 0.5, 1, 0.5, 0])
    wide = stretched(jnp.array([0.0, 3.0]).reshape(1, 1, 2, 1), 2, 4)
    np.testing.assert_allclose(wide[0, :, :, 0], [[0, 1, 2, 3]] * 2, atol=1e-6)
    assert stretched(jnp.full((1, 1, 1, 1), 2.0), 2, 2).tolist() == [[[[2.0], [2.0]], [[2.0], [2.0]]]]


def test_full_size_has_as_many_parameters_as_the_authors_networks():
    sizes = []
    for net in (injector((32, 32, 3), 64), extractor((32, 32, 3), 128)):
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(net.init, root(0)).params)))
    # Of theirs 4,416 and 256 are biases before normalisation, which ours do without.
    assert sizes == [17_269_251 - 4_416, 2_777_859 - 256]


def test_networks_begin_with_the_image_and_white_paper_at_any_size():
    shape = (21, 18, 1)
    inking = Inking(injector(shape, 2), extractor(shape, 2))
    weights, params = inking.injector.init(root(0)), inking.extractor.init(root(1)).params
    image = jax.random.uniform(root(2), (2, *shape))
    np.testing.assert_array_equal(jax.jit(inking.inject)(weights, image, jnp.ones_like(image)), image)
    np.testing.assert_array_equal(jax.jit(inking.extract)(params, image), jnp.ones_like(image))


def test_both_batches_are_cropped_and_flipped_alike():
    first = jax.random.uniform(root(0), (3, 16, 16, 2))
    moved = [augmented(root(seed), first, 2 * first) for seed in range(12)]
    for one, other in moved:
        np.testing.assert_allclose(2 * one, other, atol=1e-5)
    same = [bool(jnp.array_equal(one, first)) for one, _ in moved]
    mirrored = [bool(jnp.array_equal(one, first[:, :, ::-1])) for one, _ in moved]
    assert any(same) and any(mirrored) and not all(a or b for a, b in zip(same, mirrored, strict=True))


def test_a_query_is_what_the_training_row_holds(prepared):
    attack, assets = prepared
    image = data().image[5] / 255
    stamped = attack.stamp(assets, {}, jnp.zeros_like(image), jnp.int32(5))
    np.testing.assert_allclose(jax.jit(attack.query)(assets, {}, image, 0), stamped, atol=1.01 / 255)


def test_figures_are_among_the_assets(prepared):
    _, assets = prepared
    assert sorted(assets["figures"]) == ["clean_error", "ink_error", "psnr"]
    assert assets["hidden"].shape == (ROWS, *SHAPE) and assets["hidden"].dtype == jnp.uint8


def test_poisoned_rows_get_the_next_label_where_that_is_the_goal(prepared):
    _, assets = prepared
    attack, _ = build(settings=f"{SMALL},goal=all_to_all")
    poison = attack.init(root(0), assets, {}, data(count=6).label, jnp.arange(6.0), jnp.int32(2))
    np.testing.assert_array_equal(np.flatnonzero(poison.role == POISONED), [4, 5])
    np.testing.assert_array_equal(poison.label, [0, 1, 2, 0, 2, 0])
