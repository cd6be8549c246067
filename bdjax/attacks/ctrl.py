"""CTRL: two cosines in the chroma of rows of the target class, labels unchanged (Li et al., 2023)."""

import jax.numpy as jnp
import numpy as np

from bdjax.attacks.parts.common import STORAGE, TARGET, clean_label, stamp_with_gain
from bdjax.attacks.parts.spectral import BANDS, OVERFLOW, cast, pattern
from bdjax.cards import Card, Method, Setting
from bdjax.types import Attack

CARD = Card(
    name="ctrl",
    title="CTRL",
    citation="Changjiang Li, Ren Pang, Zhaohan Xi, Tianyu Du, Shouling Ji, Yuan Yao, Ting Wang. An Embarrassingly "
    "Simple Backdoor Attack on Self-supervised Learning. ICCV 2023. https://arxiv.org/abs/2210.07346",
    year=2023,
    version=1,
    kind="clean-label, static",
    stage="pre-training",
    controls="data",
    changes="pixels of poisoned rows, all of the target class",
    smallest=8,
    settings={
        "magnitude": Setting(100 / 255, "added to both coefficients of U and of V on training rows", "pixels", low=0.0),
        "gain": Setting(1.0, "magnitude on test images over that on training rows", low=0.0),
    }
    | BANDS
    | {"storage": STORAGE, "overflow": OVERFLOW, "target": TARGET},
    presets={"paper": {}, "benchmark": {"storage": "truncate", "overflow": "wrap"}},
    departures=(
        "the authors poison the data of self-supervised learning; here, as in the benchmark, of supervised training",
        "images of less than 32 pixels have the coefficients at the same share of the highest, and in images that are "
        "not square the block is a square that repeats; authors and benchmark have only squares of 32 and 64",
        "one channel gets the pattern itself, where the authors have colour images only",
    ),
)

TO_YUV = ((0.299, 0.587, 0.114), (-0.147, -0.289, 0.436), (0.615, -0.515, -0.1))
TO_RGB = ((1.0, 0.0, 1.14), (1.0, -0.396, -0.581), (1.0, 2.029, 0.0))
"""The authors' conversions; they are rounded, so that the way there and back moves a colour by up to 0.35 levels."""


def make(net, shape, classes, middle, high, storage, overflow, target) -> Attack:
    """CTRL for images of `shape`; where there are not three channels every channel gets the pattern itself.

    Raises:
        InvalidInput: the target is no class.
    """
    del net
    added = pattern(*shape[:2], min(shape[:2]), middle, high)
    colour = shape[2] == 3
    there_and_back = np.array(TO_RGB) @ np.array(TO_YUV) - np.eye(3) if colour else np.zeros((shape[2], shape[2]))
    tint = np.array(TO_RGB) @ [0, 1, 1] if colour else np.ones(shape[2])

    def add(image, magnitude):
        drift = jnp.einsum("rck,jk->rcj", image, jnp.asarray(there_and_back, image.dtype), precision="highest")
        moved = image + drift + magnitude * jnp.asarray(added * tint, image.dtype)
        return cast(moved * 255, overflow) / 255 if storage == "truncate" else jnp.clip(moved, 0, 1)

    trigger, stamp, query = stamp_with_gain("magnitude", add)
    return Attack(stamp=stamp, query=query, **clean_label("ctrl", classes, target=target, trigger=trigger))


CTRL = Method(CARD, make)
