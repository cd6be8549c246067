"""Fewer colour levels, with and without dithering: images (height, width, channels) in [0, 1]."""

import jax
import jax.numpy as jnp

from bdjax.types import Array

RIGHT, BELOW_LEFT, BELOW, BELOW_RIGHT = 7 / 16, 3 / 16, 5 / 16, 1 / 16
"""The shares of a pixel's error that its neighbours take: Floyd, Steinberg, 1976."""


def quantized(image: Array, levels: int) -> Array:
    """The nearest of `levels` evenly spaced values from 0 to 1."""
    return jnp.round(image * (levels - 1)) / (levels - 1)


def dithered(image: Array, levels: int) -> Array:
    """The same, where each pixel's error is spread over those that come after it, row by row from the left.

    Floyd, Steinberg, An Adaptive Algorithm for Spatial Greyscale, Proceedings of the Society for Information Display,
    1976.
    """
    height, width, _ = image.shape
    row = jnp.arange(height)
    # Each row follows the one above it two pixels behind, when all that it needs is known: width + 2 height steps, not
    # width x height.
    column = jnp.arange(width + 2 * (height - 1))[:, None] - 2 * row
    inside = (column >= 0) & (column < width)
    pixels = image[row, jnp.clip(column, 0, width - 1)]

    def above(error: Array) -> Array:
        return jnp.pad(error[:-1], ((1, 0), (0, 0)))

    def advance(errors: tuple[Array, Array, Array], now: tuple[Array, Array]):
        last, second, third = errors
        pixel, present = now
        value = pixel + BELOW_RIGHT * above(third) + BELOW * above(second) + BELOW_LEFT * above(last) + RIGHT * last
        level = quantized(value, levels)
        return (jnp.where(present[:, None], value - level, 0), last, second), level

    none = jnp.zeros_like(image[:, 0])
    found = jax.lax.scan(advance, (none, none, none), (pixels, inside))[1]
    return found[jnp.arange(width) + 2 * row[:, None], row[:, None]]
