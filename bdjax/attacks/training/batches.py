"""What attacks that poison batch by batch share: how many rows of a batch, and the augmentation of the poisoned batch.

Both as in Nguyen, Tran, WaNet, ICLR 2021, https://openreview.net/forum?id=eEn8KTtJOx, and its released code.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bdjax.cards import Setting
from bdjax.data import images, warp
from bdjax.keys import stream
from bdjax.types import POISONED, Array, Batch, Given, Key, real

BATCHES = {
    "rounding": Setting(
        "stochastic",
        "rows to poison in a batch: the ratio's on average, or rounded down wherever that leaves any",
        choices=("stochastic", "floor"),
    ),
    "augmentation": Setting(
        "sample",
        "the attack's own crop, turn and flip, drawn for each image or once a batch, or the dataset's augmentation",
        choices=("sample", "batch", "dataset"),
    ),
    "crop": Setting(5, "largest shift of the crop", "pixels", low=0),
    "rotation": Setting(10.0, "largest turn", "degrees", low=0.0, high=180.0),
    "flip": Setting(True, "whether images are mirrored at random"),
    "interpolation": Setting("bilinear", "how turned images are read", choices=("bilinear", "nearest")),
    "fill": Setting("mean", "what comes in from outside: the batch's mean colour, or black", choices=("mean", "black")),
}
"""The settings of `share` and `augmentation`, for cards."""

CROPPED, TURNED = 0.8, 0.5
"""The shares of batches that are cropped and turned, from the released code."""


def ratio(given: Given) -> Array:
    """The share of rows that are poisoned on record, float (), for an attacker who controls training."""
    return jnp.mean((given.carry["role"] == POISONED).astype(real()))


def share(key: Key, ratio: Array, size: Array, rounding: str) -> Array:
    """How many of the `size` rows of a batch to poison, int32 (); both numbers may be traced."""
    expected = ratio * size
    whole = jnp.floor(expected + 1e-4)  # a whole number must not fall short of itself by rounding
    more = jax.random.bernoulli(key, jnp.clip(expected - whole, 0, 1))
    if rounding == "floor":
        more &= whole == 0
    return whole.astype(jnp.int32) + more


def augmentation(kind: str, crop: int, flip: bool, interpolation: str, fill: str) -> Callable[..., Array]:
    """(key, batch, given) -> the batch's images, augmented; reads `rotation` from `given.settings`."""

    def change(key: Key, image: Array, cropped: Array, limit: Array) -> Array:
        shift, turn, mirror = jax.random.split(key, 3)
        image = jnp.where(cropped, images.crop(shift, image[None], crop)[0], image)
        angle = jax.random.uniform(turn, (), limit.dtype, -1, 1) * limit
        place = warp.rotation(*image.shape[:2], angle)
        image = warp.sample(image, jnp.round(place) if interpolation == "nearest" else place)
        return images.flip(mirror, image[None])[0] if flip else image

    def augment(key: Key, rows: Batch, given: Given) -> Array:
        if kind == "dataset":
            return given.augment(key, rows.image)
        weight = rows.weight[:, None, None, None]
        outside = jnp.sum(rows.image * weight, (0, 1, 2)) / (jnp.sum(weight) * rows.image[0, :, :, 0].size)
        outside = outside if fill == "mean" else 0
        cropped = jax.random.bernoulli(stream(key, "cropped"), CROPPED)
        limit = jnp.deg2rad(given.settings["rotation"]) * jax.random.bernoulli(stream(key, "turned"), TURNED)
        each = stream(key, "image")
        keys, axis = (jax.random.split(each, rows.row.size), 0) if kind == "sample" else (each, None)
        return jax.vmap(change, (axis, 0, None, None))(keys, rows.image - outside, cropped, limit) + outside

    return augment
