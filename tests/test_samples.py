"""Which cell's trigger is shown of an attack."""

import jax.numpy as jnp
import numpy as np

from bdjax.cells.functions import Cell, Scene, Shared
from bdjax.data.poison import NO_ATTACK
from bdjax.engine import samples
from bdjax.io.store.pictures import load_samples
from bdjax.types import Data, Poison


class Folder:
    """As much of a store as is needed."""

    def __init__(self, folder):
        self.folder = folder


def scene():
    attack = NO_ATTACK._replace(
        query=lambda assets, trigger, image, row: image + trigger["up"], goal=lambda label: 1 + 0 * label
    )
    return Scene(None, 2, 0, False, None, 0, 0, False, np.zeros(0, bool), attack)


def cells(*levels):
    up = jnp.array(levels) / 255
    return Cell(
        np.arange(len(levels), dtype=np.uint32),
        np.zeros(len(levels), np.int32),
        {},
        {},
        poison=Poison((), (), {"up": up}),
    )


def shown(folder):
    (found,) = load_samples(folder).values()
    return int((found.triggered.astype(int) - found.clean).max())


def test_the_most_poisoned_cell_is_shown_whatever_comes_first(tmp_path):
    test = Data(jnp.full((4, 2, 2, 3), 100, jnp.uint8), jnp.zeros(4, jnp.int32))
    (tmp_path / "samples").mkdir()

    def keep(counts, *levels):
        samples.keep(Folder(tmp_path), scene(), ["lira"] * len(levels), counts, cells(*levels), Shared(None, test))
        return shown(tmp_path)

    assert keep([0, 0], 0, 1) == 0
    assert keep([5, 20, 20, 10], 2, 3, 4, 5) == 3
    assert keep([20, 8], 6, 7) == 3  # as many: what is there stays
    assert keep([21], 8) == 8
