"""The user's cache folder, and users' files in the texts of a study.

Results name such files by their content and tell nothing of the folders that they lie in; the cache remembers those.
"""

import contextlib
import os
import re
import stat
from pathlib import Path

from bdjax.errors import InvalidInput

PORTABLE = re.compile("(.+)#([0-9a-f]{12})")


def home() -> Path:
    """The user's cache folder, made where it is missing, for the user alone: $XDG_CACHE_HOME/bdjax or ~/.cache/bdjax.

    Compiled programs are kept there, and whoever may write to it runs code as the user.

    Raises:
        InvalidInput: it cannot be made, or others may write to it.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "bdjax")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
    except RuntimeError:  # neither HOME nor an entry for this user
        raise InvalidInput("no home folder for a cache; set XDG_CACHE_HOME to a folder of your own") from None
    except OSError as error:
        raise InvalidInput(
            f"no cache folder at {str(folder)!r} ({error.strerror}); set XDG_CACHE_HOME to one"
        ) from error
    if stat.S_ISLNK(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidInput(
            f"cache folder {str(folder)!r} is a link, somebody else's or open to others; make it yours alone "
            "(chmod 700), or set XDG_CACHE_HOME to another"
        )
    return folder


def portable(path: str, digest: str) -> str:
    """A user's file or folder as results name it: the last part of its path, and twelve digits of what it holds.

    Where it lies is remembered in the user's cache, for `local`.
    """
    whole = os.path.abspath(os.path.expanduser(local(path)))
    with contextlib.suppress(OSError, InvalidInput):  # without a cache it has to be in the working folder
        remembered = home() / "paths" / digest[:12]
        remembered.parent.mkdir(exist_ok=True)
        remembered.write_text(whole)
    return f"{os.path.basename(whole)}#{digest[:12]}"


def local(text: str) -> str:
    """The path that a text means: itself, or of what `portable` gave the file in the working folder or where it lay."""
    found = PORTABLE.fullmatch(text)
    if not found or os.path.exists(text):
        return text
    name, digest = found.groups()
    with contextlib.suppress(OSError, InvalidInput):
        remembered = (home() / "paths" / digest).read_text()
        if not os.path.exists(name) and os.path.exists(remembered):
            return remembered
    return name
