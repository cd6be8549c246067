"""A study's folder: models by content address, claims by which several writers share the work, and small JSON files.

DIR/study.json      what was asked for, and where each cell's results are
DIR/plan.json       driver, convolution form and cells at a time, decided once
DIR/models/         one file a model, named by the hash of all that it depends on
DIR/results/        immutable shards
DIR/assets/         what an attack prepares once
DIR/samples/        pictures of each attack
DIR/checkpoints/    of stages that are running
DIR/claims/         who works on what; a claim whose writer is dead or silent is void
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bdjax.errors import Damaged, InvalidInput, Unreadable
from bdjax.io.files import NO_FILE, read_regular, set_aside
from bdjax.io.store import documents, remote
from bdjax.io.store.trees import load_named, load_trained, save_trained
from bdjax.types import PyTree, Trained

HEARTBEAT = 5.0
SILENCE = 60.0
"""Seconds between a writer's signs of life, and after which a silent one counts as dead."""

LOCK_POLL = 0.01
"""Seconds between two tries to take a lock."""

LOCK_PATIENCE = 3.0
"""Seconds of waiting for a lock after which a signal is answered: shorter ones end by themselves."""

UNWRITABLE = (*NO_FILE, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST)
LOCKLESS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""Errors that say that no folder can be made or written there, and that a file system has no locks."""

CONTESTED = 100
"""Tries to change a file of an object store that others change too."""

LONGEST = 1000
"""Bytes of a claim or of a writer's sign."""

TEMPORARY = re.compile(r"\.([0-9]+)-[0-9a-f]{8}(\.|$)")
"""The end of the name of a file that `write_atomically` has not put in its place, and the process that writes it."""


