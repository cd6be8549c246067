"""Noise on every value of an image."""

import jax
import jax.numpy as jnp

from bdjax.data.corruptions.matrices import at
from bdjax.keys import stream
from bdjax.types import Array, Key


def gaussian_noise(key: Key, image: Array, level: Array) -> Array:
    """Normal noise."""
    scale = at((0.08, 0.12, 0.18, 0.26, 0.38), level, image.dtype)
    return jnp.clip(image + scale * jax.random.normal(key, image.shape, image.dtype), 0, 1)


def shot_noise(key: Key, image: Array, level: Array) -> Array:
    """Counts of photons, as many as given at full brightness."""
    most = at((60, 25, 12, 5, 3), level, image.dtype)
    return jnp.clip(jax.random.poisson(key, image * most).astype(image.dtype) / most, 0, 1)


def impulse_noise(key: Key, image: Array, level: Array) -> Array:
    """Salt and pepper, alike often."""
    share = at((0.03, 0.06, 0.09, 0.17, 0.27), level, image.dtype)
    hit = jax.random.uniform(stream(key, "hit"), image.shape, image.dtype) < share
    salt = jax.random.bernoulli(stream(key, "salt"), 0.5, image.shape)
    return jnp.where(hit, salt.astype(image.dtype), image)
