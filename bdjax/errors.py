"""The errors that mean: what you gave cannot be used, and here is what can."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class InvalidInput(ValueError):
    """A value that the user gave cannot be used; the message says what was given, what is allowed and what to do.

    The command prints it as one line, `bdjax: ...`, and ends with status 2.
    """


class Damaged(InvalidInput):
    """A file of a study is not what was once written there. A study that runs sets it aside and makes it again."""


class Unreadable(InvalidInput):
    """A file cannot be read now, which says nothing of what is in it: an I/O error, no permission, too many files."""


def meant(given: str, known: Iterable[str]) -> str:
    """What to add to a message about a name that is not known: `; did you mean NAME?`, or nothing if none is near."""
    found = get_close_matches(given, list(known), n=1, cutoff=0.76)
    return f"; did you mean {found[0]}?" if found else ""


def choice(given: str, known: Iterable[str]) -> str:
    """What to add to a message about a name that is not known: the one that was meant, or all that there are."""
    known = list(known)
    return meant(given, known) or f"; choose from {', '.join(known)}"


OUT_OF_MEMORY = "out of memory; give fewer cells, a smaller --memory, a smaller batch or a narrower model"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or XLA by a RuntimeError of its own, found no more memory."""
    found = isinstance(error, RuntimeError) and re.search("RESOURCE_EXHAUSTED|Out of memory", str(error))
    return isinstance(error, MemoryError) or bool(found)
