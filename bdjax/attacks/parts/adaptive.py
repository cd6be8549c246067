"""What Adaptive-Blend, Adaptive-Patch and TaCT share: cover rows, mixtures, and how they are stored.

Qi, Xie, Li, Mahloujifar, Mittal, Revisiting the Assumption of Latent Separability for Backdoor Defenses, ICLR 2023,
https://openreview.net/forum?id=_wSHsgrVali, section 4; Tang et al., USENIX Security 2021,
https://arxiv.org/abs/1908.00686.
"""

from collections.abc import Callable

import jax.numpy as jnp

from bdjax.cards import Setting
from bdjax.data.poison import roles
from bdjax.types import COVER, POISONED, Array, Poison, everything

STORAGE = Setting(
    "float", "training rows kept exact, or at the nearest 8-bit level; tests are exact", choices=("float", "round")
)


def cover_ratio(default: float) -> Setting:
    """The setting that `with_covers` reads."""
    return Setting(default, "cover rows, with the trigger and their own label, for each poisoned one", low=0.0)


def with_covers(shared: dict[str, Callable], covering: Callable[[Array], Array] = everything) -> dict[str, Callable]:
    """What `dirty_label` gives, with cover rows besides: the first in the order of poisoning that are not poisoned.

    covering: label -> bool, the rows that may be covers.
    """

    def init(key, assets, settings, label, priority, count) -> Poison:
        poison = shared["init"](key, assets, settings, label, priority, count)
        chosen = poison.role == POISONED
        covers = jnp.round(jnp.sum(chosen) * settings["cover_ratio"]).astype(jnp.int32)
        covered = roles(priority, covering(label) & ~chosen, covers) == POISONED
        return poison.replace(role=jnp.where(covered, COVER, poison.role).astype(poison.role.dtype))

    return shared | {"init": init}


def mixed(image: Array, picture: Array, share: Array) -> Array:
    """The image with `share` of the picture in it; share: (height, width, 1), or any shape that broadcasts."""
    return image + share * (picture - image)


def kept(image: Array, storage: str) -> Array:
    """A training row as `storage` says; halves of a level go up."""
    return jnp.floor(image * 255 + 0.5) / 255 if storage == "round" else image
