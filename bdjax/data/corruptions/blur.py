"""Blurs: out of focus, through glass, by motion and by zooming."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.data.corruptions.matrices import apply, at, smooth, zoom
from bdjax.keys import stream
from bdjax.types import Array, Key

REACH = 10  # pixels: radius of the largest disk


def _disk(radius: int, alias: float) -> np.ndarray:
    """A disk of sum 1 in a square of 2 REACH + 1, softened at its edge by a Gaussian of deviation `alias`."""
    reach = 8 if radius <= 8 else radius
    place = np.arange(-reach, reach + 1)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).astype(float)
    disk /= disk.sum()
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    weight = np.exp(-(taps**2) / (2 * alias**2))
    weight /= weight.sum()
    for axis in (0, 1):
        padded = np.pad(disk, [(2, 2) if side == axis else (0, 0) for side in (0, 1)], "reflect")
        parts = [
            share * np.take(padded, 2 + tap + np.arange(len(disk)), axis)
            for tap, share in zip(taps, weight, strict=True)
        ]
        disk = sum(parts)
    return np.pad(disk, REACH - reach)


DISKS = np.stack([_disk(*one) for one in ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))])


def defocus_blur(_key: Key, image: Array, level: Array) -> Array:
    """A disk for every point; beyond its border the image is mirrored."""
    padded = jnp.pad(image, ((REACH, REACH), (REACH, REACH), (0, 0)), "reflect")
    channels = jnp.moveaxis(padded, -1, 0)[..., None]
    disk = at(DISKS, level, image.dtype)[..., None, None]
    found = jax.lax.conv_general_dilated(channels, disk, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.clip(jnp.moveaxis(found[..., 0], 0, -1), 0, 1)


GLASS = (0.7, 0.9, 1.0, 1.1, 1.5), (1, 2, 2, 3, 4), (2, 1, 3, 2, 2)
"""Deviation of the Gaussian, largest displacement and how often pixels are displaced, by level."""


def glass_blur(key: Key, image: Array, level: Array) -> Array:
    """A Gaussian, pixels displaced within a few of each other, and the Gaussian again.

    All pixels of a pass are displaced at once; the package goes from one to the next and copies what it meets.
    """
    height, width = image.shape[:2]
    sides = [
        at([smooth(side, sigma, 4.0, False) for sigma in GLASS[0]], level, image.dtype) for side in (height, width)
    ]
    most, passes = at(GLASS[1], level), at(GLASS[2], level)
    row, column = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    inside = (row > most) & (row <= height - most) & (column > most) & (column <= width - most)

    def displace(number: Array, image: Array) -> Array:
        moved = jax.random.randint(jax.random.fold_in(key, number), (2, height, width), -most, most)
        moved = jnp.where(inside & (number < passes), moved, 0)
        return image[jnp.clip(row + moved[0], 0, height - 1), jnp.clip(column + moved[1], 0, width - 1)]

    image = jax.lax.fori_loop(0, max(GLASS[2]), displace, apply(*sides, image))
    return jnp.clip(apply(*sides, image), 0, 1)


def move(image: Array, radius: Array, sigma: Array, angle: Array, most: int) -> Array:
    """The image (height, width, channels) smeared along a line; angle in radians; radius at most `most` pixels."""
    step = jnp.arange(2 * most + 1)
    weight = jnp.where(step < 2 * radius + 1, jnp.exp(-(step**2) / (2 * sigma**2)), 0)
    down = -jnp.ceil(step * jnp.sin(angle) - 0.5).astype(int)
    right = -jnp.ceil(step * jnp.cos(angle) - 0.5).astype(int)
    height, width = image.shape[:2]
    near = (jnp.abs(down) < height) & (jnp.abs(right) < width)
    share = (jnp.where(near, weight, 0) / jnp.sum(weight)).astype(image.dtype)

    def add(number: Array, total: Array) -> Array:
        rows = jnp.clip(jnp.arange(height) - down[number], 0, height - 1)
        columns = jnp.clip(jnp.arange(width) - right[number], 0, width - 1)
        return total + share[number] * image[rows][:, columns]

    return jax.lax.fori_loop(0, step.size, add, jnp.zeros_like(image))


def motion_blur(key: Key, image: Array, level: Array) -> Array:
    """Motion in a random direction within 45 degrees of the rows."""
    angle = jax.random.uniform(stream(key, "angle"), (), image.dtype, -jnp.pi / 4, jnp.pi / 4)
    radius, sigma = at((10, 15, 15, 15, 20), level), at((3.0, 5, 8, 12, 15), level, image.dtype)
    return jnp.clip(move(image, radius, sigma, angle, 20), 0, 1)


FACTORS = [
    np.arange(1, last, step) for last, step in ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
]


def zoom_blur(_key: Key, image: Array, level: Array) -> Array:
    """The mean over the image and enlargements of its middle."""
    most = max(map(len, FACTORS))
    sides = [
        at(
            [np.stack([zoom(side, float(one)) for one in np.resize(each, most)]) for each in FACTORS],
            level,
            image.dtype,
        )
        for side in image.shape[:2]
    ]
    count = at([len(each) for each in FACTORS], level)
    counts = (jnp.arange(most) < count).astype(image.dtype)
    total = jnp.einsum("n,nij,jkc,nlk->ilc", counts, sides[0], image, sides[1])
    return jnp.clip((image + total) / (count + 1), 0, 1)
