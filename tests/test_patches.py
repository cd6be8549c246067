"""Patches: where they lie in images of any size, and what covers what."""

import numpy as np
import pytest

from bdjax.attacks.parts.patches import corners, disc, emblem, noise_square, place, span, together


@pytest.mark.parametrize(
    ("begin", "length", "side", "first", "cells"),
    [
        (21, 8, 32, 21, [0, 1, 2, 3, 4, 5, 6, 7]),
        (21, 8, 64, 42, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),
        (21, 8, 16, 10, [1, 3, 5, 7]),  # 3 cells from the border are 1.5 pixels, which is 2
        (29, 3, 16, 14, [0, 2]),
        (0, 3, 16, 0, [0, 2]),
        (0, 1, 8, 0, [0]),
    ],
)
def test_spans(begin, length, side, first, cells):
    start, index = span(begin, length, side)
    assert start == first
    np.testing.assert_array_equal(index, cells)


def test_place_keeps_what_is_not_covered_out():
    patch = place(np.full((2, 2, 3), 0.6), np.array([[1, 0], [1, 1]]), 3, 4, (32, 32, 3))
    np.testing.assert_array_equal(np.argwhere(patch.mask[..., 0]), [[3, 4], [4, 4], [4, 5]])
    np.testing.assert_array_equal(patch.picture, np.broadcast_to(0.6 * patch.mask, (32, 32, 3)))


def test_place_in_grey_is_the_mean_colour():
    patch = place(np.array([[[0.0, 0.3, 0.9]]]), np.ones((1, 1)), 0, 0, (32, 32, 1))
    assert patch.picture[0, 0] == pytest.approx(0.4)


def test_later_patches_lie_above():
    below, above = (place(np.full((1, n, 3), n / 5), np.ones((1, n)), 0, 0, (32, 32, 3)) for n in (2, 1))
    both = together(below, above)
    np.testing.assert_array_equal(both.picture[0, :3, 0], [0.2, 0.4, 0])
    np.testing.assert_array_equal(both.mask[0, :3, 0], [1, 1, 0])


def test_noise_square_is_eight_pixels_three_from_the_corner():
    patch = noise_square((32, 32, 3))
    rows, columns = np.nonzero(patch.mask[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max(), rows.size) == (21, 28, 21, 28, 64)
    assert len(np.unique(patch.picture[21:29, 21:29].reshape(-1, 3), axis=0)) == 64
    np.testing.assert_allclose(patch.picture[21:29, 21:29].mean(), 0.5, atol=0.1)


def test_corner_signs_as_published():
    patch = corners((32, 32, 3))
    assert patch.mask.sum() == 36
    signs = [patch.picture[r, c, 0] for r in (slice(3), slice(-3, None)) for c in (slice(3), slice(-3, None))]
    rows = [["".join(str(int(v)) for v in row) for row in sign] for sign in signs]
    assert rows == [["101", "010", "100"], ["101", "010", "001"], ["100", "010", "101"], ["001", "010", "101"]]


def box(patch) -> list[int]:
    rows, columns = np.nonzero(patch.mask[..., 0])
    return [rows.min(), rows.max(), columns.min(), columns.max(), rows.size]


def test_places_and_sizes_are_the_published_ones():
    assert box(emblem((32, 32, 3))) == [27, 31, 27, 31, 25]
    assert box(emblem((32, 32, 3), left=0)) == [27, 31, 0, 4, 25]
    assert box(disc((32, 32, 3))) == [1, 13, 18, 30, 137]  # the authors' logo has 140 pixels


@pytest.mark.parametrize("make", [corners, emblem, disc, noise_square])
@pytest.mark.parametrize("shape", [(16, 16, 1), (17, 40, 3), (64, 64, 3)])
def test_patches_keep_their_share_of_the_image(make, shape):
    patch, usual = make(shape), make((32, 32, 3))
    assert patch.picture.shape == shape and patch.mask.shape == (*shape[:2], 1)
    assert patch.picture.min() >= 0 and patch.picture.max() <= 1
    assert (patch.picture[patch.mask[..., 0] == 0] == 0).all()
    np.testing.assert_allclose(patch.mask.mean(), usual.mask.mean(), atol=0.03)
