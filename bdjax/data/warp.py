"""Warping one image: where each pixel is read from, as PyTorch's `grid_sample` and `upsample` with align_corners do."""

import jax.numpy as jnp
import numpy as np

from bdjax.types import Array

CUBIC = -0.75
"""The free coefficient of the cubic kernel, as PyTorch and OpenCV have it (others use -0.5)."""


def bicubic(size: int, points: int) -> np.ndarray:
    """The matrix float64 (size, points) that interpolates `points` values, first and last at the ends, cubically.

    Keys, Cubic convolution interpolation for digital image processing, IEEE TASSP, 1981, equation 8 with its
    coefficient at -0.75; beyond the ends the end values are repeated.
    """
    place = np.arange(size) * (points - 1) / max(size - 1, 1)
    matrix = np.zeros((size, points))
    for offset in range(-1, 3):
        near = np.floor(place) + offset
        distance = np.abs(near - place)
        inner = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
        outer = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        weight = np.where(distance <= 1, inner, np.where(distance < 2, outer, 0))
        np.add.at(matrix, (np.arange(size), np.clip(near, 0, points - 1).astype(int)), weight)
    return matrix


def identity(height: int, width: int, dtype) -> Array:
    """Where each pixel is: (height, width, 2), last axis row and column in pixels."""
    rows, columns = jnp.meshgrid(jnp.arange(height, dtype=dtype), jnp.arange(width, dtype=dtype), indexing="ij")
    return jnp.stack([rows, columns], axis=-1)


def sample(image: Array, place: Array) -> Array:
    """The image read at `place` by bilinear interpolation; zero outside it.

    Args:
        image: (height, width, channels).
        place: (..., 2), row and column in pixels.

    Returns:
        (..., channels).
    """
    corner = jnp.floor(place)
    share = place - corner
    result = 0.0
    for down in (0, 1):
        for right in (0, 1):
            row, column = corner[..., 0] + down, corner[..., 1] + right
            inside = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
            vertical = share[..., 0] if down else 1 - share[..., 0]
            horizontal = share[..., 1] if right else 1 - share[..., 1]
            at = jnp.clip(row, 0, image.shape[0] - 1).astype(jnp.int32)
            across = jnp.clip(column, 0, image.shape[1] - 1).astype(jnp.int32)
            result += jnp.where(inside, vertical * horizontal, 0)[..., None] * image[at, across]
    return result


def rotation(height: int, width: int, angle: Array) -> Array:
    """Where to read each pixel, (height, width, 2), to turn an image about its centre by `angle` in radians."""
    place = identity(height, width, jnp.asarray(angle).dtype)
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2], place.dtype)
    row, column = jnp.moveaxis(place - centre, -1, 0)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([cosine * row - sine * column, sine * row + cosine * column], axis=-1) + centre
