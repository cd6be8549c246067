"""Linear operations along one side of an image as matrices of NumPy, (size, size): result = matrix @ signal."""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np

from bdjax.types import Array


def at(table, level: Array, dtype=None) -> Array:
    """The entry of a table for a level, which may be traced."""
    return jnp.asarray(np.asarray(table), dtype)[level]


def apply(rows: Array, columns: Array, image: Array) -> Array:
    """An image (height, width, channels) with one matrix along its height and another along its width."""
    return jnp.einsum("ij,jkc,lk->ilc", rows, image, columns)


@lru_cache
def smooth(size: int, sigma: float, truncate: float, mirrored: bool) -> np.ndarray:
    """A Gaussian cut off at `truncate` deviations; beyond the ends the end values, or the signal mirrored with them."""
    radius = int(truncate * sigma + 0.5)
    offset = np.arange(-radius, radius + 1)
    weight = np.exp(-(offset**2) / (2 * sigma**2))
    weight /= weight.sum()
    place = np.arange(size)[:, None] + offset
    if mirrored:
        place = np.mod(place, 2 * size)
        place = np.where(place < size, place, 2 * size - 1 - place)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], np.clip(place, 0, size - 1)), weight)
    return matrix


@lru_cache
def zoom(size: int, factor: float) -> np.ndarray:
    """The middle, enlarged linearly so that its first and last values stay its ends, from its start on."""
    inner = int(np.ceil(size / factor))
    first, length = (size - inner) // 2, max(round(inner * factor), 2)
    place = np.minimum(np.arange(size), length - 1) * (inner - 1) / (length - 1)
    low = np.minimum(np.floor(place).astype(int), max(inner - 2, 0))
    matrix = np.zeros((size, size))
    matrix[np.arange(size), first + low] += 1 - (place - low)
    matrix[np.arange(size), first + np.minimum(low + 1, inner - 1)] += place - low
    return matrix


@lru_cache
def coarsen(size: int, share: float) -> np.ndarray:
    """As few values as that share of `size`, each the mean of a stretch, and each repeated over it."""
    few = max(int(size * share), 1)
    scale = size / few
    down = np.zeros((few, size))
    for place in range(few):
        middle = (place + 0.5) * scale
        first, last = int(middle - scale / 2 + 0.5), min(int(middle + scale / 2 + 0.5), size)
        down[place, first:last] = 1 / (last - first)
    return down[((np.arange(size) + 0.5) * few / size).astype(int)]
