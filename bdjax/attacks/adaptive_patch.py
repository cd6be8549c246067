"""Adaptive-Patch: each training row gets one of four faint patches, some rows keep their label; tests get two, opaque.

Qi, Xie, Li, Mahloujifar, Mittal, 2023, section 4: cover rows and triggers that differ from row to row keep what the
model makes of triggered images close to what it makes of clean ones.
"""

import jax.numpy as jnp
import numpy as np

from bdjax.attacks.parts.adaptive import STORAGE, cover_ratio, kept, mixed, with_covers
from bdjax.attacks.parts.common import TARGET, dirty_label, scalar
from bdjax.attacks.parts.patches import Patch, corners, disc, emblem, noise_square, together
from bdjax.cards import Card, Method, Setting
from bdjax.types import COVER, POISONED, Array, Attack, Key, Poison

ALPHAS = {"emblem": 0.5, "disc": 0.2, "corners": 0.5, "square": 0.3}
"""The patches of training in the order in which rows get them, and their shares of the mixture."""

CARD = Card(
    name="adaptive_patch",
    title="Adaptive-Patch",
    citation="Xiangyu Qi, Tinghao Xie, Yiming Li, Saeed Mahloujifar, Prateek Mittal. Revisiting the Assumption of "
    "Latent Separability for Backdoor Defenses. ICLR 2023. https://openreview.net/forum?id=_wSHsgrVali",
    year=2023,
    version=1,
    kind="dirty-label with cover rows, several triggers",
    stage="pre-training",
    controls="data",
    changes="pixels and labels of poisoned rows, pixels of cover rows",
    smallest=16,
    settings={
        f"{name}_alpha": Setting(alpha, f"share of the patch `{name}` on training rows", low=0.0, high=1.0)
        for name, alpha in ALPHAS.items()
    }
    | {
        "test_patches": Setting(
            "emblems",
            "what test images get: emblems in both bottom corners and the corner signs, or the disc and the square",
            choices=("emblems", "disc"),
        ),
        "test_alpha": Setting(1.0, "share of the patches on test images", low=0.0, high=1.0),
        "cover_ratio": cover_ratio(2.0),
        "storage": STORAGE,
        "target": TARGET,
    },
    presets={"paper": {}, "benchmark": {"storage": "round"}},
    departures=(
        "emblem, disc and square are drawn here at the place and the size of the authors' two logos and square of "
        "random colours; in images of other sizes than 32 pixels they are at the same share of the side",
        "emblems are the authors' test patches on CIFAR-10, the disc and the square those on GTSRB",
        "storage=round is what the authors' first release saves; in backdoor-toolbox, its successor, rows stay exact",
    ),
)


def quarter(chosen: Array) -> Array:
    """Which quarter of the chosen rows, taken in order, each row lies in: int8 (n,), 0 to 3, of bool (n,).

    Counts that 4 does not divide leave the later quarters smaller: 7 are 2, 2, 2 and 1. Rows that were not chosen
    belong to the quarter of the chosen row before them.
    """
    place = jnp.cumsum(chosen.astype(jnp.int32))
    before = -(-jnp.arange(1, 4) * place[-1] // 4)
    return jnp.sum(place[:, None] > before, axis=1).astype(jnp.int8)


def stacked(patches: list[Patch]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (k, height, width, channels) and masks (k, height, width, 1)."""
    return np.stack([patch.picture for patch in patches]), np.stack([patch.mask for patch in patches])


def make(net, shape, classes, test_patches, storage, target) -> Attack:
    """Adaptive-Patch for images of `shape`.

    Raises:
        InvalidInput: the target is no class.
    """
    del net
    pictures, masks = stacked([emblem(shape), disc(shape), corners(shape), noise_square(shape)])
    emblems = [together(emblem(shape, left=0), emblem(shape)), corners(shape)]
    tests = emblems if test_patches == "emblems" else [disc(shape), noise_square(shape)]

    def trigger(key: Key, settings) -> dict[str, Array]:
        del key
        alphas = jnp.stack([scalar(settings[f"{name}_alpha"]) for name in ALPHAS])
        return {"alpha": alphas, "test_alpha": scalar(settings["test_alpha"])}

    aims = {"target": target, "goal": "all_to_one", "sources": "any"}
    shared = with_covers(dirty_label("adaptive_patch", classes, trigger=trigger, **aims))

    def init(key, assets, settings, label, priority, count) -> Poison:
        poison = shared["init"](key, assets, settings, label, priority, count)
        poisoned, covered = quarter(poison.role == POISONED), quarter(poison.role == COVER)
        return poison.replace(variant=jnp.where(poison.role == COVER, covered, poisoned))

    def stamp(assets, trigger, image, row):
        del assets, row
        number = trigger["variant"]
        share = trigger["alpha"][number] * jnp.asarray(masks, image.dtype)[number]
        return kept(mixed(image, jnp.asarray(pictures, image.dtype)[number], share), storage)

    def query(assets, trigger, image, row):
        del assets, row
        for patch in tests:
            share = trigger["test_alpha"] * jnp.asarray(patch.mask, image.dtype)
            image = mixed(image, jnp.asarray(patch.picture, image.dtype), share)
        return image

    return Attack(stamp=stamp, query=query, cover=stamp, **(shared | {"init": init}))


ADAPTIVE_PATCH = Method(CARD, make)
