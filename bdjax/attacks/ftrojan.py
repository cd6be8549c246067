"""FTrojan: two cosines added to the chroma of every block, a trigger in the frequency domain (Wang et al., 2022)."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from bdjax.attacks.parts.common import GOAL, SOURCES, STORAGE, TARGET, dirty_label, scalar, stored
from bdjax.attacks.parts.spectral import BANDS, OVERFLOW, cast, pattern
from bdjax.cards import Card, Method, Setting
from bdjax.types import Array, Attack

CARD = Card(
    name="ftrojan",
    title="FTrojan",
    citation="Tong Wang, Yuan Yao, Feng Xu, Shengwei An, Hanghang Tong, Ting Wang. An Invisible Black-Box Backdoor "
    "Attack Through Frequency Domain. ECCV 2022. https://arxiv.org/abs/2111.10991",
    year=2022,
    version=1,
    kind="dirty-label, static",
    stage="pre-training",
    controls="data",
    changes="pixels and labels of poisoned rows",
    smallest=8,
    settings={
        "magnitude": Setting(30 / 255, "added to both coefficients of Cr and of Cb", "pixels", low=0.0),
        "window": Setting(32, "side of a block, at most the image's own", "pixels", low=2),
    }
    | BANDS
    | {
        "storage": replace(STORAGE, about="stamped images kept exact, or in 8 bits before, between and after"),
        "overflow": OVERFLOW,
        "goal": GOAL,
        "target": TARGET,
        "sources": replace(SOURCES, default="others"),
    },
    presets={"paper": {}, "benchmark": {"storage": "truncate", "overflow": "wrap", "sources": "any"}},
    departures=(
        "the magnitude is the benchmark's; the authors' released script adds 20 of 255 on CIFAR-10",
        "blocks of less than 32 pixels have the coefficients at the same share of the highest, and the border cuts the "
        "last blocks of sizes that 32 does not divide; authors and benchmark have only multiples of 32",
        "rows to poison are drawn at random; the released script takes the first ones in order",
        "under storage=truncate luma is left alone: the benchmark's pass through a float64 transform and back loses a "
        "level on some 11% of its pixels, a rounding error that changes from image to image",
    ),
)

TINT = (1.403, -0.714 - 0.344, 1.773)
"""What a level of both Cr and Cb adds to red, green and blue."""


def to_ycrcb(rgb: Array) -> Array:
    """Y, Cr and Cb, int32 (..., 3) in 0 to 255, of such red, green and blue: OpenCV's 8-bit conversion, bit for bit."""
    red, green, blue = jnp.moveaxis(rgb, -1, 0)
    luma = (4899 * red + 9617 * green + 1868 * blue + 2**13) >> 14
    chroma = (((red - luma) * 11682 + 2**13) >> 14, ((blue - luma) * 9241 + 2**13) >> 14)
    return jnp.clip(jnp.stack([luma, *(value + 128 for value in chroma)], -1), 0, 255)


def to_rgb(ycrcb: Array) -> Array:
    """The way back from `to_ycrcb`, also bit for bit."""
    luma, red, blue = jnp.moveaxis(ycrcb - jnp.array([0, 128, 128]), -1, 0)
    green = -11698 * red - 5636 * blue
    added = [(value + 2**13) >> 14 for value in (22987 * red, green, 29049 * blue)]
    return jnp.clip(jnp.stack([luma + value for value in added], -1), 0, 255)


def make(net, shape, classes, window, middle, high, storage, overflow, goal, target, sources) -> Attack:
    """FTrojan for images of `shape`; where there are not three channels every channel gets the pattern itself.

    Raises:
        InvalidInput: target or sources are no classes.
    """
    del net
    added = pattern(*shape[:2], min(window, *shape[:2]), middle, high)
    tint = np.array(TINT if shape[2] == 3 else 1.0)

    def trigger(key, settings):
        del key
        return {"magnitude": scalar(settings["magnitude"])}

    def through_8_bits(image: Array, chroma: Array) -> Array:
        ycrcb = to_ycrcb(jnp.round(image * 255).astype(jnp.int32))
        moved = cast(ycrcb[..., 1:] + 255 * chroma, overflow).astype(jnp.int32)
        return (to_rgb(jnp.concatenate([ycrcb[..., :1], moved], -1)) / 255).astype(image.dtype)

    def stamp(assets, trigger, image, row):
        del assets, row
        chroma = trigger["magnitude"] * jnp.asarray(added, image.dtype)
        if storage == "truncate" and shape[2] == 3:
            return through_8_bits(image, chroma)
        return stored(image + chroma * jnp.asarray(tint, image.dtype), storage)

    shared = dirty_label("ftrojan", classes, target=target, goal=goal, sources=sources, trigger=trigger)
    return Attack(stamp=stamp, query=stamp, **shared)


FTROJAN = Method(CARD, make)
