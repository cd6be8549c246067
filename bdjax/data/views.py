"""Views of images that contrastive learning compares: a resized crop, then jittered colors, gray and blur by chance.

Chen, Kornblith, Norouzi, Hinton, A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020,
arXiv:2002.05709, appendix A; each part is drawn as torchvision draws it. Images stay float in [0, 1] throughout.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.data.corruptions.matrices import apply
from bdjax.keys import stream
from bdjax.types import Array, Key

AREA, ASPECT, TRIES = (0.2, 1.0), (3 / 4, 4 / 3), 10
"""Of a crop: its share of the image, its width by its height, and how often a box that does not fit is drawn again."""

JITTER, HUE = 0.4, 0.1
"""How far factors on brightness, contrast and saturation are from 1, and the largest turn of the hue, at most."""

JITTERED, GRAY, BLURRED = 0.8, 0.2, 0.5
"""How probable each change is."""

BLUR = (0.1, 2.0)
"""Pixels: least and largest deviation of the Gaussian."""

LUMA = (0.299, 0.587, 0.114)


def draw_box(key: Key, height: int, width: int, dtype) -> Array:
    """A box in an image, float (4,): top, left, height and width in whole pixels; all of it where none drawn fits."""
    area, aspect, place = (stream(key, name) for name in ("area", "aspect", "place"))
    pixels = height * width * jax.random.uniform(area, (TRIES,), dtype, *AREA)
    shape = jnp.exp(jax.random.uniform(aspect, (TRIES,), dtype, *np.log(ASPECT)))
    tall, wide = jnp.round(jnp.sqrt(pixels / shape)), jnp.round(jnp.sqrt(pixels * shape))
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    first = jnp.argmax(fits)
    size = jnp.where(jnp.any(fits), jnp.array([tall[first], wide[first]]), jnp.array([height, width], dtype))
    free = jnp.array([height, width], dtype) - size
    return jnp.concatenate([jnp.floor(jax.random.uniform(place, (2,), dtype) * (free + 1)), size])


def crop(image: Array, box: Array, kernel: str = "cubic") -> Array:
    """The box of an image (height, width, channels) enlarged to the whole; `kernel` as `jax.image` names them."""
    scale = jnp.array(image.shape[:2], image.dtype) / box[2:]
    found = jax.image.scale_and_translate(image, image.shape, (0, 1), scale, -box[:2] * scale, kernel)
    return jnp.clip(found, 0, 1)


def gray(image: Array) -> Array:
    """The luma of an image (height, width, channels), (height, width, 1); the mean where it has not three channels."""
    share = LUMA if image.shape[-1] == 3 else (1 / image.shape[-1],) * image.shape[-1]
    return image @ jnp.asarray(share, image.dtype)[:, None]


def turn_hue(image: Array, turn: Array) -> Array:
    """An image (height, width, 3) whose hue is turned by a share of the circle; saturation and value stay."""
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value, chroma = jnp.max(image, -1), jnp.max(image, -1) - jnp.min(image, -1)
    safe = jnp.where(chroma > 0, chroma, 1)
    # By order, not by equality with the largest: fused programs may compute and round a value twice.
    last = jnp.where(green >= blue, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    hue = jnp.where((red >= green) & (red >= blue), (green - blue) / safe, last) + 6 * turn

    def channel(number: int) -> Array:
        place = jnp.mod(number + hue, 6)
        return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)

    return jnp.stack([channel(number) for number in (5, 3, 1)], axis=-1)


def jitter(key: Key, image: Array) -> Array:
    """Brightness, contrast and, of three channels, saturation and hue changed, in a random order."""
    factor = jax.random.uniform(stream(key, "factor"), (3,), image.dtype, 1 - JITTER, 1 + JITTER)
    turn = jax.random.uniform(stream(key, "turn"), (), image.dtype, -HUE, HUE)

    def blend(image: Array, other: Array | float, factor: Array) -> Array:
        return jnp.clip(factor * image + (1 - factor) * other, 0, 1)

    changes = [
        lambda image: blend(image, 0.0, factor[0]),
        lambda image: blend(image, jnp.mean(gray(image)), factor[1]),
    ]
    if image.shape[-1] == 3:
        changes += [lambda image: blend(image, gray(image), factor[2]), lambda image: turn_hue(image, turn)]
    for number in jax.random.permutation(stream(key, "order"), len(changes)):
        # All of them, for of a `switch` in a batch of batches XLA on CPUs gives some rows another branch.
        image = jnp.stack([change(image) for change in changes])[number]
    return image


def blur(image: Array, deviation: Array) -> Array:
    """A Gaussian of that many pixels; beyond the border the outermost pixels are repeated."""
    offset = np.arange(-3 * int(BLUR[1]), 3 * int(BLUR[1]) + 1)
    weight = jnp.exp(-(offset**2) / (2 * deviation**2))

    def matrix(size: int) -> Array:
        read = np.clip(np.arange(size)[:, None] + offset, 0, size - 1)
        return jnp.einsum("k,ikj->ij", weight / jnp.sum(weight), np.eye(size)[read]).astype(image.dtype)

    return apply(matrix(image.shape[0]), matrix(image.shape[1]), image)


def strong(
    key: Key, image: Array, augment: Callable[..., Array], *, kernel: str = "cubic", blurred: bool = True
) -> Array:
    """One view of each image of a batch (b, height, width, channels).

    augment: the dataset's own augmentation, which mirrors where that is allowed. kernel: of the crop, `cubic` or
    `linear`. blurred: whether some are.
    """

    def draw(name: str) -> Array:
        return jax.random.split(stream(key, name), len(image))

    def cropped(key: Key, image: Array) -> Array:
        return crop(image, draw_box(key, *image.shape[:2], image.dtype), kernel)

    def colored(key: Key, image: Array) -> Array:
        own = [stream(key, name) for name in ("jitter", "jittered", "gray", "deviation", "blurred")]
        image = jnp.where(jax.random.bernoulli(own[1], JITTERED), jitter(own[0], image), image)
        image = jnp.where(jax.random.bernoulli(own[2], GRAY), gray(image), image)
        if not blurred:
            return image
        deviation = jax.random.uniform(own[3], (), image.dtype, *BLUR)
        return jnp.where(jax.random.bernoulli(own[4], BLURRED), blur(image, deviation), image)

    image = jax.vmap(cropped)(draw("crop"), image)
    image = augment(stream(key, "mirror"), image, shift=0)
    return jax.vmap(colored)(draw("color"), image)
