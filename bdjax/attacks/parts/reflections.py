"""Reflections in a pane of glass: how a picture on the viewer's side shows in an image taken through it.

Light adds up, levels do not: levels are light to the power 1 / 2.2. Wan et al., Benchmarking Single-Image Reflection
Removal Algorithms, ICCV 2017, https://doi.org/10.1109/ICCV.2017.423, tells the three kinds apart: in focus; out of
focus, which is blurred; and doubled by both faces of a thick pane, a ghost. How strong each is follows the code that
Liu et al. released for Refool (refool.py).
"""

import math

import jax.numpy as jnp
import numpy as np

from bdjax.types import Array

GAMMA = 2.2
REACH = 10
"""Pixels: how far the widest blur reaches, twice a deviation of 5."""


def light(levels: Array) -> Array:
    """What levels in [0, 1] stand for, linear in light."""
    return levels**GAMMA


def levels(amount: Array) -> Array:
    """The levels of an amount of light, in [0, 1]."""
    return jnp.clip(amount, 0, 1) ** (1 / GAMMA)


def enlarging(side: int, lost: Array, first: Array) -> Array:
    """The matrix (side, side) that enlarges `side - lost` pixels, from pixel `first` on, to `side` ones, linearly."""
    place = (jnp.arange(side) + 0.5) * (side - lost) / side - 0.5
    place = jnp.clip(place, 0, side - lost - 1) + first
    return jnp.maximum(0, 1 - jnp.abs(place[:, None] - jnp.arange(side)))


def blurring(side: int, sigma: Array) -> Array:
    """The matrix (side, side) of a Gaussian blur cut at twice sigma, rounded up; the image is mirrored at its ends."""

    def weight(offset: Array) -> Array:
        return jnp.where(jnp.abs(offset) <= jnp.ceil(2 * sigma), jnp.exp(-((offset / sigma) ** 2) / 2), 0)

    row, column, last = jnp.arange(side)[:, None], jnp.arange(side), side - 1
    before = jnp.where(column > 0, weight(-row - column), 0)
    after = jnp.where(column < last, weight(2 * last - row - column), 0)
    return (weight(column - row) + before + after) / jnp.sum(weight(jnp.arange(-REACH, REACH + 1)))


def separable(down: Array, across: Array, image: Array) -> Array:
    """An image (height, width, channels) under one matrix along its columns and one along its rows."""
    return jnp.einsum("yr,rqc,xq->yxc", down, image, across, precision="highest")


def doubled(picture: Array, shift: Array, share: Array) -> Array:
    """A picture twice, `shift` (2,) pixels apart, enlarged so that it fills the image; `share` of one, the rest of two.

    Without a shift it is the picture: a reflection in focus.
    """

    def part(first: Array) -> Array:
        down, across = (enlarging(side, shift[axis], first[axis]) for axis, side in enumerate(picture.shape[:2]))
        return separable(down, across, picture)

    return share * part(shift) + (1 - share) * part(jnp.zeros_like(shift))


def unfocused(picture: Array, image: Array, sigma: Array, excess: Array) -> Array:
    """The light of a picture blurred by `sigma` pixels and dimmed by what would make it and the image too bright.

    `excess` times the mean light above 1 in each channel is taken from it.
    """
    blurred = separable(*(blurring(side, sigma) for side in picture.shape[:2]), picture)
    together = blurred + image
    above = together > 1
    mean = jnp.sum(together * above, axis=(0, 1)) / (jnp.sum(above, axis=(0, 1)) + 1e-6)
    return jnp.clip(blurred - (jnp.maximum(mean, 1) - 1) * excess, 0, 1)


def hill(side: int) -> np.ndarray:
    """The root of a bell curve from -3 to 3 deviations at `side` places, 1 at its top: float64 (side,)."""
    ends = np.linspace(-3 - 3.5 / side, 3 + 3.5 / side, side + 1)
    root = np.sqrt(np.diff([math.erf(end / math.sqrt(2)) for end in ends]))
    return root / root.max()


def vignette(height: int, width: int) -> np.ndarray:
    """How strong a reflection out of focus is, float64 (height, width, 1): 1 in the centre, less at the borders."""
    return np.outer(hill(height), hill(width))[:, :, None]
