"""Pictures of an attack for the report: some test images and what its query makes of them, kept in DIR/samples.

With them are the figures that its trained parts reach on held-out images, where its assets have some.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cells import lift
from bdjax.cells.functions import Cell, Scene, Shared
from bdjax.data import images, sources
from bdjax.data.poison import NO_ATTACK
from bdjax.errors import Damaged
from bdjax.io.store.pictures import read_sample
from bdjax.io.store.store import Store, address
from bdjax.io.store.trees import save_named
from bdjax.types import Data

COUNT = 64
"""Images an attack: some to be shown, all to measure how visible the trigger is."""


def keep(store: Store, scene: Scene, texts: list[str], counts: list[int], cells: Cell, shared: Shared) -> None:
    """Store the pictures of each attack among `texts`, one a cell, as its most poisoned cell sees it.

    counts: the poisoned rows of each cell, for a trigger that is learned with the victim is nothing where there are
    none. What is stored of a cell with as many is left. Nothing is stored where there is no trigger to put on an image.
    """
    if shared.queries is not None or scene.attack is NO_ATTACK:
        return
    for text in dict.fromkeys(texts):
        path = store.folder / "samples" / f"{address(text)}.safetensors"
        count, place = max((count, -place) for place, count in enumerate(counts) if texts[place] == text)
        if _stored(store, path) >= count:
            continue
        clean, triggered = jax.device_get(_pictures(scene, lift.pick(cells, -place), shared))
        found = shared.assets.get("figures", {}) if isinstance(shared.assets, dict) else {}
        figures = json.dumps({name: float(value) for name, value in found.items()})
        about = {"attack": text, "count": str(count), "figures": figures}
        save_named(path, {"clean": clean, "triggered": triggered}, about)


def _stored(store: Store, path: Path) -> int:
    """The poisoned rows of the cell whose pictures are stored; -1 where there are none."""
    try:
        return read_sample(path)[1] if path.exists() else -1
    except Damaged as error:
        store.set_aside(path, error)
        return -1


def _pictures(scene: Scene, cell: Cell, shared: Shared):
    label = np.asarray(shared.test.label)
    moved = np.flatnonzero(np.asarray(scene.attack.goal(jnp.asarray(label)) != label))
    rows = moved[np.linspace(0, len(moved) - 1, min(COUNT, len(moved))).astype(int)]

    @jax.jit
    def queried(test: Data, assets, trigger):
        source = sources.stamped(test, trigger, scene.attack.query, assets)
        return images.to_uint8(source.read(jnp.asarray(rows, jnp.int32)).image)

    return shared.test.image[rows], queried(shared.test, shared.assets, cell.poison.trigger)
