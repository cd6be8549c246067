"""The JSON files of a study's folder: what each of them must hold, and a checksum so that flipped bits are noticed.

A file that parses but holds something else is refused in one line.
"""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, get_args

from bdjax.cards import NEEDS, OF_DATASET
from bdjax.errors import Damaged, InvalidInput, Unreadable
from bdjax.io.files import read_regular, write_atomically

LARGEST = 2**30
"""Bytes of a JSON file; a cell of a study takes some 500."""

CHECKSUM = ',\n "sha256": "{}"\n}}'
"""How a file ends; the checksum is over its text with a plain end."""

ADDRESS = re.compile("[0-9a-f]{24}")
COUNT = range(2**63)
SEED = range(2**31)
NUMBER = int | float
"""What `check` expects of a content address, a count, a seed, and a number."""

CELL = {
    **{"attack": str, "ratio": NUMBER, "seed": SEED, "defense": str},
    **{"model": ADDRESS, "score": ADDRESS, "audits": {str: ADDRESS}},
}
DETECTION = {
    **{"attack": str, "ratio": NUMBER, "seed": SEED, "detector": str, "on": re.compile("rows|queries")},
    **{"model": ADDRESS, "address": ADDRESS},
}
SETTING = {
    **{"default": str | bool | NUMBER, "about": str, "unit": str},
    **{"low": NUMBER | None, "high": NUMBER | None, "choices": [str]},
}
NEED = [re.compile("|".join(sorted(NEEDS | OF_DATASET)))]
CARD = {
    **dict.fromkeys(("name", "title", "citation", "kind", "changes", "controls"), str),
    **{"year": COUNT, "version": COUNT, "stage": str | None, "needs": NEED, "more_needs": {str: NEED}},
    **{"smallest": COUNT, "bar": {str: NUMBER}, "settings": {str: SETTING}, "presets": {str: dict}},
    **{"departures": [str]},
}
ATTRIBUTES = ("config", "versions", "device", "dataset", "dataset_version", "dataset_digest", "model", "date")
STUDY = {
    "base": dict,
    "attributes": {str: str, **dict.fromkeys(ATTRIBUTES, str)},
    "defenses": {str: {"oracle": bool, "version": COUNT}},
    "cards": {str: {str: CARD}},
    "cells": [CELL],
    "detections": [DETECTION],
}
CONFIG = {
    **dict.fromkeys(("recipe", "selection", "clean"), str),
    **{"clean_ratio": NUMBER, "valid_ratio": NUMBER, "suspects": COUNT, "detectors": [str]},
}
PROGRAM = {"label": str, "capacity": range(1, 2**31), "bytes": COUNT, "compile_seconds": NUMBER}
GROUP = {**PROGRAM, "asked": COUNT, "memory": str}
PLAN = {"driver": str, "convolution": str, "threads": COUNT, "groups": {str: GROUP}, "held": {str: COUNT}}
PLACE = {"stage": COUNT, "epoch": COUNT, "step": COUNT, "seconds": NUMBER}
POSITION = {**PLACE, "curves": [{str: [NUMBER]}], "finite": [bool]}
MARKER = {"jobs": [ADDRESS], "position": POSITION, "state": re.compile("[0-9a-f]{16}"), "checksum": str}
NOTE = {"begun": NUMBER, "ended": NUMBER}
"""What is in study.json, in the config among its attributes, in plan.json, in the marker of a checkpoint, and in a note
of when a command ran."""


def check(value: Any, expected: Any, where: str = "") -> None:
    """Refuse a value that was read from JSON where it is not as expected.

    Args:
        value: of JSON.
        expected: a type or a union of types; a range; a pattern for a whole text; [one] for a list of such; a dict with
            the names that must be there, others are left alone, and with {str: one} for all other names.
        where: the names that lead to the value.

    Raises:
        ValueError: what stands where.
    """
    if not _fits(value, expected):
        raise ValueError(f"{where.lstrip('.') or 'all of it'} is {json.dumps(value)[:40]}")
    if isinstance(expected, list):
        for index, one in enumerate(value):
            check(one, expected[0], f"{where}.{index}")
    elif isinstance(expected, dict):
        for name in expected:
            if name is not str and name not in value:
                raise ValueError(f"{where.lstrip('.') or 'it'} lacks {name!r}")
        for name, one in value.items():
            check(one, expected.get(name, expected.get(str, object)), f"{where}.{name}")


