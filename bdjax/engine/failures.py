"""What goes wrong in one group is kept with its traceback, and the other groups go on."""

import re
import traceback
from pathlib import Path

from bdjax.errors import OUT_OF_MEMORY, InvalidInput, is_out_of_memory
from bdjax.study.groups import Group
from bdjax.study.jobs import Job


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
        self._folder.mkdir(exist_ok=True)
        self._path(group).write_text(f"{line}\n\n{''.join(traceback.format_exception(error))}", errors="replace")
        return line

    def forget(self, group: Group) -> None:
        """The group is done: what went wrong in an earlier run no longer matters."""
        self._path(group).unlink(missing_ok=True)

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

    def _path(self, group: Group) -> Path:
        return self._folder / f"{group.key}.txt"


def needed(job: Job) -> tuple[str, ...]:
    """Addresses of the models that a job reads."""
    return tuple(name for name in (job.model, job.clean_model, job.trigger, job.selection) if name)


def _line(error: Exception) -> str:
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    text = re.sub(r"\s+", " ", str(error)).strip()[:300]
    return text if isinstance(error, InvalidInput) else f"{type(error).__name__}: {text}"