def address(identity: Any) -> str:
    """The content address of what `identity`, JSON-serialisable, describes: 24 hexadecimal digits."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _text(path: Path) -> str:
    """What a claim or a sign says: "" where there is none, or it is none that a writer has written.

    Raises:
        Unreadable: it is there, and reading it failed: what it claims is not free for that.
    """
    try:
        return read_regular(path, LONGEST).decode()
    except Unreadable:
        raise
    except ValueError:  # InvalidInput, or no text, or no name for a file
        return ""


class ClaimLost(Exception):
    """Another writer works on what this one had claimed, or has finished it."""


class Store:
    """A study's folder, open for one writer. Use it as a context manager.

    far: the object store that the folder mirrors, where it does.
    """

    def __init__(self, folder: Path, far: remote.Remote | None = None):
        self.folder, self.remote = folder, far
        self.writer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.heed: Callable[[], None] = lambda: None  # raises where this process was told to stop
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    @classmethod
    def at(cls, place: str | Path) -> "Store":
        """The store of a study's `out`: of a folder, or of the mirror of a place in an object store."""
        far = remote.of(place)
        return cls(far.folder if far else Path(place), far)

    def __enter__(self) -> "Store":
        try:
            for name in ("models", "results", "checkpoints", "claims", "assets", "samples", "scores", "suspects"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            self._live()
            self._sweep()
        except OSError as error:
            if error.errno not in UNWRITABLE:  # a full or failing disk
                raise
            raise InvalidInput(f"{self.folder}: {error.strerror}; give a folder that can be written") from None
        self.refresh()
        self._heart.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._heart.join()
        with self._locked():
            for claim in (self.folder / "claims").glob("*.claim"):
                owner = self._owner(claim)
                if owner is not None and (owner == self.writer or not self.is_alive(owner)):
                    claim.unlink()
            for sign in self._signs():
                if sign.stem == self.writer or not self.is_alive(sign.stem):
                    sign.unlink()

    def _sweep(self) -> None:
        """Remove the temporary files of writers that are dead: a kill between a write and its rename leaves them."""
        with self._locked():
            living = {(self._owner(sign) or "").partition(" ")[0] for sign in self._signs() if self.is_alive(sign.stem)}
            now = self._sign(self.writer).stat().st_mtime
            cut = [path for pattern in (".*.*-*", "*/.*.*-*") for path in self.folder.glob(pattern)]
            found = [(path, TEMPORARY.search(path.name)) for path in cut]
            left = [path for path, writer in found if writer and writer[1] not in living]
            left += (self.folder / "claims").glob("*.new")  # signs that were never put in their place
            for path in left:
                with contextlib.suppress(FileNotFoundError):  # a living writer has just put it in its place
                    if now - path.stat().st_mtime > SILENCE:
                        path.unlink()

    def _signs(self) -> list[Path]:
        return list((self.folder / "claims").glob("*.writer"))

    def _claim(self, name: str) -> Path:
        return self.folder / "claims" / f"{name}.claim"

    def _owner(self, claim: Path) -> str | None:
        """The writer that a claim names: "" where there is none, None where the claim cannot be read now."""
        try:
            return _text(claim)
        except Unreadable:
            return None

    def _sign(self, writer: str) -> Path:
        return self.folder / "claims" / f"{writer}.writer"

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                self._live()

    def _live(self) -> None:
        """Give a sign of life, whole at every moment: which process on which host this is."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._sign(self.writer))
            return
        new = self.folder / "claims" / f"{self.writer}.new"
        new.write_text(f"{os.getpid()} {socket.gethostname()}")
        new.replace(self._sign(self.writer))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.folder / "claims" / "lock"
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "w") as handle:
            try:
                self._wait_for(handle)
            except OSError as error:
                if error.errno not in LOCKLESS:
                    error.filename = str(path)
                    raise
                raise InvalidInput(
                    f"{self.folder}: its file system has no locks ({error.strerror}); give a folder on one that has"
                ) from error
            self._live()  # the time that others are judged by
            yield

    def _wait_for(self, handle) -> None:
        """Take the lock; who waits long for it says so, for its holder may be stopped."""
        begun = said = time.monotonic()
        while True:
            try:
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOCK_POLL)
            if time.monotonic() - begun > LOCK_PATIENCE:
                self.heed()
            if time.monotonic() - said > SILENCE:
                said = time.monotonic()
                text = "bdjax: %s: another process holds its lock; if that one is stopped, let it go on or end it"
                logging.getLogger("bdjax").warning(text, self.folder)

    def is_alive(self, writer: str) -> bool:
        """Whether a writer has given a sign of life lately and, on this host, its process is there."""
        try:
            process, host = _text(self._sign(writer)).split(maxsplit=1)
            if host == socket.gethostname():
                os.kill(int(process), 0)
            return abs(self._silence(writer)) < SILENCE  # a sign of the future is as old as its clock is wrong
        except (PermissionError, Unreadable):  # the process is there and somebody else's, or nobody can say
            return True
        except (OSError, ValueError, OverflowError):
            return False

    def _silence(self, writer: str) -> float:
        """Seconds between a writer's last sign and this one's, both by the file system's clock: hosts' may differ."""
        return self._sign(self.writer).stat().st_mtime - self._sign(writer).stat().st_mtime

    def writers(self) -> int:
        """How many writers are alive, this one among them."""
        self._live()
        return sum(self.is_alive(sign.stem) for sign in self._signs())

    def claim(self, names: list[str]) -> list[str]:
        """Take those of `names` that no living writer works on; they stay taken until `release` or the end."""
        taken = []
        with self._locked():
            for name in names:
                path = self._claim(name)
                owner = self._owner(path)
                if owner is None or (owner not in ("", self.writer) and self.is_alive(owner)):
                    continue
                path.unlink(missing_ok=True)  # it may be a link that somebody else has put there
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "w") as file:
                    file.write(self.writer)
                taken.append(name)
        return taken

    def check_claims(self, names: list[str]) -> None:
        """Go on only while all of `names` are still this writer's.

        Raises:
            ClaimLost: this writer was silent for so long that another one took them over.
        """
        for name in names:
            if _text(self._claim(name)) != self.writer:
                raise ClaimLost(name)

    def owner(self, names: list[str]) -> tuple[str, float] | None:
        """A living writer that works on one of `names`, and for how many seconds it has been silent; None if none."""
        self._live()
        for name in names:
            owner = self._owner(self._claim(name))
            with contextlib.suppress(OSError):
                if owner not in (None, self.writer) and self.is_alive(owner):
                    return owner, self._silence(owner)
        return None

    def release(self, names: list[str]) -> None:
        """Give claims back, but for those that another writer took over."""
        with self._locked():
            for name in names:
                path = self._claim(name)
                if self._owner(path) == self.writer:
                    path.unlink()

    def model_path(self, name: str) -> Path:
        """Where the model of that address is or will be."""
        return self.folder / "models" / f"{name}.safetensors"

    def assets_path(self, name: str) -> Path:
        """Where an attack's assets of that address are or will be."""
        return self.folder / "assets" / f"{name}.safetensors"

    def has_model(self, name: str) -> bool:
        """Whether the model is there; files appear whole or not at all."""
        return self._has(self.model_path(name))

    def has_assets(self, name: str) -> bool:
        """Whether the assets are there."""
        return self._has(self.assets_path(name))

    def scores_path(self, name: str) -> Path:
        """Where the scores of a detection are kept, where a study keeps them."""
        return self.folder / "scores" / f"{name}.safetensors"

    def has_scores(self, name: str) -> bool:
        """Whether the scores of a detection were kept."""
        return self.scores_path(name).exists()

    def save_model(self, name: str, trained: Trained, about: dict[str, str]) -> None:
        """Write a model with what it is, as text."""
        save_trained(self.model_path(name), trained, about)

    def load_model(self, name: str) -> Trained:
        """Read a model.

        Raises:
            Damaged: the file is not what was written; it is set aside, so the model is missing now.
            Unreadable: it is there, and reading it failed.
        """
        return self._read(load_trained, self.model_path(name))

    def load_assets(self, name: str) -> PyTree:
        """Read an attack's assets.

        Raises:
            Damaged: as of `load_model`.
        """
        return self._read(load_named, self.assets_path(name))

    def _has(self, path: Path) -> bool:
        return path.exists() or (self.remote is not None and self.remote.has(path))

    def _read(self, load: Callable[[Path], tuple[Any, dict[str, str]]], path: Path) -> Any:
        if self.remote:
            self.remote.fetch(path)
        try:
            return load(path)[0]
        except Unreadable:
            raise
        except InvalidInput as error:
            self.set_aside(path, error)
            raise Damaged(str(error)) from error

    def set_aside(self, path: Path, reason: object) -> None:
        """Rename what is damaged (see `files.set_aside`), and have it made again in the object store too."""
        set_aside(path, reason)
        if self.remote:
            self.remote.forget(path)

    def refresh(self) -> None:
        """Bring what is new in the object store, where the folder mirrors one."""
        if self.remote:
            self.remote.pull()

    def publish(self) -> None:
        """Put what is new into the object store, where the folder mirrors one."""
        if self.remote:
            self.remote.push()

    def update_json(
        self, name: str, read: Callable[[Path], dict[str, Any] | None], change: Callable[[dict | None], dict]
    ) -> dict:
        """Replace DIR/`name` by change(what `read` finds in it, None where there is none), one writer at a time.

        Raises:
            InvalidInput: what is there is damaged or something else.
        """
        path = self.folder / name
        with self._locked():
            for _ in range(CONTESTED):
                number, held = self._last(name, read) if self.remote else (0, read(path))
                content = json.loads(json.dumps(change(held)))  # as it is read: without tuples
                changed = content != held
                if changed and self.remote and not self.remote.commit(name, number + 1, documents.text_of(content)):
                    self.heed()
                    continue
                if changed or self.remote:
                    documents.write_json(path, content)
                return content
        raise OSError(errno.EIO, f"{name} is changed by others all the time", self.remote.url)

    def _last(self, name: str, read: Callable[[Path], dict[str, Any] | None]) -> tuple[int, dict | None]:
        """The number of the last file of that name in the object store, and what it says.

        Read from a copy of its own: the mirror's is replaced by whoever else reads the study on this machine.
        """
        number, content = self.remote.last(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            if content is not None:
                path.write_bytes(content)
            try:
                return number, read(path)
            except InvalidInput as error:
                raise InvalidInput(str(error).replace(str(path), f"{self.remote.url}/{name}")) from error
