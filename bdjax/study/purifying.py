"""A suspicious model and what its owner holds, resolved into a study: one victim that is given, clean images, no more.

There is no training set, perhaps no test set and no trigger. What needs them is refused, and figures that nobody can
know are missing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from bdjax.cards import Spec
from bdjax.cells.functions import Scene
from bdjax.data.poison import NO_ATTACK
from bdjax.io.datasets import Dataset
from bdjax.io.datasets.holdings import Holdings
from bdjax.io.datasets.normalization import Normalization
from bdjax.selections import SELECTIONS
from bdjax.study import Study, given, plugins, study
from bdjax.study.building import build_audit, build_defense, lookup
from bdjax.study.rehearsal import rehearse
from bdjax.study.work import ENGINE, Work, check_needs
from bdjax.types import Array, Attack, Data, Net, Weights, real

VICTIM = "suspect"
"""What results call the model."""

UNTRAINED = "what the model was trained on is not here"


@dataclass(frozen=True)
class Trigger:
    """How somebody's trigger is known: `stamp` puts it on an image, or images that have it are among the holdings."""

    goal: Callable[[Array], Array]  # label -> the label that the attacker wants
    stamp: Callable[[Array], Array] | None = None  # image (height, width, channels) in [0, 1] -> the triggered image
    name: str = "images"


def resolve(
    net: Net,
    weights: Weights,
    held: Holdings,
    *,
    model: Spec,
    name: str,
    defenses: Iterable[str] = ("none",),
    audits: Iterable[str] = (),
    seeds: Iterable[int] = (0,),
    trigger: Trigger | None = None,
    normalization: Normalization | None = None,
    flip: bool = False,
    driver: str = "map",
    memory: str = "",
    modules: Iterable[str] = (),
) -> Work:
    """The study of one model that is given.

    Args:
        net, weights: the model.
        held: what its owner holds.
        model: the network as it was asked for, which results are told apart by.
        name: what results call the images.
        defenses, audits, seeds, driver, memory: as of a `Study`.
        trigger: how the trigger is known, if it is.
        normalization: with which `net` was made, where results are to be told apart by it.
        flip: whether training mirrors images.
        modules: plugins.

    Raises:
        InvalidInput: a method cannot be used on the model, or with what its owner holds.
    """
    data, suspect = _dataset(held, name, flip), given.victim(weights, "the model")
    spec, attack = _under(trigger)
    asked = Study(
        dataset=name,
        model=model.text,
        victims=(VICTIM,),
        seeds=tuple(seeds),
        defenses=tuple(dict.fromkeys(("none", *defenses))),
        audits=tuple(audits),
        clean_ratio=0.0,
        valid_ratio=0.0,
        flip=flip,
        driver=driver,
        memory=memory,
        plugins=tuple(modules),
    )
    study.check(asked)
    plugins.load(asked.plugins)
    plugins.check()
    split = len(held.clean.label), len(data.train.label)
    shape, classes = data.shape, data.count
    recipe = build_defense(lookup("none", "defense"), net, shape, classes)
    work = Work(
        study=asked,
        dataset=data,
        model=model,
        net=net,
        scene=Scene(
            net,
            classes,
            data.padding,
            flip,
            SELECTIONS["random"].make(net, shape, classes),
            clean=0,
            valid=0,
            reserved=False,
            barred=np.zeros(split[1], bool),
            given=True,
            rows=(np.arange(split[0], dtype=np.int32), np.arange(*split, dtype=np.int32)),
        ),
        recipe=recipe,
        attacks={VICTIM: (spec, attack)},
        defenses={text: build_defense(lookup(text, "defense"), net, shape, classes) for text in asked.defenses},
        audits={text: build_audit(lookup(text, "audit"), shape) for text in asked.audits},
        detectors={},
        selection=lookup("random", "selection"),
        base={
            "engine": ENGINE,
            "dataset": data.digest,
            "padding": data.padding,
            "flip": flip,
            "model": model.identity(),
            "float": str(np.dtype(real())),
            "victim": suspect.digest[:12],  # or another one's figures would stand beside
            "normalization": normalization and [list(part) for part in normalization],
        },
        victims={VICTIM: suspect},
        absent=_absent(held, trigger),
    )
    check_needs(work)
    rehearse(work)
    return work


def _dataset(held: Holdings, name: str, flip: bool) -> Dataset:
    """The owner's images as a dataset whose training split is all that the defender has."""
    both = (np.concatenate(parts) for parts in zip(*((one.image, one.label) for one in held[1:3]), strict=True))
    train = Data(*both)
    shape = train.image.shape[1:]
    nothing = Data(np.zeros((0, *shape), np.uint8), np.zeros(0, np.int32))
    return Dataset(
        name=name,
        version="",
        digest=held.digest(),
        classes=held.classes,
        train=train,
        test=nothing if held.test is None else held.test,
        padding=2 if min(shape[:2]) <= 16 else 4,
        flip=flip,
        mean=(0.0,) * shape[2],
        std=(1.0,) * shape[2],
        queries=held.triggered,
    )


def _under(trigger: Trigger | None) -> tuple[Spec, Attack]:
    if trigger is None:
        return Spec(VICTIM, given.NOTHING.name, {}, {}, 1), NO_ATTACK
    attack, stamp = NO_ATTACK._replace(goal=trigger.goal), trigger.stamp
    if stamp is not None:
        attack = attack._replace(
            stamp=lambda _assets, _trigger, image, _row: stamp(image),
            query=lambda _assets, _trigger, image, _row: stamp(image),
        )
    return Spec(VICTIM, trigger.name, {}, {}, 1), attack


def _absent(held: Holdings, trigger: Trigger | None) -> dict[str, str]:
    lacking = dict.fromkeys(("train", "suspects", "whole", "clean_model"), UNTRAINED)
    if trigger is not None and trigger.stamp is None:
        lacking |= dict.fromkeys(("triggered", "poisoned"), "there are triggered images, and not the trigger itself")
    if held.test is None:
        lacking |= {"test": "no test images are given"}
        if trigger is not None and trigger.stamp is not None:
            lacking |= {"queries": "no test images are given that the trigger could be put on"}
    return lacking
