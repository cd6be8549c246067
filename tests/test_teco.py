"""TeCo: first severities by hand, networks that flip under known corruptions, and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detecting import by_hand, detect, source

from bdjax.data.corruptions import CORRUPTIONS
from bdjax.detection.teco import corrupt, first_flip
from bdjax.keys import root, stream


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)) / 255


def test_first_severities_and_their_deviation_by_hand():
    """Never; at once under 8 of 15 corruptions; at severity 3 under all: deviations 0, 2.494 and 0."""
    changed = np.zeros((15, 5, 3), bool)
    changed[:8, :, 1] = True
    changed[:, 2, 2] = True
    found = first_flip(jnp.asarray(changed))
    np.testing.assert_array_equal(found[:, 0], 6)
    np.testing.assert_array_equal(found[:, 1], [1] * 8 + [6] * 7)
    np.testing.assert_array_equal(found[:, 2], 3)
    np.testing.assert_allclose(np.std(found, axis=0), [0, 2.494, 0], atol=5e-4)


def test_a_network_that_sees_no_image_scores_0():
    same = by_hand(lambda image: jnp.zeros((len(image), 3)).at[:, 1].set(1))
    found = detect("teco", same, source(images(3)), 3, valid=source(images(2)))
    np.testing.assert_array_equal(found["score"], 0)
    assert not found["flagged"].any()


def brightened():
    """Class 1 from a mean of 0.75 on."""
    return by_hand(lambda image: jnp.stack([jnp.full(len(image), 0.75), jnp.mean(image, (1, 2, 3))], 1))


@pytest.mark.parametrize("cumulative", [False, True])
def test_scores_are_deviations_of_the_first_flips(cumulative):
    """The corruptions one by one, by a loop, on the original image or on what the one before left."""
    image = jnp.asarray(images(2) * 0.5 + 0.2)
    text = f"teco:cumulative={str(cumulative).lower()}"
    found = detect(text, brightened(), source(image), 2, valid=source(images(2)))
    key = jax.random.fold_in(root(0), 0)
    own = stream(stream(stream(key, "init"), "score"), "corruption")
    under = jax.jit(lambda image, index: corrupt(own, image, jnp.arange(2), index))
    severities, now = np.full((15, 2), 6), image
    for index in range(75):
        after = under(now, jnp.int32(index))
        moved = np.asarray(jnp.mean(after, (1, 2, 3)) > 0.75) != np.asarray(jnp.mean(image, (1, 2, 3)) > 0.75)
        first = moved & (severities[index // 5] == 6)
        severities[index // 5][first] = index % 5 + 1
        now = after if cumulative else image
    np.testing.assert_allclose(found["score"], severities.std(0), rtol=1e-12)
    assert found["score"].max() > 0


def test_corruptions_depend_on_the_row_alone_and_have_whole_levels():
    image = jnp.asarray(images(3))
    under = jax.jit(lambda image, row, index: corrupt(root(0), image, row, index))
    for index in range(0, 75, 7):
        found = under(image, jnp.arange(3), jnp.int32(index))
        one = under(image[2:], jnp.array([2]), jnp.int32(index))
        np.testing.assert_allclose(found[2:], one, atol=1e-12)
        np.testing.assert_allclose(255 * found, np.round(255 * found), atol=1e-9)
    assert len(CORRUPTIONS) == 15