def _fits(value: Any, expected: Any) -> bool:
    if isinstance(expected, list | dict):
        return isinstance(value, type(expected))
    if isinstance(expected, re.Pattern):
        return isinstance(value, str) and expected.fullmatch(value) is not None
    if isinstance(expected, range):
        return type(value) is int and value in expected
    if isinstance(value, bool) and expected is not object:  # which Python counts as a number
        return bool in (expected, *get_args(expected))
    return isinstance(value, expected)


def text_of(content: dict[str, Any]) -> str:
    """The text of a JSON file with its checksum."""
    return _sealed(json.dumps(content, indent=1))


def _sealed(plain: str) -> str:
    return plain.removesuffix("\n}") + CHECKSUM.format(hashlib.sha256(plain.encode()).hexdigest())


def _is_whole(text: str) -> bool:
    return text == _sealed(text[: -len(CHECKSUM.format("0" * 64))] + "\n}")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file with its checksum, whole or not at all. content: at least one name, and none of them sha256."""
    text = text_of(content)
    write_atomically(path, lambda temporary: temporary.write_text(text))


def read_json(path: Path, expected: Any = dict) -> dict[str, Any] | None:
    """The content of a JSON file, None where there is none; expected: as of `check`.

    Raises:
        InvalidInput: it is damaged or holds something else.
        Unreadable: it is there, and reading it failed.
    """
    if not path.exists():
        return None
    try:
        text = read_regular(path, LARGEST).decode()
        found = json.loads(text)
        if not _is_whole(text):
            raise ValueError("its checksum is another")
        del found["sha256"]
        check(found, expected)
    except (ValueError, RecursionError) as error:
        if not path.exists():  # another writer has removed it since
            return None
        if isinstance(error, InvalidInput):
            raise
        raise _unusable(path, error) from None
    return found


def read_cache(path: Path, expected: Any) -> dict[str, Any]:
    """The content of a JSON file of the user's cache; nothing where there is none that is whole: it is made again."""
    try:
        return read_json(path, expected) or {}
    except InvalidInput:
        return {}


def _unusable(path: Path, reason: object) -> InvalidInput:
    return InvalidInput(f"{path}: damaged or another program's ({reason}); remove it and run the study again")


def read_study(path: Path) -> dict[str, Any] | None:
    """What study.json says, None where there is none: its cells and detections belong together and to its methods.

    Raises:
        InvalidInput: as of `read_json`.
    """
    found = read_json(path, STUDY)
    if found is None:
        return None
    try:
        check(json.loads(found["attributes"]["config"]), CONFIG, "attributes.config")
        axes = {name: {cell[name] for cell in found["cells"]} for name in ("attack", "ratio", "seed")}
        for one in (*found["cells"], *found["detections"]):
            if not 0 <= one["ratio"] <= 1 and one["ratio"] != math.inf:  # which says that nobody knows it
                raise ValueError(f"a ratio is {one['ratio']}")
            if "defense" in one and one["defense"] not in found["defenses"]:
                raise ValueError(f"nothing is said of the defense {one['defense']!r}")
            if not all(one[name] in values for name, values in axes.items()):
                raise ValueError("a detection belongs to no cell")
    except (ValueError, RecursionError) as error:
        raise _unusable(path, error) from None
    return found


def read_plan(path: Path) -> dict[str, Any] | None:
    """What plan.json says, None where there is none.

    Raises:
        InvalidInput: as of `read_json`.
    """
    return read_json(path, PLAN)


def read_marker(path: Path) -> dict[str, Any] | None:
    """What the marker of a checkpoint says, None where there is none any more.

    Raises:
        Damaged: it says what cannot be.
    """
    try:
        found = read_json(path, MARKER)
        if found is None:
            return None
        position = found["position"]
        lengths = {len(values) for epoch in position["curves"] for values in epoch.values()}
        lengths |= {len(position["finite"])} - {0}
    except Unreadable:
        raise
    except InvalidInput as error:
        raise Damaged(str(error)) from error
    if not found["jobs"] or lengths - {len(found["jobs"])}:
        raise Damaged(f"{path}: of {len(found['jobs'])} cells, but with curves of {sorted(lengths)}")
    return found
