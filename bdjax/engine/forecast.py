"""How long what is missing of a study will take, by what its programs have taken on this machine before.

The user's cache remembers seconds a cell, and seconds of compilation, of every group of cells that ran here.
"""

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax

from bdjax.io.store.documents import NUMBER, read_cache, write_json
from bdjax.io.store.store import address
from bdjax.paths import home
from bdjax.study.groups import Group

FILE = "took.json"
TOOK = {str: {"cell": NUMBER, "compile": NUMBER}}
"""What the cache holds, as `documents.check` expects it."""

LONGEST = 1e9
"""Seconds that nothing takes."""

UNKNOWN = 15.0
"""Seconds of compilation of a group where none was ever measured: the most usual, on a CPU."""


class Took(NamedTuple):
    """What a group has taken on this machine; 0 for what was never measured."""

    cell: float = 0.0  # seconds
    compile: float = 0.0


class Left(NamedTuple):
    """What a group lacks, and how long that will take."""

    group: Group
    missing: int
    cell: float  # seconds
    compile: float  # seconds, 0 where it is compiled
    guessed: bool  # whether `cell` is that of other groups


class Times:
    """What groups have taken on this machine under a driver."""

    def __init__(self, driver: str = ""):
        self._driver, self._known = driver, _remembered()
        self._new: dict[str, dict[str, float]] = {}

    def _key(self, group: Group) -> str:
        machine = [jax.local_devices()[0].device_kind, jax.local_device_count(), os.cpu_count(), jax.__version__]
        return address([group.key, self._driver, *machine])

    def of(self, group: Group) -> Took:
        """What is known of a group."""
        return Took(**self._known.get(self._key(group), {}))

    def note(self, group: Group, **seconds: float) -> None:
        """Remember `cell` or `compile` of a group."""
        key = self._key(group)
        self._known[key] = self._new[key] = {**self.of(group)._asdict(), **seconds}

    def save(self) -> None:
        """Keep what is new in the cache, beside what others have put there since."""
        if self._new:
            write_json(home() / FILE, _remembered() | self._new)


def _remembered() -> dict[str, dict[str, float]]:
    found = read_cache(home() / FILE, TOOK)
    return {name: took for name, took in found.items() if all(0 <= value < LONGEST for value in took.values())}


def left(groups: Iterable[Group], missing: Callable[[Group], int], times: Times) -> list[Left]:
    """What every group lacks. One that was never measured counts as the mean of the others; 0 where none was."""
    held = [(group, missing(group), times.of(group)) for group in groups]
    cell = _mean(took.cell for group, _, took in held if group.kind not in ("score", "given"))
    compiled = _mean(took.compile for _, _, took in held)
    found = []
    for group, count, took in held:
        brief = group.kind in ("score", "given")
        programs = 0.0 if group.programs or not count or group.kind == "given" else took.compile or compiled or UNKNOWN
        found.append(Left(group, count, took.cell or (0.0 if brief else cell), programs, not took.cell and not brief))
    return found


def seconds(parts: Iterable[Left]) -> float:
    """All that is left."""
    return sum(part.missing * part.cell + part.compile for part in parts)


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if value]
    return sum(known) / len(known) if known else 0.0
