"""What attacks share: settings, the making of `Poison`, 8-bit storage, and random streams that can be saved."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cards import Setting
from bdjax.data.poison import all_to_all, all_to_one, relabel, roles
from bdjax.errors import InvalidInput
from bdjax.types import Array, Key, Poison, StampFn, everything

TARGET = Setting(0, "the class that triggered images are sent to", low=0)
GOAL = Setting("all_to_one", "every label to the target, or each to the next", choices=("all_to_one", "all_to_all"))
SOURCES = Setting(
    "any",
    "rows that may be poisoned: any, others (those that get another label), or of classes such as 3+5, whose images "
    "are then all that the attacker wants to move",
)
STORAGE = Setting("float", "stamped images kept exact, or cut down to 8-bit levels", choices=("float", "truncate"))

ROUNDING = 2.0**-10
"""Levels of 255 by which rounded arithmetic may fall short of a whole level before storage takes that level away."""


def no_trigger(key: Key, settings: Mapping[str, Array]) -> dict[str, Any]:
    """The trigger of an attack that has nothing to keep for each cell."""
    del key, settings
    return {}


def scalar(value: Any) -> Array:
    """A float setting as an array () of the library's float type."""
    return jnp.asarray(value, float)


def check_target(name: str, target: int, classes: int) -> None:
    """Refuse a target that the data lack.

    Raises:
        InvalidInput: target is not below classes.
    """
    if not 0 <= target < classes:
        raise InvalidInput(f"{name}: target {target} of {classes} classes; choose 0 to {classes - 1}")


def named_classes(name: str, setting: str, text: str, classes: int, barred: list[int], words: str = "") -> list[int]:
    """The classes that a setting such as 3+5 names.

    Args:
        name, setting: the attack's and the setting's, for errors.
        text: the setting's value.
        classes: of the data.
        barred: classes that must not be named.
        words: what else the setting may be, for errors.

    Raises:
        InvalidInput: the text names something else than allowed classes.
    """
    named = text.split("+")
    if not all(part.isdecimal() and int(part) < classes and int(part) not in barred for part in named):
        but = ", not " + " or ".join(map(str, barred)) if barred else ""
        raise InvalidInput(f"{name}: {setting} {text}; give {words}classes below {classes} joined by +{but}")
    return sorted({int(part) for part in named})


def of_classes(named: list[int], classes: int) -> Callable[[Array], Array]:
    """Whether a label is among the named ones, bool."""
    chosen = np.isin(np.arange(classes), named)
    return lambda label: jnp.asarray(chosen)[label]


def dirty_label(
    name: str, classes: int, *, target: int, goal: str, sources: str, trigger: Callable = no_trigger
) -> dict[str, Callable]:
    """`init`, `goal` and `eligible` of an attack that gives poisoned rows the label that it wants.

    Args:
        name: the attack's, for errors.
        classes: of the data.
        target, goal, sources: see the settings of these names.
        trigger: (key, settings) -> the nested dict of arrays that `stamp` and `query` need.

    Raises:
        InvalidInput: target is not below classes, or sources are no classes that get another label.
    """
    check_target(name, target, classes)
    wanted, eligible = _aims(name, classes, target, goal, sources)

    def init(key, assets, settings, label, priority, count) -> Poison:
        del assets
        role = roles(priority, eligible(label), count)
        return Poison(role, relabel(role, label, wanted), trigger(key, settings))

    return {"init": init, "goal": wanted, "eligible": eligible}


def _aims(name: str, classes: int, target: int, goal: str, sources: str) -> tuple[Callable, Callable]:
    """`goal` and `eligible` of an attack under the settings of these names."""
    every = all_to_one(target) if goal == "all_to_one" else all_to_all(classes)

    def moved(label: Array) -> Array:
        return every(label) != label

    if sources in ("any", "others"):
        return every, everything if sources == "any" else moved
    barred = [target] if goal == "all_to_one" else []
    chosen = of_classes(named_classes(name, "sources", sources, classes, barred, "any, others or "), classes)
    return lambda label: jnp.where(chosen(label), every(label), label), chosen


def clean_label(name: str, classes: int, *, target: int, trigger: Callable = no_trigger) -> dict[str, Callable]:
    """`init`, `goal` and `eligible` of an attack that stamps rows of the target class and keeps their label.

    Arguments and errors as for `dirty_label`.
    """
    check_target(name, target, classes)

    def eligible(label: Array) -> Array:
        return label == target

    def init(key, assets, settings, label, priority, count) -> Poison:
        del assets
        return Poison(roles(priority, eligible(label), count), label, trigger(key, settings))

    return {"init": init, "goal": all_to_one(target), "eligible": eligible}


def stamp_with_gain(name: str, add: Callable[[Array, Array], Array]) -> tuple[Callable, StampFn, StampFn]:
    """`trigger`, `stamp` and `query` of an attack that adds a pattern at an amplitude, `gain` times it on test images.

    Args:
        name: the setting that is the amplitude on training rows.
        add: (image, amplitude float ()) -> the image with the pattern.
    """

    def trigger(key: Key, settings: Mapping[str, Array]) -> dict[str, Array]:
        del key
        return {each: scalar(settings[each]) for each in (name, "gain")}

    def stamp(assets, trigger, image, row):
        del assets, row
        return add(image, trigger[name])

    def query(assets, trigger, image, row):
        del assets, row
        return add(image, trigger[name] * trigger["gain"])

    return trigger, stamp, query


def truncated(image: Array) -> Array:
    """The next 8-bit level at or below each value, as a multiple of 1/255; exact for values that are levels."""
    return jnp.floor(image * 255 + ROUNDING) / 255


def stored(image: Array, storage: str) -> Array:
    """An image cut to [0, 1] and, where storage is `truncate`, down to 8-bit levels."""
    image = jnp.clip(image, 0, 1)
    return truncated(image) if storage == "truncate" else image


def saved(key: Key) -> Array:
    """A key as an array uint32 (2,), which a trigger can hold and a file can keep."""
    return jax.random.key_data(key)


def row_key(kept: Array, row: Array) -> Key:
    """The random stream of one row, from what `saved` gave."""
    return jax.random.fold_in(jax.random.wrap_key_data(kept, impl="threefry2x32"), row)
