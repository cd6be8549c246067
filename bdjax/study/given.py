"""Victims that are given: weights in files that somebody has trained, in the place of victims that the study trains.

Nobody knows what they were trained on, unless a poisoned set is given beside them; an attack that is given only says
under which trigger they are tested.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdjax import metrics
from bdjax.attacks.poisoned_set import CARD as SET
from bdjax.cards import Spec
from bdjax.data import sources
from bdjax.data.poison import NO_ATTACK
from bdjax.errors import InvalidInput
from bdjax.io.foreign.weights import load_weights
from bdjax.paths import local, portable
from bdjax.study.study import Study
from bdjax.types import Attack, Data, Net, Weights

UNKNOWN = math.inf
"""The ratio of victims that nobody knows the ratio of: equal to itself and above 0, which NaN is not."""

NOTHING = Spec("", "none", {}, {}, 1)
"""What a victim is tested under where no attack is given."""

MOST, BEYOND = 1000, 0.1
"""Clean images on which a victim is tried; and the share of them on which it must be right beyond chance."""

_NAME = re.compile(r"[\w.-]+")


class Victim(NamedTuple):
    """A victim that is given."""

    digest: str  # sha256 of the names, types, shapes and numbers of its weights
    weights: Weights


def victim(weights: Weights, where: str) -> Victim:
    """Weights as a victim; where: what they are called in errors.

    Raises:
        InvalidInput: a number in them is not finite.
    """
    content = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        array = np.asarray(leaf)
        if not np.isfinite(array).all():
            raise InvalidInput(f"{where}: {jax.tree_util.keystr(path)} is not finite; the model has diverged")
        content.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return Victim(content.hexdigest(), weights)


def load(study: Study, net: Net) -> dict[str, Victim]:
    """The victims of a study by name: that before the equals sign, else the file's without its ending.

    Raises:
        InvalidInput: a name is none or given twice, or a file holds no weights of the study's network.
    """
    found: dict[str, Victim] = {}
    for text in study.victims:
        name, path = split(text)
        if not path:
            raise InvalidInput(f"victim {name!r}: no path; give that of a file with weights")
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"victim {text!r}: {name!r} is no name; write NAME=PATH, NAME of letters, digits, . _ -")
        if name in found:
            raise InvalidInput(f"victims: two are called {name!r}; write NAME=PATH with another name for one of them")
        found[name] = victim(load_weights(Path(path), net), repr(path))
    return found


def sample(data: Data) -> Data:
    """At most MOST rows of a split, evenly apart, on the device."""
    rows = np.unique(np.linspace(0, len(data.label) - 1, min(len(data.label), MOST)).astype(int))
    return Data(*(jnp.asarray(np.asarray(leaf)[rows]) for leaf in (data.image, data.label)))


def is_chance(right: float, count: int) -> bool:
    """Whether a model of so many classes that is right on this share of images is hardly better than chance."""
    return right < 1 / count + BEYOND


def check_fit(victims: Mapping[str, Victim], net: Net, data: Data, count: int) -> None:
    """Refuse victims that are hardly ever right on images: then the normalization or the order of classes is another.

    data: of the study; count: its classes.

    Raises:
        InvalidInput: says which victim, and how often it is right.
    """
    some = sample(data)
    rate = jax.jit(lambda weights, data: metrics.accuracy(net, weights, sources.split(data)))
    for name, one in victims.items():
        right = float(rate(one.weights, some))
        if is_chance(right, count):
            raise InvalidInput(
                f"victim {name}: right on {right:.1%} of {some.label.size} clean test images, which is chance; give "
                "the normalization that it was trained with, or classes in its order"
            )


def split(text: str) -> tuple[str, str]:
    """The name and the path of a victim."""
    name, equals, path = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        path = local(text)
        return Path(path.partition("#")[0]).stem, path
    return name, local(path)


def shown(study: Study, victims: Mapping[str, Victim]) -> tuple[str, ...]:
    """The victims as results tell of them: without the folders that their files lie in."""
    parts = zip(map(split, study.victims), victims.values(), strict=True)
    return tuple(f"{name}={portable(path, held.digest)}" for (name, path), held in parts)


def tested(
    victims: Mapping[str, Victim], attacks: Mapping[str, tuple[Spec, Attack]]
) -> tuple[dict[str, Victim], dict[str, tuple[Spec, Attack]]]:
    """Every victim and what it is tested under, by what results call the two: the victim's name where that is enough.

    Raises:
        InvalidInput: the trigger of an attack is made in training, which nobody has seen.
    """
    held, under = {}, {}
    for text, (_, attack) in attacks.items():
        if attack.train:
            raise InvalidInput(
                f"{text} makes its trigger while it trains the victim, and weights do not hold it; "
                "give the images that it made as set:PATH"
            )
    for name, one in victims.items():
        for text, (spec, attack) in (attacks or {"": (NOTHING, NO_ATTACK)}).items():
            called = f"{name} under {text}" if len(attacks) > 1 else name
            held[called] = one
            under[called] = Spec(called, spec.name, spec.static, spec.traced, spec.version), attack
    return held, under


def absent(spec: Spec) -> dict[str, str]:
    """Fields of `Given` that methods cannot have of a victim that is tested under an attack, and why."""
    lacking = {}
    if spec.name != SET.name:
        trained = "what the victim was trained on is not known; give its poisoned set as attack set:PATH"
        lacking |= dict.fromkeys(("train", "suspects"), trained)
    if spec.name == NOTHING.name:
        lacking |= dict.fromkeys(("target", "triggered", "queries", "poisoned"), "no trigger is given")
    return lacking


def counts(spec: Spec, poisoned: int, size: int) -> dict[float, int]:
    """Ratio -> rows that were poisoned, as `ratios.counts`; poisoned: rows of the set, if a set is given.

    Of another attack some rows were poisoned and nobody knows how many; no method that could ask is admitted.
    """
    if spec.name == SET.name:
        return {poisoned / size: poisoned}
    return {UNKNOWN: int(spec.name != NOTHING.name)}
