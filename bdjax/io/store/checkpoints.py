"""Checkpoints of a running chunk by orbax: the stacked state, where in which stage it stands, and its curves so far."""

import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bdjax.errors import Damaged, Unreadable
from bdjax.io.checksums import checksum
from bdjax.io.files import DAMAGED, NO_FILE, set_aside, system_error, unreadable
from bdjax.io.store.documents import read_marker, write_json
from bdjax.types import Array, PyTree

PLACE = ("stage", "epoch", "step")
"""What of a position says how far a chunk has come."""


class Checkpoint:
    """The running checkpoint of a chunk of cells, of every writer its own: FOLDER/WRITER/TOKEN and a marker beside it.

    A state is written under a name that no other has, and then the marker names it, so a kill in the middle of a write
    loses nothing, and a writer that was stopped and wakes up cannot put its state or its marker over those of the
    writer that went on in its place.
    """

    def __init__(self, folder: Path, writer: str):
        self.folder = folder.resolve()
        self._own = self.folder / writer

    def save(self, state: PyTree, jobs: list[str], position: dict[str, Any]) -> None:
        """Write the state, a tree of arrays and typed random keys, of which jobs it is, and where in them it stands.

        Raises:
            OSError: the disk is full, or another error of the file system.
        """
        token = secrets.token_hex(8)
        arrays = jax.device_get(_numbered(jax.tree.map(_numbers, state)))
        self._own.mkdir(parents=True, exist_ok=True)
        try:
            with _checkpointer() as checkpointer:
                checkpointer.save(self._own / token, arrays)
        except ValueError as error:
            number = system_error(error)
            if not number:
                raise
            raise OSError(number, os.strerror(number), str(self._own / token)) from None
        about = {"jobs": jobs, "position": position, "state": token, "checksum": checksum(arrays)}
        write_json(self._own / "about.json", about)
        for left in self._own.iterdir():  # earlier states, and what a kill has left of a write
            if left.name not in (token, "about.json"):
                shutil.rmtree(left, ignore_errors=True)

    def load(self, like: Callable[[dict[str, Any]], PyTree]) -> tuple[dict[str, Any], PyTree] | None:
        """The position and state of whichever writer came furthest; None where there is no whole checkpoint.

        A damaged one is set aside under a name that ends in `.damaged`.

        Args:
            like: gives the shapes of the state that stands at a position, or raises where that cannot be one.

        Raises:
            Unreadable: one is there, and reading it failed.
        """
        found = sorted(_marked(self.folder.glob("*/about.json")), key=lambda one: _place(one[1]), reverse=True)
        for path, about in found:
            position = about["position"]
            try:
                return position, self._restore(path / about["state"], about["checksum"], like(position))
            except FileNotFoundError:  # its writer has just written the next one, or is done
                continue
            except Unreadable:
                raise
            except (ValueError, KeyError, OSError, TypeError, IndexError) as error:
                number = system_error(error)
                if number not in (0, *NO_FILE):
                    raise unreadable(path, number) from error
                set_aside(path, error)
        return None

    def _restore(self, path: Path, expected: str, like: PyTree) -> PyTree:
        """The state at `path`, in the shapes of `like`, on one device."""
        shapes = jax.eval_shape(lambda tree: jax.tree.map(_numbers, tree), like)
        blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        found = _read(path, expected, _numbered(blank))
        leaves, structure = jax.tree.flatten(blank)
        leaves = [found.get(str(index), leaf) for index, leaf in enumerate(leaves)]
        state = jax.device_put(jax.tree.unflatten(structure, leaves), jax.local_devices()[0])
        return jax.tree.map(_typed, state, like)

    def remove(self) -> None:
        """Forget this writer's: the chunk is done. Those that others have left are for `sweep_up`."""
        shutil.rmtree(self._own, ignore_errors=True)
        _remove_empty(self.folder)


def check(path: Path) -> None:
    """Read a writer's checkpoint, a folder, for whether it is whole.

    Raises:
        Damaged: it is not.
        Unreadable: it is there, and reading it failed.
    """
    about = read_marker(path / "about.json")
    try:
        if about:
            _read(path / about["state"], about["checksum"])
    except Exception as error:  # whatever orbax and tensorstore answer
        if isinstance(error, FileNotFoundError) and read_marker(path / "about.json") != about:
            return  # its writer has just written the next one, or is done
        if system_error(error) not in (0, *NO_FILE):
            raise unreadable(path, system_error(error)) from error
        raise Damaged(f"{path}: a damaged checkpoint ({' '.join(str(error).split())[:80]}); remove it") from error


def _read(path: Path, expected: str, like: dict[str, Array] | None = None) -> dict[str, Array]:
    """The arrays at `path` whose checksum is expected."""
    if not path.is_dir():
        raise FileNotFoundError(path)
    with _checkpointer() as checkpointer:
        found = checkpointer.restore(path, like)
    if checksum(found) != expected:
        raise ValueError(f"{path}: the checksum is another")
    return found


def _place(about: dict[str, Any]) -> tuple[int, ...]:
    return tuple(about["position"][name] for name in PLACE)


def sweep_up(folder: Path, done: Callable[[str], bool], alive: Callable[[str], bool]) -> None:
    """Remove the checkpoints in `folder` that no chunk needs.

    Those are the ones that no living writer has, and whose jobs are all done or which have no marker.
    """
    marked = dict(unfinished(folder))
    for path in sorted(folder.glob("*/*")):
        unread = path not in marked and (path / "about.json").exists()  # it may be readable another time
        if path.suffix != DAMAGED and not unread and not alive(path.name) and all(map(done, marked.get(path, ()))):
            shutil.rmtree(path, ignore_errors=True)
    for path in sorted(folder.glob("*")):
        _remove_empty(path)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is not empty, or gone
        folder.rmdir()


def unfinished(folder: Path) -> list[tuple[Path, list[str]]]:
    """The checkpoints in `folder`, of every writer of every chunk, each with the jobs that it is of."""
    return [(path, about["jobs"]) for path, about in _marked(sorted(folder.glob("*/*/about.json")), patient=True)]


def _marked(paths: Iterable[Path], patient: bool = False) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of writers with a whole marker, and what it says; one whose marker is damaged is set aside.

    patient: leave out those that cannot be read now.
    """
    for path in paths:
        if path.parent.suffix == DAMAGED:
            continue
        try:
            about = read_marker(path)
        except Damaged as error:
            set_aside(path.parent, error)
            continue
        except Unreadable:
            if not patient:
                raise
            continue
        if about:
            yield path.parent, about


def _numbered(state: PyTree) -> dict[str, Array]:
    """The leaves by their place, as orbax takes them: without the types that hold them and without empty arrays."""
    return {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(state)) if leaf.size}


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _numbers(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _typed(leaf: Array, like) -> Array:
    return jax.random.wrap_key_data(leaf, impl="threefry2x32") if _is_key(like) else leaf


def _checkpointer():
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax tells each save, and each failure at length
    import orbax.checkpoint
    from orbax.checkpoint.options import MultiprocessingOptions

    # In a cluster, too, a process writes what is its own and waits for no other. Not orbax's asynchronous writer: its
    # threads signal by keys that all processes of a cluster share, so one can take another's answer and wait for ever.
    own = jax.process_index()
    alone = MultiprocessingOptions(primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}")
    handler = orbax.checkpoint.StandardCheckpointHandler(multiprocessing_options=alone)
    return orbax.checkpoint.Checkpointer(handler, multiprocessing_options=alone)
