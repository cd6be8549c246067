"""Refool: rows get a reflection, as of a pane of glass in front of the camera (Liu, Ma, Bailey, Lu, 2020, section 3).

Each stamped image has a picture of its own and one of three kinds of reflection (reflections.py): in focus, out of
focus, or doubled.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.attacks.parts.common import GOAL, SOURCES, STORAGE, TARGET, clean_label, dirty_label, row_key, saved, scalar
from bdjax.attacks.parts.pictures import picture_setting, read_pictures
from bdjax.attacks.parts.reflections import doubled, levels, light, unfocused, vignette
from bdjax.attacks.parts.scenes import scenes
from bdjax.attacks.parts.spectral import cast
from bdjax.cards import Card, Method, Setting
from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.types import Array, Attack, Key

CARD = Card(
    name="refool",
    title="Refool",
    citation="Yunfei Liu, Xingjun Ma, James Bailey, Feng Lu. Reflection Backdoor: A Natural Backdoor Attack on Deep "
    "Neural Networks. ECCV 2020. https://arxiv.org/abs/2007.02343",
    year=2020,
    version=1,
    kind="clean-label or dirty-label, sample-specific",
    stage="pre-training",
    controls="data",
    changes="pixels of poisoned rows, all of the target class; under labels=dirty of any class, and their labels",
    smallest=16,
    settings={
        "labels": Setting("clean", "rows of the target keep their label, or rows get it", choices=("clean", "dirty")),
        "focused": Setting(1 / 3, "share of reflections in focus", low=0.0, high=1.0),
        "ghost": Setting(1 / 3, "share of doubled reflections; the remaining are out of focus", low=0.0, high=1.0),
        "least": Setting(0.55, "least share of the image's own light that stays", low=0.01, high=1.0),
        "most": Setting(0.95, "largest share of the image's own light that stays", low=0.01, high=1.0),
        "pictures": Setting(200, "pictures that are drawn to be reflected", low=1, high=10_000),
        "exposure": Setting("natural", "their light, or that of dark reflections", choices=("natural", "dim")),
        "folder": picture_setting("a folder of image files"),
        "storage": STORAGE,
        "goal": GOAL,
        "target": TARGET,
        "sources": SOURCES,
    },
    presets={
        "paper": {},
        "benchmark": {
            "labels": "dirty",
            "focused": 0.0,
            "ghost": 0.49,
            "least": 0.4,
            "most": 0.4,
            "exposure": "dim",
            "storage": "truncate",
        },
    },
    departures=(
        "the pictures are drawn here, where the authors take photographs; the benchmark's are 200 reflections on glass "
        "that the authors release, and exposure=dim has their brightness and contrast",
        "every picture is as likely; the authors train 16 models to find the pictures that fool most",
        "the three kinds are as likely; ranges are those of the authors' code, in pixels of the image, where that code "
        "blends at 560 pixels a side and then makes images small",
        "images that are not square are weighted by a bell over both sides; the code cuts it from a larger square",
    ),
)

SIGMA, EXCESS, SHARE = (1.0, 5.0), (1.08, 1.18), (0.15, 0.5)
SHIFTS = (3, 8)
"""Least and largest, of the authors' code: blur in pixels; light taken off; one copy's share; its shift in pixels."""


class Reflection(NamedTuple):
    """What is drawn for an image; floats () but for `shift`."""

    picture: Array  # place among the pictures, as a share of their number
    kind: Array  # in [0, 1): doubled below `ghost`, then in focus up to `ghost` + `focused`, then out of focus
    stays: Array  # share of the image's own light
    shift: Array  # (2,), pixels
    share: Array  # of the first copy
    sigma: Array  # pixels
    excess: Array


def drawn(key: Key, trigger, dtype) -> Reflection:
    """The reflection of an image; the same numbers in every float type."""
    unit = (jax.random.bits(key, (9,), jnp.uint32) >> 8).astype(dtype) / 2**24

    def between(ends: tuple, place: int) -> Array:
        return ends[0] + (ends[1] - ends[0]) * unit[place]

    share = between(SHARE, 6)
    return Reflection(
        picture=unit[0],
        kind=unit[1],
        stays=between((trigger["least"], trigger["most"]), 2),
        shift=SHIFTS[0] + jnp.floor((SHIFTS[1] - SHIFTS[0] + 1) * unit[3:5]),
        share=jnp.where(unit[5] < 0.5, share, 1 - share),
        sigma=between(SIGMA, 7),
        excess=between(EXCESS, 8),
    )


def reflected(image: Array, picture: Array, one: Reflection, ghost: Array, focused: Array) -> Array:
    """An image with the reflection of a picture, both (height, width, channels) in [0, 1]."""
    own, other = light(image), light(picture)
    shift = jnp.where(one.kind < ghost, one.shift, 0)
    sharp = (1 - one.stays) * doubled(other, shift, one.share)
    weight = (1 - one.stays / 2) * jnp.asarray(vignette(*image.shape[:2]), image.dtype)
    soft = weight * unfocused(other, own, one.sigma, one.excess)
    return levels(jnp.where(one.kind < ghost + focused, sharp, soft) + one.stays * own)


def make(net, shape, classes, labels, pictures, exposure, folder, storage, goal, target, sources) -> Attack:
    """Refool for images of `shape`; where there are not three channels pictures are grey.

    Raises:
        InvalidInput: target or sources are no classes; labels=clean with other rows than the target's or another goal;
            or the folder of pictures cannot be used.
    """
    del net
    if labels == "clean" and (goal, sources) != ("all_to_one", "any"):
        aims = f"goal={goal},sources={sources}"
        raise InvalidInput(f"refool: {aims} with labels=clean; give goal=all_to_one,sources=any or labels=dirty")
    given = np.round(read_pictures(folder, shape) * 255).astype(np.uint8) if folder else None

    def prepare(key, net, data, settings) -> dict[str, Array]:
        del net, data, settings
        if given is not None:
            return {"pictures": jnp.asarray(given)}
        seed = np.asarray(jax.random.key_data(stream(key, "pictures")))
        made = scenes(seed, pictures, *shape[:2], exposure)
        grey = np.round(made.mean(axis=3, keepdims=True)).astype(np.uint8)
        return {"pictures": jnp.asarray(made if shape[2] == 3 else grey)}

    def trigger(key: Key, settings):
        keys = {name: saved(stream(key, name)) for name in ("train", "test")}
        return keys | {name: scalar(settings[name]) for name in ("focused", "ghost", "least", "most")}

    def stamp(assets, trigger, image, row, which="train"):
        one = drawn(row_key(trigger[which], row), trigger, image.dtype)
        count = len(assets["pictures"])
        picture = assets["pictures"][jnp.floor(one.picture * count).astype(jnp.int32)].astype(image.dtype) / 255
        result = reflected(image, picture, one, trigger["ghost"], trigger["focused"])
        return cast(result * 255, "clip") / 255 if storage == "truncate" else result

    def query(assets, trigger, image, row):
        return stamp(assets, trigger, image, row, "test")

    if labels == "clean":
        shared = clean_label("refool", classes, target=target, trigger=trigger)
    else:
        shared = dirty_label("refool", classes, target=target, goal=goal, sources=sources, trigger=trigger)
    return Attack(stamp=stamp, query=query, prepare=prepare, **shared)


REFOOL = Method(CARD, make)
