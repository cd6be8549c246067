"""Pictures of an attack for the report: some test images and what its query makes of them, kept in DIR/samples."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bdjax import images, sources, sweep
from bdjax.io.store import Store, address
from bdjax.io.trees import load_tree, save_tree
from bdjax.stages import Cell, Scene, Shared
from bdjax.types import Data

COUNT = 64
"""Images an attack: some to be shown, all to measure how visible the trigger is."""


def keep(store: Store, scene: Scene, texts: list[str], cells: Cell, shared: Shared) -> None:
    """Store the pictures of each attack among `texts`, one a cell, that has none yet, as its first cell sees it."""
    for text in dict.fromkeys(texts):
        path = store.folder / "samples" / f"{address(text)}.safetensors"
        if path.exists():
            continue
        clean, triggered = jax.device_get(_pictures(scene, sweep.pick(cells, texts.index(text)), shared))
        save_tree(path, {"clean": clean, "triggered": triggered}, {"attack": text})


def _pictures(scene: Scene, cell: Cell, shared: Shared):
    label = np.asarray(shared.test.label)
    moved = np.flatnonzero(np.asarray(scene.attack.goal(jnp.asarray(label)) != label))
    rows = moved[np.linspace(0, len(moved) - 1, min(COUNT, len(moved))).astype(int)]

    @jax.jit
    def queried(test: Data, assets, trigger):
        source = sources.stamped(test, trigger, scene.attack.query, assets)
        return images.to_uint8(source.read(jnp.asarray(rows, jnp.int32)).image)

    return shared.test.image[rows], queried(shared.test, shared.assets, cell.poison.trigger)


def load(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The pictures in a study's folder: attack -> (clean, triggered), both uint8 (m, height, width, channels)."""
    found = {}
    for path in sorted((Path(folder) / "samples").glob("[!.]*.safetensors")):
        tree, about = load_tree(path)
        found[about["attack"]] = (tree["clean"], tree["triggered"])
    return found
