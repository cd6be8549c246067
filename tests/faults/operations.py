"""I/O errors and kills at every operation by which a study changes its folder, by an audit hook of Python.

Opening for writing, renaming, making a folder and removing are counted, in whatever library they happen. What
tensorstore does in threads of its own while it writes a checkpoint is not seen; kills at random moments meet that.
A kill leaves the folder as it is: so the folder is copied before every operation of one run, and every copy has to
finish. Of the renames that put a file into its place some are killed in truth, in a process of their own.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from faults import common

TRIES = 10**6  # every operation, and a tenth of the kills in truth

EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
"""The audited events of operations that may change a folder."""


class Operations:
    """Counts the operations below a folder, and does something before each."""

    def __init__(self):
        self.folder, self.names = "", []
        self.before: Callable[[int, str, str], None] = lambda number, event, path: None
        sys.addaudithook(self._hook)

    def watch(self, folder: Path | None, before: Callable[[int, str, str], None] = lambda *_: None) -> None:
        """Count from 0 below another folder, or no longer."""
        self.folder, self.names, self.before = str(folder or ""), [], before

    def _hook(self, event: str, arguments: tuple) -> None:
        if event not in EVENTS or not self.folder or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        writes = event != "open" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if not writes or not path.startswith(self.folder) or path.endswith((".writer", "lock")):
            return
        self.names.append(f"{event} {os.path.relpath(path, self.folder)}")
        number, folder = len(self.names) - 1, self.folder
        self.folder = ""  # what is done now does not count
        try:
            self.before(number, event, path)
        finally:
            self.folder = self.folder or folder


def kill_at(at: int) -> Callable[[int, str, str], None]:
    """SIGKILL before operation number `at`, of a rename with half of the file written."""

    def before(number: int, event: str, path: str) -> None:
        if number == at:
            tear(event, path)
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def tear(event: str, path: str) -> None:
    """Leave half of a file that was to be renamed."""
    if event == "os.rename" and os.path.isfile(path):
        os.truncate(path, os.path.getsize(path) // 2)


def spread(count: int, most: int) -> list[int]:
    """At most so many of the first `count` numbers, evenly."""
    return sorted({index * count // min(most, count) for index in range(min(most, count))})


def run(tally, alone, tries: int, _seed: int) -> None:
    """Errors, copies and kills, each followed by a run that finishes."""
    hook, out = Operations(), alone.fresh()
    hook.watch(out)
    alone.run(out)
    names = hook.names
    shutil.rmtree(out)
    tally.tell(f"{len(names)} operations change the folder")
    chosen = spread(len(names), tries)
    for at in chosen:
        _fail(tally, alone, hook, at, names[at])
    for torn in (False, True):
        _copies(tally, alone, hook, torn, [at for at in chosen if not torn or names[at].startswith("os.rename")])
    placed = [at for at, name in enumerate(names) if name.startswith("os.rename") and "checkpoints" not in name]
    for at in (placed[index] for index in spread(len(placed), max(1, min(tries, len(names)) // 10))):
        _kill(tally, alone, at, names[at])


def _fail(tally, alone, hook: Operations, at: int, name: str) -> None:
    from bdjax.errors import InvalidInput

    def before(number: int, _event: str, path: str) -> None:
        if number == at:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    out = alone.fresh()
    with tally.trial("I/O error at an operation, then a run that finishes", name, out):
        hook.watch(out, before)
        try:
            alone.run(out)
        except (OSError, InvalidInput) as error:
            assert not isinstance(error, OSError) or (error.errno == errno.EIO and error.filename), error
        finally:
            hook.watch(None)
        alone.finishes(out)


def _copies(tally, alone, hook: Operations, torn: bool, chosen: list[int]) -> None:
    out, copies, wanted = alone.fresh(), {}, set(chosen)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()

    def before(number: int, event: str, path: str) -> None:
        if number not in wanted or not out.exists():
            return
        copy = shutil.copytree(out, alone.fresh())
        if torn:
            tear(event, str(copy / os.path.relpath(path, out)))
        for sign in copy.glob("claims/*.writer"):
            sign.write_text(f"{dead.pid} {sign.read_text().partition(' ')[2]}")
        copies[number] = hook.names[-1], copy

    hook.watch(out, before)
    alone.run(out)
    hook.watch(None)
    kind = "with half of a file written before its rename" if torn else "before an operation"
    for name, copy in copies.values():
        with tally.trial(f"folder as a kill leaves it {kind}, then a run that finishes", name, copy):
            alone.finishes(copy)
    shutil.rmtree(out)


def _kill(tally, alone, at: int, name: str) -> None:
    out = alone.fresh()
    with tally.trial("SIGKILL with half of a file written before its rename, then a run that finishes", name, out):
        with common.child(alone, out, kill_at=at) as process:
            assert process.wait(300) in (-signal.SIGKILL, 0)
        alone.finishes(out)
