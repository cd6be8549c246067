"""Modules that register methods of a user's own."""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bdjax import attacks, audits, defenses, detection, models, selections
from bdjax.cards import Card, Method, Setting
from bdjax.errors import InvalidInput
from bdjax.study.hooks import misfit
from bdjax.types import Attack, Audit, Detector, Net, Selection, Stage

MADE = {
    "ATTACKS": Attack,
    "SELECTIONS": Selection,
    "DEFENSES": tuple,
    "AUDITS": Audit,
    "DETECTORS": Detector,
    "MODELS": Net,
}
"""What `make` of a registry's entries gives; a defense is a tuple of stages."""


def load(names: Iterable[str]) -> None:
    """Import modules, each by its dotted name, installed ones or files in the working folder.

    Raises:
        InvalidInput: there is no such module, or it raises.
    """
    names = tuple(names)
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that a file there shadows nothing
    for name in names:
        before = {kind: dict(registry) for kind, registry in _registries().items()}
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise InvalidInput(
                f"plugin {name!r}: {type(error).__name__}: {error}; give a module that can be imported"
            ) from error
        for kind, registry in _registries().items():
            for entry, method in list(registry.items()):
                if entry in before[kind] and before[kind][entry] is method:
                    continue
                try:
                    registry[entry] = _admitted(kind, entry, method, name)
                except InvalidInput:
                    del registry[entry]
                    raise


def check() -> None:
    """Refuse what was registered without a plugin, from Python, as `load` refuses what a plugin registers.

    Raises:
        InvalidInput: an entry is no method.
    """
    for kind, registry in _registries().items():
        for entry, method in list(registry.items()):
            if _wrong(method) or (owner(kind, method, entry) and not hasattr(method.make, "plugin")):
                registry[entry] = _admitted(kind, entry, method)


def _admitted(kind: str, entry: str, method: Any, plugin: str = "") -> Method:
    """A registry's entry that is not the library's, with a guarded `make` that knows the plugin it came with.

    Raises:
        InvalidInput: it is no method.
    """
    where = f"plugin {plugin!r}: {kind}[{entry!r}]" if plugin else f"{kind}[{entry!r}]"
    if wrong := _wrong(method):
        raise InvalidInput(f"{where} {wrong}; register a cards.Method")
    make = _guarded(method.make, MADE[kind], f"{where}.make")
    make.plugin = plugin
    return method._replace(make=make)


def owner(kind: str, method: Method | None, text: str) -> str:
    """Whose a method is, as errors name it; "" where it is the library's own.

    kind: the registry's name, such as ATTACKS. text: how the study writes the method.
    """
    if method is None or method.make.__module__.partition(".")[0] == "bdjax":
        return ""
    plugin = getattr(method.make, "plugin", "")
    named = f"{kind.lower().removesuffix('s')} {text!r}"
    return f"plugin {plugin!r}: {named}" if plugin else named


def _wrong(method: Any) -> str:
    """What is wrong with a registry's new entry, if anything."""
    if not isinstance(method, Method):
        return f"is of type {type(method).__name__}"
    if not isinstance(method.card, Card):
        return f"has a card of type {type(method.card).__name__}"
    settings = method.card.settings
    if not isinstance(settings, Mapping):
        return f"has a card with settings of type {type(settings).__name__}, not a dict of cards.Setting"
    for name, setting in settings.items():
        if not isinstance(setting, Setting):
            return f"has a card whose setting {name!r} is of type {type(setting).__name__}, not cards.Setting"
    return "" if callable(method.make) else f"has a make of type {type(method.make).__name__}"


def _guarded(make: Callable, kind: type, where: str) -> Callable:
    """A plugin's `make` whose errors, and results of another type, are refused in a line that says whose they are."""

    @functools.wraps(make)
    def guarded(*args, **static):
        try:
            made = make(*args, **static)
        except InvalidInput:
            raise
        except Exception as error:
            raise InvalidInput(f"{where}: {type(error).__name__}: {error}; mend the plugin") from error
        if not isinstance(made, kind) or (kind is tuple and not all(isinstance(one, Stage) for one in made)):
            wanted = "a tuple of types.Stage" if kind is tuple else f"a types.{kind.__name__}"
            raise InvalidInput(f"{where} returned a {type(made).__name__}; let it return {wanted}")
        if wrong := misfit(made):
            raise InvalidInput(f"{where} returned {wrong}")
        return made

    return guarded


def _registries() -> dict[str, dict[str, Any]]:
    return {
        "ATTACKS": attacks.ATTACKS,
        "SELECTIONS": selections.SELECTIONS,
        "DEFENSES": defenses.DEFENSES,
        "AUDITS": audits.AUDITS,
        "DETECTORS": detection.DETECTORS,
        "MODELS": models.MODELS,
    }
