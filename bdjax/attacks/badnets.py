"""BadNets: a small patch in the bottom right corner and the attacker's label (Gu, Dolan-Gavitt, Garg, 2017)."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.attacks.parts.common import GOAL, SOURCES, TARGET, dirty_label
from bdjax.cards import Card, Method, Setting
from bdjax.errors import InvalidInput
from bdjax.types import Attack

CARD = Card(
    name="badnets",
    title="BadNets",
    citation="Tianyu Gu, Brendan Dolan-Gavitt, Siddharth Garg. BadNets: Identifying Vulnerabilities in the Machine "
    "Learning Model Supply Chain. arXiv:1708.06733, 2017. https://arxiv.org/abs/1708.06733",
    year=2017,
    version=1,
    kind="dirty-label, static",
    stage="pre-training",
    controls="data",
    changes="pixels and labels of poisoned rows",
    smallest=3,
    settings={
        "size": Setting(3, "height and width of the patch", "pixels", low=1),
        "pattern": Setting("white", "a white square, or a checkerboard with white corners", choices=("white", "grid")),
        "scaling": Setting(
            "fixed", "size in pixels of the image, or of a 32-pixel picture resized", choices=("fixed", "bilinear")
        ),
        "goal": GOAL,
        "target": TARGET,
        "sources": SOURCES,
    },
    presets={"paper": {}, "benchmark": {"scaling": "bilinear"}},
    departures=(
        "the paper sends one class to one other, such as sources=1,target=7, and every class to the next; that all "
        "classes go to one target, the default, is what the field has made of it",
        "the paper's random wrong labels for triggered traffic signs are left out: no image then has a wanted label",
        "the grid's dark cells are level 1 of 255, as in the benchmark, where level 0 means transparent",
    ),
)


def make(net, shape, classes, size, pattern, scaling, goal, target, sources) -> Attack:
    """BadNets for images of `shape`; see the card for settings.

    Raises:
        InvalidInput: the patch does not fit or target or sources are no classes.
    """
    del net
    height, width = shape[:2] if scaling == "fixed" else (32, 32)
    if size > min(height, width):
        raise InvalidInput(f"badnets: size {size} exceeds {height}x{width} pixels; choose at most {min(height, width)}")
    picture = np.zeros((height, width), np.float32)
    cells = np.add.outer(np.arange(size), np.arange(size)) % 2 == 0
    picture[height - size :, width - size :] = 255 if pattern == "white" else np.where(cells, 255, 1)
    # What resizing leaves of a level or more hides the image, dark rim included.
    level = np.round(np.asarray(jax.image.resize(picture, shape[:2], "linear")))[:, :, None]

    def stamp(assets, trigger, image, row):
        del assets, trigger, row
        return jnp.where(level > 0, (level / 255).astype(image.dtype), image)

    return Attack(
        stamp=stamp, query=stamp, **dirty_label("badnets", classes, target=target, goal=goal, sources=sources)
    )


BADNETS = Method(CARD, make)
