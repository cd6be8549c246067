"""A study's folder: models by content address, claims by which several writers share the work, and small JSON files.

DIR/study.json      what was asked for, and where each cell's results are
DIR/plan.json       driver, convolution form and cells at a time, decided once
DIR/models/         one file a model, named by the hash of all that it depends on
DIR/results/        immutable shards
DIR/checkpoints/    of stages that are running
DIR/claims/         who works on what; a claim whose writer is dead or silent is void
"""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bdjax.errors import InvalidInput
from bdjax.io.files import write_atomically
from bdjax.io.trees import load_trained, save_trained
from bdjax.types import Trained

HEARTBEAT = 5.0
SILENCE = 60.0
"""Seconds between a writer's signs of life, and after which a silent one counts as dead."""


def address(identity: Any) -> str:
    """The content address of what `identity`, JSON-serialisable, describes: 24 hexadecimal digits."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Store:
    """A study's folder, open for one writer. Use it as a context manager."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.writer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._stop = threading.Event()

    def __enter__(self) -> "Store":
        try:
            for name in ("models", "results", "checkpoints", "claims"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise InvalidInput(f"{self.folder}: {error.strerror}; give a folder that can be written") from None
        self._sign().write_text(f"{os.getpid()} {socket.gethostname()}")
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        with self._locked():
            for claim in (self.folder / "claims").glob("*.claim"):
                if claim.read_text() == self.writer:
                    claim.unlink()
        self._sign().unlink(missing_ok=True)

    def _sign(self, writer: str | None = None) -> Path:
        return self.folder / "claims" / f"{writer or self.writer}.writer"

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                self._sign().touch()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / "claims" / "lock", "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _alive(self, writer: str) -> bool:
        sign = self._sign(writer)
        try:
            process, host = sign.read_text().split(maxsplit=1)
            if host == socket.gethostname():
                os.kill(int(process), 0)
            return time.time() - sign.stat().st_mtime < SILENCE
        except PermissionError:  # the process is there and somebody else's
            return True
        except (OSError, ValueError):
            return False

    def claim(self, names: list[str]) -> list[str]:
        """Take those of `names` that no living writer works on; they stay taken until `release` or the end."""
        taken = []
        with self._locked():
            for name in names:
                path = self.folder / "claims" / f"{name}.claim"
                owner = path.read_text() if path.exists() else ""
                if owner not in ("", self.writer) and self._alive(owner):
                    continue
                path.write_text(self.writer)
                taken.append(name)
        return taken

    def release(self, names: list[str]) -> None:
        """Give claims back."""
        for name in names:
            (self.folder / "claims" / f"{name}.claim").unlink(missing_ok=True)

    def model_path(self, name: str) -> Path:
        """Where the model of that address is or will be."""
        return self.folder / "models" / f"{name}.safetensors"

    def has_model(self, name: str) -> bool:
        """Whether the model is there; files appear whole or not at all."""
        return self.model_path(name).exists()

    def save_model(self, name: str, trained: Trained, about: dict[str, str]) -> None:
        """Write a model with what it is, as text."""
        save_trained(self.model_path(name), trained, about)

    def load_model(self, name: str) -> Trained:
        """Read a model.

        Raises:
            InvalidInput: the file is damaged.
        """
        return load_trained(self.model_path(name))[0]

    def update_json(self, name: str, change) -> Any:
        """Replace DIR/`name` by change(its content, None where there is none), one writer at a time."""
        with self._locked():
            value = change(read_json(self.folder / name))
            text = json.dumps(value, indent=1)
            write_atomically(self.folder / name, lambda path: path.write_text(text))
        return value


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where there is none.

    Raises:
        InvalidInput: it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidInput(f"{path}: not JSON ({error}); remove it and run the study again") from None
