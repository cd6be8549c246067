"""Writing so that a reader sees the whole file or none, and names that are safe in a path."""

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from bdjax.errors import InvalidInput, Unreadable

DAMAGED = ".damaged"
"""How the names of files end that were set aside."""

NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENODEV, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors in opening a file that say that none is there; others may be gone at the next try."""

SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'|os error (\d+)")
"""The number of a system's error in what tensorstore says of it, and safetensors."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write(temporary path)` make a file and put it at `path` once it is whole and on disk.

    The temporary file lies beside `path`, hidden, with the same ending, and is removed where anything fails.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a write that fails does not say where
            error.filename = str(path)
        raise
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes; a pipe or a device would never end.

    Raises:
        InvalidInput: there is none, or it is something else or larger.
        Unreadable: it is there, and reading it failed.
    """
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise InvalidInput(f"{path}: no regular file; give one")
        if about.st_size > most:
            raise InvalidInput(f"{path}: {about.st_size:,} bytes; give a file of at most {most:,}")
        return Path(path).read_bytes()
    except OSError as error:
        if error.errno in NO_FILE:
            raise InvalidInput(f"{path}: {error.strerror}; give a file that can be read") from error
        raise unreadable(path, error.errno) from error


def system_error(error: Exception) -> int:
    """The number of the system's error that it was raised for, from any library; 0 where for none."""
    found = SYSTEM_ERROR.search(str(error))
    return int(found[1] or found[2]) if found else getattr(error, "errno", None) or 0


def unreadable(path: Path, number: int) -> Unreadable:
    """What to say of a file that is there and whose reading failed with that error of the system."""
    reason = os.strerror(number)
    return Unreadable(f"{path}: {reason}; nothing is lost, make it readable and run the same command again")


def set_aside(path: Path, reason: object) -> Path:
    """Rename what is damaged so that nobody reads it again and it can be looked at; say so in one line on stderr."""
    path = Path(path)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}{DAMAGED}")
    with contextlib.suppress(FileNotFoundError):  # another writer has just done so
        path.rename(aside)
    why = " ".join(str(reason).split())[:160]
    logging.getLogger("bdjax").warning("bdjax: %s: damaged (%s); kept as %s and made again", path, why, aside.name)
    return aside


def slug(text: str) -> str:
    """A file name for `text` of at most 77 of `a-z 0-9 . _ = -`, ending in a hash of `text` where that changed it."""
    kept = re.sub(r"[^a-z0-9._=-]+", "-", text.lower()).strip("-.")[:64]
    if kept == text and kept:
        return kept
    ending = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{kept}-{ending}".lstrip("-")


def check_memory(size: int, where: str) -> None:
    """Refuse arrays of `size` bytes that this machine could never hold.

    Raises:
        InvalidInput: more bytes than the machine has memory.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        given, most = size / 1e9, memory / 1e9
        raise InvalidInput(
            f"{where}: {given:,.0f} GB of arrays; this machine has {most:,.0f} GB of memory; use fewer images"
        )
