"""Modules that register methods of a user's own."""

import importlib
import os
import sys
from collections.abc import Iterable

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
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise InvalidInput(
                f"plugin {name!r}: {type(error).__name__}: {error}; give a module that can be imported"
            ) from error
