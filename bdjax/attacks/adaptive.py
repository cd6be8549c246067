"""What Adaptive-Blend and Adaptive-Patch share: cover rows, and how mixtures are stored.

Qi, Xie, Li, Mahloujifar, Mittal, Revisiting the Assumption of Latent Separability for Backdoor Defenses, ICLR 2023,
https://openreview.net/forum?id=_wSHsgrVali, section 4.
"""

from collections.abc import Callable

import jax.numpy as jnp

from bdjax.attacks.common import dirty_label
from bdjax.cards import Setting
from bdjax.poison import roles
from bdjax.types import POISONED, Array, Poison, everything

STORAGE = Setting(
    "float", "training rows kept exact, or at the nearest 8-bit level; tests are exact", choices=("float", "round")
)


def cover_ratio(default: float) -> Setting:
    """The setting that `with_covers` reads."""
    return Setting(default, "cover rows, with the trigger and their own label, for each poisoned one", low=0.0)


def with_covers(name: str, classes: int, target: int, trigger: Callable) -> dict[str, Callable]:
    """`init`, `goal` and `eligible` as `dirty_label` gives them, and cover rows from all rows that are not poisoned."""
    shared = dirty_label(name, classes, target=target, goal="all_to_one", sources="any", trigger=trigger)

    def init(key, assets, settings, label, priority, count) -> Poison:
        poison = shared["init"](key, assets, settings, label, priority, count)
        covered = jnp.round(jnp.sum(poison.role == POISONED) * settings["cover_ratio"]).astype(jnp.int32)
        return poison.replace(role=roles(priority, everything(label), count, covered))

    return shared | {"init": init}


def mixed(image: Array, picture: Array, share: Array) -> Array:
    """The image with `share` of the picture in it; share: (height, width, 1), or any shape that broadcasts."""
    return image + share * (picture - image)


def kept(image: Array, storage: str) -> Array:
    """A training row as `storage` says; halves of a level go up."""
    return jnp.floor(image * 255 + 0.5) / 255 if storage == "round" else image
