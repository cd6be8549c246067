"""A study in an object store such as s3:// or gs://, worked on in a local folder.

Files that a study writes once, which are models, shards of results, assets, samples and scores, have names that say
what they hold. So writers that do different shares need no locks, which object stores have not: each puts its own files
there, none twice, and whoever reads finds all of them. Where two did the same work, the first one's files stand.
study.json and plan.json are changed by all: each change is a file of its own with the next number, which a store makes
for one writer only; who comes second reads again what is there, and changes that. The last two are kept.
"""

import contextlib
import errno
import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from bdjax.errors import InvalidInput
from bdjax.io.files import DAMAGED, write_atomically
from bdjax.paths import home

URL = re.compile("([a-z][a-z0-9+.-]+):/{1,2}(.+)")
"""What names an object store; a Path has only one of the two slashes left."""

NAME = re.compile("[a-z]+/[^./][^/]*")
"""Names in a store that are a study's; others are left alone, so that none leads out of the mirror."""

NUMBERED = {name: re.compile(rf"{name}\.(\d{{6,9}})\.json") for name in ("study", "plan")}
"""Names of the numbered files, by the name that the last of them has in the mirror."""

TRIES, PAUSE = 20, 0.1
"""How often the last of them is asked for where it is gone once it was listed, and seconds in between."""

LAZY = ("models", "assets")
"""Folders whose files are brought when they are asked for."""

ONCE = (*LAZY, "samples", "suspects", "scores", "times", "results")
"""Folders of files that are written once, in the order in which they are put there: a row of results comes last."""

ANEW = ("report.html", "results.csv", "results.parquet", "failures/*.txt")
"""Patterns of files that are replaced."""


