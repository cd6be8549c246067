"""Models of a stored study as analyses ask them: one function of each, an audit's stages, and its figures."""

from collections.abc import Callable

import jax
import numpy as np

from bdjax.cells import functions
from bdjax.cells.functions import Cell, Shared
from bdjax.engine.stored import Models, Stored, opened, over_seeds
from bdjax.keys import root, stream
from bdjax.types import Given, Key, Net, PyTree, Trained

__all__ = ["Models", "Stored", "ask", "make_given", "measure", "opened", "over_seeds", "trained"]


def make_given(models: Models, cell: Cell, shared: Shared, needs: tuple[str, ...] = ()) -> Given:
    """What an analysis with these needs, or else the audit that models were opened for, is given of a cell."""
    return functions.make_given(models.group.scene, needs or models.group.needs, cell, shared)


def ask(study: Stored, needs: tuple[str, ...], function: Callable[[Key, Net, Given], PyTree]) -> PyTree:
    """`function(key, net, given)` of every model: leaves (seed, defense, ...) on the host.

    The key is that of the seed, whatever the defense. All seeds go through one program, one after the other, which
    gives each the bits that it gets alone; defenses that leave the network as it is share it.
    """
    programs: dict[str, Callable[[Cell], PyTree]] = {}

    def program(models: Models) -> Callable[[Cell], PyTree]:
        def one(cell: Cell, shared: Shared) -> PyTree:
            key = stream(root(cell.seed), "analysis")
            return function(key, models.group.net, make_given(models, cell, shared, needs))

        return over_seeds(models, one)

    columns = []
    for models in study.models.values():
        if models.group.key not in programs:
            programs[models.group.key] = program(models)
        columns.append(jax.device_get(programs[models.group.key](models.cells)))
    return jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *columns)


def trained(models: Models) -> Callable[[Cell], Trained]:
    """Runs the stages of the audit: cells -> what they leave, seed by seed, as the audit itself finds it in a study.

    Like `measure`, it serves the models of every defense with the same `group.key`.
    """
    group = models.group
    numbers = [group.streams(index) for index in range(len(group.stages))]

    def function(cell: Cell, shared: Shared) -> Trained:
        return functions.run_stages(group.scene, group.stages, group.needs, numbers, cell, shared)[0].left

    return over_seeds(models, function)


def measure(models: Models) -> Callable[[Cell, Trained], dict[str, np.ndarray]]:
    """The audit's figures: cells and what its stages left, of these models or of others -> figures, seed by seed."""
    group = models.group
    figures = functions.measure(group.scene, group.audit, group.needs, group.net)
    lifted = over_seeds(models, lambda cell, shared: figures((), cell, shared)[1])

    def function(cells: Cell, left: Trained) -> dict[str, np.ndarray]:
        return {name: np.asarray(value, float) for name, value in lifted(cells.replace(left=left)).items()}

    return function
