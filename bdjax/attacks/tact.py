"""TaCT: a patch that is relabelled on rows of one class and keeps the true label on others (Tang et al., 2021)."""

import jax.numpy as jnp
import numpy as np

from bdjax.attacks.common import TARGET, check_target, scalar
from bdjax.attacks.patches import noise_square
from bdjax.cards import Card, Method, Setting
from bdjax.errors import InvalidInput
from bdjax.poison import relabel, roles
from bdjax.types import COVER, POISONED, Array, Attack, Poison

CARD = Card(
    name="tact",
    title="TaCT",
    citation="Di Tang, XiaoFeng Wang, Haixu Tang, Kehuan Zhang. Demon in the Variant: Statistical Analysis of DNNs for "
    "Robust Backdoor Contamination Detection. USENIX Security 2021. https://arxiv.org/abs/1908.00686",
    year=2021,
    version=1,
    kind="dirty-label, source-specific",
    stage="data",
    changes="pixels and labels of rows of the source class, pixels of cover rows of other classes",
    smallest=16,
    settings={
        "source": Setting(1, "the class whose triggered images are sent to the target", low=0),
        "covers": Setting("others", "classes of cover rows: others (all but source and target), or such as 5+7"),
        "cover_ratio": Setting(1.0, "cover rows, with the trigger and their own label, for each poisoned one", low=0.0),
        "alpha": Setting(1.0, "share of the patch where it lies", low=0.0, high=1.0),
        "target": TARGET,
    },
    presets={"paper": {}, "benchmark": {"covers": "5+7"}},
    departures=(
        "the patch is drawn here, 8x8 random colours where the released code has a picture of such colours",
        "which classes give cover rows is the attacker's choice; the default is all others, where the released code "
        "of backdoor-toolbox, the benchmark preset, takes classes 5 and 7",
    ),
)


def cover_classes(covers: str, source: int, target: int, classes: int) -> list[int]:
    """The classes that the text names.

    Raises:
        InvalidInput: one of them is no class, the source or the target.
    """
    allowed = [number for number in range(classes) if number not in (source, target)]
    if covers == "others":
        return allowed
    named = covers.split("+")
    if not all(name.isdecimal() and int(name) in allowed for name in named):
        raise InvalidInput(
            f"tact: covers {covers}; choose others, or classes below {classes} joined by +, neither the source "
            f"{source} nor the target {target}"
        )
    return sorted(int(name) for name in set(named))


def make(net, shape, classes, source, covers, target) -> Attack:
    """TaCT for images of `shape`; ASR counts triggered test images of the source class alone.

    Raises:
        InvalidInput: images below 16 pixels; target, source or covers are no classes or the same ones.
    """
    del net
    check_target("tact", target, classes)
    if not source < classes or source == target:
        raise InvalidInput(f"tact: source {source}; choose a class below {classes} that is not the target {target}")
    if min(shape[:2]) < CARD.smallest:
        raise InvalidInput(f"tact: {shape[0]}x{shape[1]} pixels; the patch needs images of at least 16x16")
    covering = np.isin(np.arange(classes), cover_classes(covers, source, target, classes))
    patch = noise_square(shape)

    def goal(label: Array) -> Array:
        return jnp.where(label == source, target, label)

    def eligible(label: Array) -> Array:
        return label == source

    def init(key, assets, settings, label, priority, count) -> Poison:
        del key, assets
        role = roles(priority, eligible(label), count)
        cover = jnp.round(jnp.sum(role == POISONED) * settings["cover_ratio"]).astype(jnp.int32)
        covered = roles(priority, jnp.asarray(covering)[label], cover) == POISONED
        role = jnp.where(covered, COVER, role).astype(jnp.int8)
        return Poison(role, relabel(role, label, goal), {"alpha": scalar(settings["alpha"])})

    def stamp(assets, trigger, image, row):
        del assets, row
        share = trigger["alpha"] * jnp.asarray(patch.mask, image.dtype)
        return image + share * (jnp.asarray(patch.picture, image.dtype) - image)

    return Attack(init=init, stamp=stamp, query=stamp, goal=goal, eligible=eligible, cover=stamp)


TACT = Method(CARD, make)
