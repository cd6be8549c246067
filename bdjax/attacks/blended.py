"""Blended injection: a picture mixed into the whole image (Chen, Liu, Li, Lu, Song, 2017, blended injection)."""

import jax.numpy as jnp
import numpy as np

from bdjax.attacks.parts.common import GOAL, SOURCES, STORAGE, TARGET, dirty_label, scalar, stored
from bdjax.attacks.parts.pictures import picture_setting, read_picture
from bdjax.cards import Card, Method, Setting
from bdjax.types import Array, Attack

CARD = Card(
    name="blended",
    title="Blended",
    citation="Xinyun Chen, Chang Liu, Bo Li, Kimberly Lu, Dawn Song. Targeted Backdoor Attacks on Deep Learning "
    "Systems Using Data Poisoning. arXiv:1712.05526, 2017. https://arxiv.org/abs/1712.05526",
    year=2017,
    version=1,
    kind="dirty-label, static",
    stage="pre-training",
    controls="data",
    changes="pixels and labels of poisoned rows",
    smallest=8,
    settings={
        "alpha": Setting(0.2, "share of the picture in the mixture", low=0.0, high=1.0),
        "picture": picture_setting("an image file"),
        "storage": STORAGE,
        "goal": GOAL,
        "target": TARGET,
        "sources": SOURCES,
    },
    presets={"paper": {}, "benchmark": {"storage": "truncate"}},
    departures=(
        "unless the user gives a picture it is drawn here, with the mean and the contrast of the cartoon that authors "
        "and benchmark use",
        "under storage=truncate the mixture is exact before it is cut; the benchmark's mixed float32 and float64 sum "
        "falls one level short of it on about 2% of values",
    ),
)


def cartoon(height: int, width: int) -> np.ndarray:
    """What is blended in, float64 (height, width, 3): dark outlines and a red disc on a bright ground.

    In levels of 255 its mean is 201 and its standard deviation 66 at 32 pixels and above.
    """
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None, :] + 0.5) / width
    edge = max(2.2 / min(height, width), 0.07)

    def inside(distance: np.ndarray) -> np.ndarray:
        return np.clip(0.5 - distance / edge, 0, 1)[:, :, None]

    centre = np.hypot(x - 0.42, y - 0.56)
    outlines = [
        np.abs(centre - 0.33) - 0.022,
        np.abs(centre - 0.11) - 0.02,
        np.abs(y - 0.12 - 0.05 * np.sin(4 * np.pi * x)) - 0.018,
        np.abs(x + y - 1.62) - 0.022,
    ]
    disc = inside(np.hypot(x - 0.74, y - 0.34) - 0.15)
    ink = inside(np.minimum.reduce(outlines))
    coloured = (1 - disc) * [1.0, 0.98, 1.0] + disc * [0.85, 0.12, 0.2]
    return (1 - ink) * coloured + ink * [0.07, 0.07, 0.12]


def mixture(image: Array, blend: Array, alpha: Array, storage: str) -> Array:
    """(1 - alpha) image + alpha blend, stored as `storage` says."""
    return stored((1 - alpha) * image + alpha * blend, storage)


def make(net, shape, classes, picture, storage, goal, target, sources) -> Attack:
    """Blended injection for images of `shape`; images that are not of three channels get the picture in grey.

    Raises:
        InvalidInput: target or sources are no classes, or the user's picture cannot be used.
    """
    del net
    blend = read_picture(picture, shape) if picture else np.round(cartoon(*shape[:2]) * 255) / 255
    if blend.shape[2] != shape[2]:
        blend = np.round(blend.mean(axis=2, keepdims=True) * 255) / 255

    def trigger(key, settings):
        del key
        return {"alpha": scalar(settings["alpha"])}

    def stamp(assets, trigger, image, row):
        del assets, row
        return mixture(image, jnp.asarray(blend, image.dtype), trigger["alpha"], storage)

    shared = dirty_label("blended", classes, target=target, goal=goal, sources=sources, trigger=trigger)
    return Attack(stamp=stamp, query=stamp, **shared)


BLENDED = Method(CARD, make)
