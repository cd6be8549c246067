"""What cameras and files do: brightness, contrast, elasticity, coarse pixels and compression."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.data import warp
from bdjax.data.corruptions.matrices import apply, at, coarsen, smooth
from bdjax.keys import stream
from bdjax.types import Array, Key


def brightness(_key: Key, image: Array, level: Array) -> Array:
    """The value of hue, saturation and value raised: channels keep their shares of the largest one."""
    value = jnp.max(image, axis=-1, keepdims=True)
    raised = jnp.minimum(value + at((0.1, 0.2, 0.3, 0.4, 0.5), level, image.dtype), 1)
    return jnp.where(value > 0, image / jnp.maximum(value, 1e-12), 1) * raised


def contrast(_key: Key, image: Array, level: Array) -> Array:
    """Values drawn towards the mean of their channel."""
    mean = jnp.mean(image, (0, 1))
    return jnp.clip((image - mean) * at((0.4, 0.3, 0.2, 0.1, 0.05), level, image.dtype) + mean, 0, 1)


def elastic_transform(key: Key, image: Array, level: Array) -> Array:
    """Pixels read from smoothly displaced places; beyond its border the image is mirrored."""
    height, width = image.shape[:2]
    sides = [jnp.asarray(smooth(side, 0.01 * side, 3.0, True), image.dtype) for side in (height, width)]
    most = 0.005 * height
    noise = jax.random.uniform(stream(key, "displacement"), (height, width, 2), image.dtype, -most, most)
    place = warp.identity(height, width, image.dtype) + 250 * at(
        (0.05, 0.065, 0.085, 0.1, 0.12), level, image.dtype
    ) * apply(*sides, noise)
    size = jnp.array([height, width], image.dtype)
    place = jnp.mod(place + 0.5, 2 * size)
    place = jnp.where(place < size, place, 2 * size - place) - 0.5
    return jnp.clip(warp.sample(image, jnp.clip(place, 0, size - 1)), 0, 1)


def pixelate(_key: Key, image: Array, level: Array) -> Array:
    """Fewer pixels, repeated, of whole levels."""
    shares = 0.6, 0.5, 0.4, 0.3, 0.25
    sides = [at([coarsen(side, share) for share in shares], level, image.dtype) for side in image.shape[:2]]
    return jnp.round(255 * apply(*sides, image)) / 255


LUMA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
CHROMA = np.array([
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
])  # fmt: skip
"""Steps of quantization, ITU-T T.81, annex K; those of chroma are 99 where none is given."""
QUALITIES = 25, 18, 15, 10, 7
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
WAVES = (
    np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(8) + 1) / 16) / 2 * np.where(np.arange(8), 1, 0.5**0.5)[:, None]
)


def _steps(table: np.ndarray) -> np.ndarray:
    """The table for every quality below 50, as libjpeg scales it."""
    return np.stack([np.clip((table * (5000 // quality) + 50) // 100, 1, 255) for quality in QUALITIES])


def _code(plane: Array, steps: Array) -> Array:
    """A plane (height, width) of levels around 0, its sides multiples of 8, after its blocks were quantized."""
    height, width = plane.shape
    blocks = plane.reshape(height // 8, 8, width // 8, 8)
    waves = jnp.asarray(WAVES, plane.dtype)
    found = jnp.einsum("ur,arbc,vc->aubv", waves, blocks, waves)
    found = jnp.round(found / steps[:, None]) * steps[:, None]
    return jnp.einsum("ur,aubv,vc->arbc", waves, found, waves).reshape(height, width)


def jpeg_compression(_key: Key, image: Array, level: Array) -> Array:
    """JPEG with chroma at half the resolution, its pixels repeated."""
    height, width, channels = image.shape
    tall, wide = -height % 16, -width % 16
    levels = jnp.round(255 * jnp.pad(image, ((0, tall), (0, wide), (0, 0)), "edge"))
    luma = at(_steps(LUMA), level, image.dtype)
    if channels == 1:
        found = _code(levels[..., 0] - 128, luma)[..., None] + 128
    else:
        chroma = at(_steps(np.pad(CHROMA, (0, 4), constant_values=99)), level, image.dtype)
        planes = jnp.moveaxis(levels @ jnp.asarray(TO_YCC.T, image.dtype), -1, 0)
        small = jnp.mean(planes[1:].reshape(2, levels.shape[0] // 2, 2, levels.shape[1] // 2, 2), (2, 4))
        color = [jnp.repeat(jnp.repeat(_code(one, chroma), 2, 0), 2, 1) for one in small]
        planes = jnp.stack([_code(planes[0] - 128, luma) + 128, *color], axis=-1)
        found = planes @ jnp.asarray(np.linalg.inv(TO_YCC).T, image.dtype)
    return jnp.clip(jnp.round(found[:height, :width]), 0, 255) / 255
