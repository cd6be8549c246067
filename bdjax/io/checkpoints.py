"""Checkpoints of a running chunk by orbax: the stacked state, where in which stage it stands, and its curves so far."""

import json
import logging
import shutil
from pathlib import Path

import jax

from bdjax.errors import InvalidInput
from bdjax.types import PyTree


class Checkpoint:
    """The one running checkpoint of a chunk of cells.

    Two slots are written in turn and the marker names the whole one, so a kill in the middle of a write loses nothing.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()

    def save(self, state: PyTree, about: dict) -> None:
        """Write the state, a tree of arrays, and what it is, JSON-serialisable."""
        held = self.about()
        slot = 1 - held["slot"] if held else 0
        path = self.folder / str(slot)
        shutil.rmtree(path, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        with _checkpointer() as checkpointer:
            checkpointer.save(path, state)
        marker = self.folder / "about.tmp"
        marker.write_text(json.dumps(about | {"slot": slot}))
        marker.replace(self.folder / "about.json")

    def about(self) -> dict | None:
        """What the checkpoint is of; None where there is none."""
        try:
            return json.loads((self.folder / "about.json").read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            raise InvalidInput(f"{self.folder}: a damaged checkpoint; remove that folder and run again") from None

    def restore(self, like: PyTree) -> PyTree:
        """The state, in the shapes of `like`, on one device.

        Raises:
            InvalidInput: the checkpoint is damaged or of another shape.
        """
        path = self.folder / str(self.about()["slot"])
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like)
        try:
            with _checkpointer() as checkpointer:
                return checkpointer.restore(path, shapes)
        except (ValueError, KeyError, OSError, TypeError) as error:
            reason = str(error).splitlines()[0][:100]
            raise InvalidInput(
                f"{self.folder}: not a checkpoint of this study ({reason}); remove that folder"
            ) from None

    def remove(self) -> None:
        """Forget it: the chunk is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _checkpointer():
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells each save and restore through absl
    import orbax.checkpoint

    return orbax.checkpoint.StandardCheckpointer()
