"""How long a study took by the clock, over all commands that worked on it.

One small file a command, DIR/times/*.json: several may work on a study at once, and none needs a lock.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bdjax.io.store.documents import NOTE, read_json, write_json


@contextlib.contextmanager
def timed(folder: Path) -> Iterator[None]:
    """Note when this command began and ended, whichever way it ends, if it added results to the study's folder.

    In seconds since 1970. A command that is killed outright leaves no note.
    """
    before, begun = _results(folder), time.time()
    try:
        yield
    finally:
        if _results(folder) != before:
            path = folder / "times" / f"{begun:.3f}-{os.getpid()}.json"
            path.parent.mkdir(exist_ok=True)
            write_json(path, {"begun": begun, "ended": time.time()})


def wall_seconds(folder: Path) -> float:
    """Seconds in which at least one command was at work on the study; 0 where none has left a note.

    Raises:
        InvalidInput: a note is damaged.
    """
    notes = [read_json(path, NOTE) for path in (folder / "times").glob("[!.]*.json")]
    total = end = 0.0
    for begun, ended in sorted((note["begun"], note["ended"]) for note in notes):
        total += max(0.0, ended - max(begun, end))
        end = max(end, ended)
    return total


def _results(folder: Path) -> int:
    """How many files of results there are; the study itself says what is wrong with a folder that cannot be read."""
    try:
        return sum(1 for _ in (folder / "results").glob("*.nc"))
    except OSError:
        return 0
