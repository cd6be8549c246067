"""What goes wrong in one group is kept with its traceback, and the other groups go on."""

import contextlib
import re
import traceback
from pathlib import Path

from bdjax.errors import OUT_OF_MEMORY, InvalidInput, is_out_of_memory
from bdjax.io.files import read_regular, write_atomically
from bdjax.io.store.store import address
from bdjax.study.groups import Group
from bdjax.study.jobs import Job

LARGEST = 2**24
"""Bytes of what is kept of a failure."""


class Failed(InvalidInput):
    """Some groups of a study failed and the others are done; raised from the first group's own error."""


class Failures:
    """The groups of a running study that failed, each in DIR/failures until a run finishes it."""

    def __init__(self, folder: Path):
        self._folder = folder / "failures"
        self._errors: dict[str, tuple[str, Exception]] = {}  # key -> (label: line, error)

    def __contains__(self, group: Group) -> bool:
        return group.key in self._errors

    def add(self, group: Group, error: Exception) -> str:
        """Keep an error with its traceback; what went wrong, in one line that names the group."""
        line = f"{group.label}: {_line(error)}"
        self._errors[group.key] = line, error
        names = [job.address for job in group.jobs]
        text = f"{line}\n\n{''.join(traceback.format_exception(error))}\n{' '.join(names)}\n"
        traceback.clear_frames(error.__traceback__)  # or they would hold the arrays of what failed
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{group.key}-{address(names)}.txt"
        write_atomically(path, lambda new: new.write_text(text, errors="replace"))
        return line

    def forget(self, group: Group, done: set[str]) -> None:
        """Remove what an earlier run said of a group, here or of another share, where all of those jobs are done."""
        for path in self._folder.glob(f"{group.key}-*.txt"):
            with contextlib.suppress(FileNotFoundError, InvalidInput):
                text = read_regular(path, LARGEST).decode(errors="replace")
                if done.issuperset(text.rstrip().rpartition("\n")[2].split()):
                    path.unlink()

    def lost(self, groups: list[Group]) -> set[str]:
        """Addresses that cannot come: those of failed groups, and of all that needs one of them."""
        found: set[str] = set()
        for group in groups:
            found |= {job.address for job in group.jobs if group in self or found.intersection(needed(job))}
        return found

    def check(self) -> None:
        """Say which groups failed.

        Raises:
            Failed: any did.
        """
        if not self._errors:
            return
        line, first = next(iter(self._errors.values()))
        others = f" (and {len(self._errors) - 1} more)" if len(self._errors) > 1 else ""
        text = f"{line}{others}; the rest is done, tracebacks are in {self._folder}, the same command tries again"
        raise Failed(text) from first


def needed(job: Job) -> tuple[str, ...]:
    """Addresses of the models that a job reads."""
    names = job.model, job.clean_model, job.backdoored, job.trigger, job.selection
    return tuple(name for name in names if name)


def _line(error: Exception) -> str:
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    text = re.sub(r"\s+", " ", str(error)).strip()[:300]
    return text if isinstance(error, InvalidInput) else f"{type(error).__name__}: {text}"
