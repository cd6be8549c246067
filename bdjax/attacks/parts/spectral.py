"""Triggers made of cosines: what adding to a few coefficients of the discrete cosine transform does to an image.

The orthonormal transform is linear, so adding the same number to the same coefficients of every block adds one fixed
pattern to every image, and no transform is needed when images are stamped.
"""

import jax.numpy as jnp
import numpy as np

from bdjax.cards import Setting
from bdjax.types import Array

OVERFLOW = Setting(
    "clip",
    "8-bit levels below 0 and above 255: cut off, or wrapped around by 256; nothing wraps under storage=float",
    choices=("clip", "wrap"),
)
BANDS = {
    "middle": Setting(15, "lower raised coefficient's row and column in a block of 32 or more", low=1),
    "high": Setting(31, "higher raised coefficient's row and column in a block of 32 or more", low=1),
}
"""The settings of `pattern`, for cards."""

SLACK = 1e-5
"""Levels by which float arithmetic may fall short of a whole one; more would lift values that are none."""


def bands(window: int, middle: int, high: int) -> list[int]:
    """The two coefficients' places in a block of `window` pixels: in small blocks at the same share of the highest."""
    return [max(1, (place + 1) * min(window, 32) // 32 - 1) for place in (middle, high)]


def transform(size: int) -> np.ndarray:
    """The matrix float64 (size, size) of the orthonormal DCT-II: coefficients = matrix @ signal."""
    waves = np.cos(np.pi * np.outer(np.arange(size), 2 * np.arange(size) + 1) / (2 * size))
    return waves * np.where(np.arange(size) == 0, np.sqrt(1 / size), np.sqrt(2 / size))[:, None]


def pattern(height: int, width: int, window: int, middle: int, high: int) -> np.ndarray:
    """What raising coefficients (middle, middle) and (high, high) of every block by 1 adds, float64 (height, width, 1).

    Blocks of window x window pixels begin at the top left corner; the border cuts the last ones.
    """
    waves = transform(window)[bands(window, middle, high)]
    block = np.einsum("kr,kc->rc", waves, waves)
    across = np.tile(block, (-(-height // window), -(-width // window)))
    return across[:height, :width, None]


def cast(levels: Array, overflow: str) -> Array:
    """Levels as whole ones from 0 to 255: cut towards 0, then clipped or wrapped around by 256."""
    whole = jnp.sign(levels) * jnp.floor(jnp.abs(levels) + SLACK)
    return jnp.mod(whole, 256) if overflow == "wrap" else jnp.clip(whole, 0, 255)
