"""TaCT: a patch that is relabelled on rows of one class and keeps the true label on others (Tang et al., 2021)."""

from dataclasses import replace

import jax.numpy as jnp

from bdjax.attacks.parts.adaptive import cover_ratio, mixed, with_covers
from bdjax.attacks.parts.common import SOURCES, TARGET, dirty_label, named_classes, of_classes, scalar
from bdjax.attacks.parts.patches import noise_square
from bdjax.cards import Card, Method, Setting
from bdjax.types import Array, Attack, Key

CARD = Card(
    name="tact",
    title="TaCT",
    citation="Di Tang, XiaoFeng Wang, Haixu Tang, Kehuan Zhang. Demon in the Variant: Statistical Analysis of DNNs for "
    "Robust Backdoor Contamination Detection. USENIX Security 2021. https://arxiv.org/abs/1908.00686",
    year=2021,
    version=1,
    kind="dirty-label, source-specific",
    stage="pre-training",
    controls="data",
    changes="pixels and labels of rows of the source classes, pixels of cover rows of other classes",
    smallest=16,
    settings={
        "sources": replace(SOURCES, default="1", about="classes such as 3+5 whose triggered images go to the target"),
        "covers": Setting("others", "classes of cover rows: others (all but sources and target), or such as 5+7"),
        "cover_ratio": cover_ratio(1.0),
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


def make(net, shape, classes, sources, covers, target) -> Attack:
    """TaCT for images of `shape`; ASR counts triggered test images of the source classes alone.

    Raises:
        InvalidInput: target, sources or covers are no classes or the same ones.
    """
    del net
    patch = noise_square(shape)

    def trigger(key: Key, settings) -> dict[str, Array]:
        del key
        return {"alpha": scalar(settings["alpha"])}

    def stamp(assets, trigger, image, row):
        del assets, row
        share = trigger["alpha"] * jnp.asarray(patch.mask, image.dtype)
        return mixed(image, jnp.asarray(patch.picture, image.dtype), share)

    shared = dirty_label("tact", classes, target=target, goal="all_to_one", sources=sources, trigger=trigger)
    aimed = [target, *named_classes("tact", "sources", sources, classes, [target])]
    if covers == "others":
        named = [number for number in range(classes) if number not in aimed]
    else:
        named = named_classes("tact", "covers", covers, classes, aimed, "others or ")
    return Attack(stamp=stamp, query=stamp, cover=stamp, **with_covers(shared, of_classes(named, classes)))


TACT = Method(CARD, make)
