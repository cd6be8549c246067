"""Pure functions of images: float (height, width, channels) in [0, 1], one image or a batch as each says."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.errors import InvalidInput
from bdjax.types import Array, Key

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")
"""Of image files that are read, by Pillow's names."""


def crop(key: Key, image: Array, padding: int, border: str = "black") -> Array:
    """A random crop of each image of a batch, shifted by up to `padding` pixels each way.

    border: what is beyond the image's own, `black` or the image `reflected` at its outermost pixels.
    """
    count, height, width, channels = image.shape
    offset = jax.random.randint(key, (count, 2), 0, 2 * padding + 1)
    mode = {"black": "constant", "reflected": "reflect"}[border]
    padded = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode)

    def cut(one: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice(one, (start[0], start[1], 0), (height, width, channels))

    return jax.vmap(cut)(padded, offset)


def flip(key: Key, image: Array) -> Array:
    """Each image of a batch mirrored left to right with probability one half."""
    turn = jax.random.bernoulli(key, 0.5, (image.shape[0], 1, 1, 1))
    return jnp.where(turn, image[:, :, ::-1], image)


def augmentation(padding: int, mirrored: bool):
    """The field's augmentation: (key, image batch) -> image batch, zero-padded crop and, where allowed, flip.

    A recipe that wants another crop says by how many pixels and over which border; one that says itself which images
    are mirrored gives `turned`, bool (b,), which counts where mirroring is allowed.
    """

    def augment(key: Key, image: Array, *, shift: int = padding, border: str = "black", turned=None) -> Array:
        if shift:
            image = crop(jax.random.fold_in(key, 0), image, shift, border)
        if not mirrored:
            return image
        if turned is None:
            return flip(jax.random.fold_in(key, 1), image)
        return jnp.where(turned[:, None, None, None], image[:, :, ::-1], image)

    return augment


def to_uint8(image: Array) -> Array:
    """Float images in [0, 1] as uint8, rounded to the nearest level."""
    return jnp.round(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8)


def check_labeled(where: str, image: Array | np.ndarray, label: Array | np.ndarray) -> None:
    """Refuse what is not uint8 images (n, height, width, channels) with a label each, n above 0.

    Raises:
        InvalidInput: says of `where` what was given.
    """
    if image.dtype != np.uint8 or image.ndim != 4 or label.shape != image.shape[:1] or not label.size:
        given = f"images {image.dtype}{list(image.shape)}, labels {list(label.shape)}"
        raise InvalidInput(f"{where}: {given}; give uint8 images [n, height, width, channels] and n labels")
