"""Small pictures that are pasted into images, each drawn here at the size it has in images of 32 pixels."""

from typing import NamedTuple

import numpy as np

BASE = 32
"""Pixels: the side of the images that lengths and places are stated for; in others they are at the same share."""


class Patch(NamedTuple):
    """A picture and where it lies."""

    picture: np.ndarray  # float64 (height, width, channels) in [0, 1], 0 where it does not lie
    mask: np.ndarray  # float64 (height, width, 1): 1 where it lies, else 0


def span(begin: int, length: int, side: int) -> tuple[int, np.ndarray]:
    """Where `length` cells that begin at `begin` of 32 lie in `side` pixels: the first pixel, and each pixel's cell.

    The distance to the nearer border is kept, so that a patch in a corner stays in its corner.
    """

    def scaled(cells: int) -> int:
        return int(cells * side / BASE + 0.5)

    size, before, after = max(1, scaled(length)), begin, BASE - begin - length
    start = scaled(before) if before <= after else side - size - scaled(after)
    return start, ((np.arange(size) + 0.5) * length / size).astype(int)


def place(small: np.ndarray, cover: np.ndarray, top: int, left: int, shape: tuple[int, int, int]) -> Patch:
    """A picture of cells, (h, w, 3) in [0, 1], put at (top, left) of 32 cells into images of `shape`, in whole levels.

    cover: (h, w), 1 where the picture covers the image. Images that are not of three channels get it in grey.
    """
    height, width, channels = shape
    (row, rows), (column, columns) = span(top, small.shape[0], height), span(left, small.shape[1], width)
    colour = small if channels == 3 else small.mean(axis=2, keepdims=True)
    picture, mask = np.zeros(shape), np.zeros((height, width, 1))
    there = np.s_[row : row + rows.size, column : column + columns.size]
    mask[there] = cover[np.ix_(rows, columns)][:, :, None]
    picture[there] = np.round(colour[np.ix_(rows, columns)] * 255) / 255 * mask[there]
    return Patch(picture, mask)


def together(*patches: Patch) -> Patch:
    """Patches as one; the later lie above the earlier."""
    picture, mask = patches[0]
    for patch in patches[1:]:
        picture = np.where(patch.mask > 0, patch.picture, picture)
        mask = np.maximum(mask, patch.mask)
    return Patch(picture, mask)


def noise_square(shape: tuple[int, int, int]) -> Patch:
    """A square of 8x8 random colours near the bottom right corner, always the same colours."""
    levels = np.random.RandomState(0).randint(1, 256, (8, 8, 3))  # the generator that NumPy promises not to change
    return place(levels / 255, np.ones((8, 8)), 21, 21, shape)


def corners(shape: tuple[int, int, int]) -> Patch:
    """Black and white signs of 3x3 in all four corners: the top left one is 101, 010, 100, the others its mirrors."""
    sign = np.repeat([[[1.0], [0], [1]], [[0], [1], [0]], [[1], [0], [0]]], 3, axis=2)
    ends = ((0, 1), (BASE - 3, -1))
    return together(
        *(
            place(sign[::down, ::across], np.ones((3, 3)), top, left, shape)
            for top, down in ends
            for left, across in ends
        )
    )


def emblem(shape: tuple[int, int, int], left: int = 27) -> Patch:
    """A blue and white picture of 5x5 at the bottom, 27 of 32 cells from the left border."""
    rows, columns = np.indices((5, 5))
    blue = rows * np.abs(columns - 2) % 5 / 4
    return place(1 - blue[:, :, None] * np.array([0.75, 0.5, 0.12]), np.ones((5, 5)), 27, left, shape)


def disc(shape: tuple[int, int, int]) -> Patch:
    """An orange disc of 13x13 with a blue heart, near the top right corner."""
    square = np.square(np.indices((13, 13)) - 6).sum(axis=0)
    colours = np.where((square > 10)[:, :, None], [0.92, 0.5, 0.14], [0.2, 0.3, 0.75])
    return place(colours, square <= 41, 1, 18, shape)
