"""Full disks: small file systems in memory, where one may be mounted, and limits on the size of a file.

The run ends with an error that names the disk, what is finished stays, and on a larger disk a run finishes.
"""

import contextlib
import ctypes
import errno
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from faults import common

TRIES = 24


@contextlib.contextmanager
def small(folder: Path, size: int) -> Iterator[bool]:
    """A file system of so many bytes, where this user may make one."""
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={size}".encode()) == 0
    try:
        yield mounted
    finally:
        if mounted:
            libc.umount2(str(folder).encode(), 2)


def run(tally, alone, tries: int, seed: int) -> None:
    """Sizes evenly below what the study takes; of every other one the command's own line is looked at."""
    draw = random.Random(seed)
    taken = sum(path.stat().st_blocks * 512 for path in alone.out.rglob("*"))
    for number in range(tries):
        size = int(taken * (number + draw.random()) / tries) // 4096 * 4096 + 4096
        with small(alone.fresh(), size) as mounted:
            if not mounted:
                tally.tell("no file system can be mounted here")
                break
            folder = alone.home / f"out{alone._count}"
            (_command if number % 2 == 1 else _engine)(tally, alone, folder / "out", size)
    for _ in range(max(1, tries // 3)):
        _limited(tally, alone, draw.randrange(500, 60_000))


def _finish(alone, out: Path) -> None:
    moved = alone.fresh()
    if out.exists():
        shutil.copytree(out, moved)
    alone.finishes(moved)
    shutil.rmtree(moved)


def _engine(tally, alone, out: Path, size: int) -> None:
    with tally.trial("full disk, then a run that finishes on a larger one", f"{size} bytes"):
        try:
            alone.run(out)
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
        _finish(alone, out)


def _command(tally, alone, out: Path, size: int) -> None:
    with tally.trial("full disk: the command says so in one line", f"{size} bytes"):
        with common.child(alone, out) as process:
            err = process.communicate(timeout=300)[1]
        assert process.returncode in (0, 1), (process.returncode, err[-300:])
        if process.returncode:
            assert "the disk is full" in common.line(err)
        _finish(alone, out)


def _limited(tally, alone, size: int) -> None:
    out = alone.fresh()
    with tally.trial("limit on the size of a file: one line, then a run that finishes", f"{size} bytes", out):
        with common.child(alone, out, file_size=size) as process:
            err = process.communicate(timeout=300)[1]
        assert process.returncode in (0, 1), (process.returncode, err[-300:])
        if process.returncode:
            assert os.strerror(errno.EFBIG) in common.line(err)
        _finish(alone, out)