class Remote:
    """A study's place in an object store, and the local folder that mirrors it."""

    def __init__(self, url: str):
        import fsspec

        self.url = url.rstrip("/")
        self.folder = home() / "studies" / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise InvalidInput(f"{self.url}: {error}") from error
        self._there: set[str] | None = None  # names in the store, relative to its root
        self._states: dict[str, tuple[int, int]] = {}  # of what was brought or put: time and size of the local file
        self._damaged: set[str] = set()  # names of files to be put again

    @contextlib.contextmanager
    def _reaching(self, passed: type[Exception] | tuple = ()) -> Iterator[None]:
        """Whatever a store's own library raises, but for `passed`, becomes an I/O error that names the store."""
        try:
            yield
        except passed:
            raise
        except Exception as error:
            raise OSError(errno.EIO, " ".join(str(error).split())[:200] or type(error).__name__, self.url) from error

    def pull(self) -> None:
        """See what is there, and bring what is not lazy and not here."""
        remembered = self._remembered()  # before listing: another process may put files there at the same time
        with self._reaching():
            self._files.invalidate_cache()
            found = self._files.find(self._root)
        names = (path.removeprefix(self._root).lstrip("/") for path in found)
        self._there = {name for name in names if NAME.fullmatch(name)} - self._damaged
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in remembered - self._there - self._damaged:  # somebody has removed it there
            (self.folder / name).unlink(missing_ok=True)
        for name in sorted(self._there):
            first = name.partition("/")[0]
            brought = first in ONCE and first not in LAZY and not (self.folder / name).exists()
            if brought or first == "failures":
                with contextlib.suppress(FileNotFoundError):  # it is gone since
                    self._get(name)
        for name in (f"{stem}.json" for stem in NUMBERED):
            content = self.last(name)[1]
            if content is None:
                (self.folder / name).unlink(missing_ok=True)
            else:
                write_atomically(self.folder / name, lambda new, content=content: new.write_bytes(content))
        self._remember()

    def last(self, name: str) -> tuple[int, bytes | None]:
        """The number of the last file of that name, study.json or plan.json, and what is in it; (0, None) for none."""
        for _ in range(TRIES):
            number = max(self._numbers(name), default=0)
            if not number:
                return 0, None
            content = self._read(name, number)
            if content is not None:
                return number, content
            time.sleep(PAUSE)  # others have written two more since
        raise OSError(errno.EIO, f"{self._numbered(name, number)} is listed and not there", self.url)

    def commit(self, name: str, number: int, text: str) -> bool:
        """Put a text there under that number, unless another writer was first; whether it was put."""
        content, failure = text.encode(), None
        try:
            self._files.pipe_file(f"{self._root}/{self._numbered(name, number)}", content, mode="create")
        except Exception as error:  # servers differ in how they say that another was first
            failure = error
        there, numbers = self._read(name, number), self._numbers(name)
        if there is None and failure is not None and max(numbers, default=0) < number:
            with self._reaching():
                raise failure
        if there != content:
            return False
        if max(numbers, default=0) > number:  # this writer slept so long that the number was free again
            self._remove(self._numbered(name, number))
            return False
        for old in sorted(numbers)[:-2]:
            self._remove(self._numbered(name, old))
        return True

    def _read(self, name: str, number: int) -> bytes | None:
        """What is in the file of that number; None where there is none."""
        try:
            with self._reaching(FileNotFoundError):
                return self._files.cat_file(f"{self._root}/{self._numbered(name, number)}")
        except FileNotFoundError:
            return None

    def _numbers(self, name: str) -> list[int]:
        with self._reaching():
            self._files.invalidate_cache()
            found = self._files.find(self._root, maxdepth=1)
        matched = (NUMBERED[Path(name).stem].fullmatch(path.removeprefix(self._root).lstrip("/")) for path in found)
        return [int(one[1]) for one in matched if one]

    def _numbered(self, name: str, number: int) -> str:
        return f"{Path(name).stem}.{number:06d}.json"

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._reaching(FileNotFoundError):  # another writer has removed it
            self._files.rm_file(f"{self._root}/{name}")

    def _remembered(self) -> set[str]:
        """Names that the store had when it was last reached."""
        path = self.folder / "there.txt"
        return set(filter(NAME.fullmatch, path.read_text().splitlines())) if path.exists() else set()

    def _remember(self) -> None:
        write_atomically(self.folder / "there.txt", lambda new: new.write_text("\n".join(sorted(self._there))))

    def has(self, path: Path) -> bool:
        """Whether the store holds the file that is or would be at a path of the mirror."""
        return self._name(path) in (self._there or ())

    def fetch(self, path: Path) -> None:
        """Bring a lazy file that the store has and the mirror lacks."""
        if self.has(path) and not path.exists():
            with contextlib.suppress(FileNotFoundError):  # who reads it will say that it is not there
                self._get(self._name(path))

    def fetch_all(self) -> None:
        """Bring every lazy file that the mirror lacks."""
        for name in sorted(self._there or ()):
            self.fetch(self.folder / name)

    def forget(self, path: Path) -> None:
        """Take the store's file at a path of the mirror for missing, because what was brought is damaged."""
        name = self._name(path)
        self._there.discard(name)
        self._damaged.add(name)

    def push(self) -> None:
        """Put there what is new or was made again here."""
        if self._there is None:
            self.pull()
        for part in ONCE:
            for path in sorted((self.folder / part).glob("[!.]*")):
                name = f"{part}/{path.name}"
                again = name in self._states and self._states[name] != _state(path)
                if path.suffix != DAMAGED and (name not in self._there or again):
                    self._put(name, anew=again or name in self._damaged)
        for path in [path for pattern in ANEW for path in sorted(self.folder.glob(pattern))]:
            name = self._name(path)
            if self._states.get(name) != _state(path):
                self._put(name, anew=True)
        for name in sorted(self._damaged):  # made again under another name
            self._remove(name)
        self._damaged.clear()
        for name in [name for name in self._there if name.startswith("failures/")]:
            if not (self.folder / name).exists():  # it was tried again and is done
                self._remove(name)
                self._there.remove(name)
        self._remember()

    def _name(self, path: Path) -> str:
        """What the store calls the file at a path of the mirror, below its root."""
        return path.relative_to(self.folder).as_posix()

    def _get(self, name: str) -> None:
        """Bring a file.

        Raises:
            FileNotFoundError: the store no longer has it.
        """
        path, source = self.folder / name, f"{self._root}/{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._reaching(FileNotFoundError):
            write_atomically(path, lambda new: self._files.get_file(source, str(new)))
        self._states[name] = _state(path)

    def _put(self, name: str, anew: bool) -> None:
        """Put a file there; one that is there by now stays, unless it is to be put anew."""
        path, target = self.folder / name, f"{self._root}/{name}"
        state = _state(path)
        with self._reaching():
            if anew or not self._files.exists(target):
                self._files.put_file(str(path), target)
        self._damaged.discard(name)
        self._there.add(name)
        self._states[name] = state


def _state(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size


def of(place: str | Path) -> Remote | None:
    """The object store that a place names; None for a path.

    Raises:
        InvalidInput: no such store is known, or the library that reaches it is not installed.
    """
    found = URL.fullmatch(str(place))
    if not found:
        return None

    import fsspec

    if found[1] in ("file", "local") or found[1] not in fsspec.available_protocols():
        raise InvalidInput(f"{found[1]}://{found[2]}: no object store; give s3://, gs:// or a path")
    return Remote(f"{found[1]}://{found[2]}")


def local(place: str | Path) -> Path:
    """The folder to read a study from: a path as it is; of an object store the mirror, up to date but for models."""
    far = of(place)
    if far is None:
        return Path(place)
    far.pull()
    return far.folder
