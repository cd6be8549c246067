"""Checkpoints of a running chunk by orbax: the stacked state, where in which stage it stands, and its curves so far."""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.files import write_atomically
from bdjax.io.store.store import read_json
from bdjax.types import Array, PyTree


class Checkpoint:
    """The one running checkpoint of a chunk of cells.

    Two slots are written in turn and the marker names the whole one, so a kill in the middle of a write loses nothing.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()

    def save(self, state: PyTree, about: dict) -> None:
        """Write the state, a tree of arrays and typed random keys, and what it is, JSON-serialisable.

        Raises:
            OSError: the disk is full.
        """
        held = self.about()
        slot = 1 - held["slot"] if held else 0
        path = self.folder / str(slot)
        for left in self.folder.glob(f"{slot}*"):  # what a kill has left of a write included
            shutil.rmtree(left)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with _checkpointer() as checkpointer:
                checkpointer.save(path, jax.device_get(_numbered(jax.tree.map(_numbers, state))))
        except ValueError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        text = json.dumps(about | {"slot": slot})
        write_atomically(self.folder / "about.json", lambda marker: marker.write_text(text))

    def about(self) -> dict | None:
        """What the checkpoint is of; None where there is none.

        Raises:
            InvalidInput: its marker is damaged.
        """
        return read_json(self.folder / "about.json", ("slot",))

    def restore(self, like: PyTree) -> PyTree:
        """The state, in the shapes of `like`, on one device.

        Raises:
            InvalidInput: the checkpoint is damaged or of another shape.
        """
        path = self.folder / str(self.about()["slot"])
        shapes = jax.eval_shape(lambda tree: jax.tree.map(_numbers, tree), like)
        blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        try:
            with _checkpointer() as checkpointer:
                found = checkpointer.restore(path, _numbered(blank))
        except (ValueError, KeyError, OSError, TypeError) as error:
            reason = str(error).splitlines()[0][:100]
            raise InvalidInput(
                f"{self.folder}: not a checkpoint of this study ({reason}); remove that folder"
            ) from None
        leaves, structure = jax.tree.flatten(blank)
        leaves = [found.get(str(index), leaf) for index, leaf in enumerate(leaves)]
        state = jax.device_put(jax.tree.unflatten(structure, leaves), jax.local_devices()[0])
        return jax.tree.map(_typed, state, like)

    def remove(self) -> None:
        """Forget it: the chunk is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def sweep_up(folder: Path, done: Callable[[str], bool]) -> None:
    """Remove the checkpoints in `folder` whose jobs, named in what they are of, are all done: no chunk needs them."""
    for path, names in unfinished(folder):
        if all(map(done, names)):
            shutil.rmtree(path, ignore_errors=True)


def unfinished(folder: Path) -> list[tuple[Path, list[str]]]:
    """The checkpoints in `folder`, each with the jobs that it is of."""
    found = [(path.parent, read_json(path, ("jobs",))) for path in sorted(folder.glob("*/about.json"))]
    return [(path, about["jobs"]) for path, about in found if about]  # another writer may just have removed it


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
