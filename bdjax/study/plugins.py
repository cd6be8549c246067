"""Modules that register methods of a user's own."""

import importlib
import os
import sys
from collections.abc import Iterable
from typing import Any

from bdjax import attacks, audits, defenses, detection, models, selections
from bdjax.cards import Method
from bdjax.errors import InvalidInput


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
            for entry, method in registry.items():
                if before[kind].get(entry) is not method and not isinstance(method, Method):
                    del registry[entry]
                    given = type(method).__name__
                    raise InvalidInput(
                        f"plugin {name!r}: {kind}[{entry!r}] is of type {given}; register a cards.Method"
                    )


def _registries() -> dict[str, dict[str, Any]]:
    return {
        "ATTACKS": attacks.ATTACKS,
        "SELECTIONS": selections.SELECTIONS,
        "DEFENSES": defenses.DEFENSES,
        "AUDITS": audits.AUDITS,
        "DETECTORS": detection.DETECTORS,
        "MODELS": models.MODELS,
    }
