"""Edges of an image, and ink on them: what Poison Ink draws with."""

import jax.numpy as jnp
import numpy as np

from bdjax.types import Array

LUMA = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in brightness."""


def grey(image: Array) -> Array:
    """The brightness of an image (height, width, channels), (height, width); their mean where not three channels."""
    shares = np.array(LUMA if image.shape[2] == 3 else (1 / image.shape[2],) * image.shape[2])
    return sum(share * image[:, :, channel] for channel, share in enumerate(shares))


def sobel(brightness: Array) -> Array:
    """The strength of the edge at every pixel of (height, width): the root of the mean square of both slopes.

    Kernels have a sum of absolute values of 2; beyond the border the image is mirrored, its last pixels twice.
    """
    padded = jnp.pad(brightness, 1, mode="symmetric")
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:] - padded[:-2]
    slopes = (across[:-2] + 2 * across[1:-1] + across[2:]) / 4, (down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]) / 4
    return jnp.sqrt((slopes[0] ** 2 + slopes[1] ** 2) / 2)


def edges(image: Array, threshold: Array) -> Array:
    """Where an edge of an image (height, width, channels) is stronger: 1 there, else 0, (height, width, 1)."""
    return (sobel(grey(image)) > threshold).astype(image.dtype)[:, :, None]


def inked(edge: Array, colour: Array) -> Array:
    """White paper with `colour` (channels,) on the edges (height, width, 1)."""
    return 1 + edge * (colour - 1)
