"""Weather: snow, frost and fog."""

import jax
import jax.numpy as jnp

from bdjax.data.corruptions.blur import move
from bdjax.data.corruptions.matrices import apply, at, zoom
from bdjax.keys import stream
from bdjax.types import Array, Key


def gray(image: Array) -> Array:
    """The luma of an image (height, width, channels), (height, width, 1)."""
    if image.shape[-1] == 1:
        return image
    return (image @ jnp.array([0.299, 0.587, 0.114], image.dtype))[..., None]


def snow(key: Key, image: Array, level: Array) -> Array:
    """Blurred flakes that fall on a brightened image."""
    mean, scale, factor, least = zip(
        (0.1, 0.3, 3, 0.5),
        (0.2, 0.3, 2, 0.5),
        (0.55, 0.3, 4, 0.9),
        (0.55, 0.3, 4.5, 0.85),
        (0.55, 0.3, 2.5, 0.85),
        strict=True,
    )
    flakes = at(mean, level) + at(scale, level) * jax.random.normal(
        stream(key, "flakes"), (*image.shape[:2], 1), image.dtype
    )
    sides = [at([zoom(side, one) for one in factor], level, image.dtype) for side in image.shape[:2]]
    flakes = apply(*sides, flakes)
    flakes = jnp.clip(jnp.where(flakes < at(least, level), 0, flakes), 0, 1)
    angle = jax.random.uniform(stream(key, "angle"), (), image.dtype, -0.75 * jnp.pi, -0.25 * jnp.pi)
    flakes = move(flakes, at((10, 12, 12, 12, 12), level), at((4.0, 4, 8, 8, 12), level, image.dtype), angle, 12)
    share = at((0.8, 0.7, 0.7, 0.65, 0.55), level, image.dtype)
    image = share * image + (1 - share) * jnp.maximum(image, 1.5 * gray(image) + 0.5)
    return jnp.clip(image + flakes + flakes[::-1, ::-1], 0, 1).astype(image.dtype)


def plasma(key: Key, size: int, decay: Array) -> Array:
    """A height map in [0, 1], float (size, size), by the diamond-square algorithm; size is a power of two.

    Fournier, Fussell, Carpenter, Computer rendering of stochastic models, CACM 1982, on a torus; every halving of the
    step divides the roughness by `decay`.
    """
    height, step, rough = jnp.zeros((size, size)), size, jnp.asarray(100.0)
    while step >= 2:
        half = step // 2

        def random(name: str, total: Array, step: int = step, rough: Array = rough) -> Array:
            noise = jax.random.uniform(stream(key, f"{name} {step}"), total.shape, minval=-1, maxval=1)
            return total / 4 + rough**2 * noise

        corner = height[::step, ::step]
        square = corner + jnp.roll(corner, -1, 0)
        center = random("center", square + jnp.roll(square, -1, 1))
        height = height.at[half::step, half::step].set(center)
        top = corner + jnp.roll(corner, -1, 1) + center + jnp.roll(center, 1, 0)
        left = corner + jnp.roll(corner, -1, 0) + center + jnp.roll(center, 1, 1)
        height = height.at[::step, half::step].set(random("top", top))
        height = height.at[half::step, ::step].set(random("left", left))
        step, rough = half, rough / decay
    height = height - jnp.min(height)
    return height / jnp.maximum(jnp.max(height), 1e-12)


def _map(key: Key, image: Array, decay) -> Array:
    size = 1 << (max(image.shape[:2]) - 1).bit_length()
    return plasma(key, size, decay)[: image.shape[0], : image.shape[1], None].astype(image.dtype)


def fog(key: Key, image: Array, level: Array) -> Array:
    """A height map on top, darkened so that the brightest value stays."""
    thick, decay = at((1.5, 2.0, 2.5, 2.5, 3.0), level, image.dtype), at((2.0, 2.0, 1.7, 1.5, 1.4), level)
    most = jnp.max(image)
    return jnp.clip((image + thick * _map(key, image, decay)) * most / (most + thick), 0, 1)


def frost(key: Key, image: Array, level: Array) -> Array:
    """Needles of ice, the bluish ridges of a height map in place of photographs, on a darkened image."""
    height = _map(key, image, 1.7)
    needle = (1 - jnp.abs(2 * height - 1)) ** 2
    tint = jnp.array([0.85, 0.95, 1.0] if image.shape[-1] == 3 else [0.95], image.dtype)
    share, ice = at((1, 0.8, 0.7, 0.65, 0.6), level, image.dtype), at((0.4, 0.6, 0.7, 0.7, 0.75), level, image.dtype)
    return jnp.clip(share * image + ice * needle * tint, 0, 1)
