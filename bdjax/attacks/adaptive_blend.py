"""Adaptive-Blend: pieces of a blended picture in training, some rows keeping their label; the whole picture in tests.

Qi, Xie, Li, Mahloujifar, Mittal, 2023, section 4: cover rows and triggers that are incomplete in training keep what the
model makes of triggered images close to what it makes of clean ones.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.attacks.blended import cartoon
from bdjax.attacks.parts.adaptive import STORAGE, cover_ratio, kept, mixed, with_covers
from bdjax.attacks.parts.common import TARGET, dirty_label, row_key, saved, scalar
from bdjax.attacks.parts.pictures import picture_setting, read_picture
from bdjax.cards import Card, Method, Setting
from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.types import Array, Attack, Key

CARD = Card(
    name="adaptive_blend",
    title="Adaptive-Blend",
    citation="Xiangyu Qi, Tinghao Xie, Yiming Li, Saeed Mahloujifar, Prateek Mittal. Revisiting the Assumption of "
    "Latent Separability for Backdoor Defenses. ICLR 2023. https://openreview.net/forum?id=_wSHsgrVali",
    year=2023,
    version=1,
    kind="dirty-label with cover rows, sample-specific",
    stage="pre-training",
    controls="data",
    changes="pixels and labels of poisoned rows, pixels of cover rows",
    smallest=8,
    settings={
        "alpha": Setting(0.15, "share of the picture on training rows", low=0.0, high=1.0),
        "test_alpha": Setting(0.2, "share of the picture on test images", low=0.0, high=1.0),
        "picture": picture_setting("an image file"),
        "cover_ratio": cover_ratio(1.0),
        "pieces": Setting(4, "pieces along each side that the picture is cut into", low=1),
        "shown": Setting(8, "pieces that a training row gets, drawn for each row", low=1),
        "storage": STORAGE,
        "target": TARGET,
    },
    presets={"paper": {}, "benchmark": {"storage": "round"}},
    departures=(
        "unless the user gives a picture it is that of the attack blended, drawn with the mean and the contrast of the "
        "authors' cartoon",
        "storage=round is what the authors' first release saves; in backdoor-toolbox, its successor, rows stay exact",
    ),
)


def make(net, shape, classes, picture, pieces, shown, storage, target) -> Attack:
    """Adaptive-Blend for images of `shape`; images that are not of three channels get the picture in grey.

    Raises:
        InvalidInput: more pieces are shown than there are, pieces are less than a pixel, the target is no class, or the
            user's picture cannot be used.
    """
    del net
    height, width, channels = shape
    if pieces > min(height, width):
        most = min(height, width)
        raise InvalidInput(f"adaptive_blend: {pieces} pieces along {height}x{width} pixels; choose at most {most}")
    if shown > pieces**2:
        raise InvalidInput(f"adaptive_blend: shown {shown} of {pieces**2} pieces; choose at most {pieces**2}")
    drawn = cartoon(height, width) if channels == 3 else cartoon(height, width).mean(axis=2, keepdims=True)
    blend = read_picture(picture, shape) if picture else np.round(drawn * 255) / 255
    rows, columns = (np.arange(side) * pieces // side for side in (height, width))

    def trigger(key: Key, settings) -> dict[str, Array]:
        shares = {name: scalar(settings[name]) for name in ("alpha", "test_alpha")}
        return shares | {"key": saved(stream(key, "pieces"))}

    def stamp(assets, trigger, image, row):
        del assets
        drawn = jax.random.permutation(row_key(trigger["key"], row), pieces**2) < shown
        mask = drawn.reshape(pieces, pieces)[np.ix_(rows, columns)][:, :, None]
        return kept(mixed(image, jnp.asarray(blend, image.dtype), trigger["alpha"] * mask), storage)

    def query(assets, trigger, image, row):
        del assets, row
        return mixed(image, jnp.asarray(blend, image.dtype), trigger["test_alpha"])

    aims = {"target": target, "goal": "all_to_one", "sources": "any"}
    shared = with_covers(dirty_label("adaptive_blend", classes, trigger=trigger, **aims))
    return Attack(stamp=stamp, query=query, cover=stamp, **shared)


ADAPTIVE_BLEND = Method(CARD, make)
