"""The models of a stored study, one defense at a time and over seeds, with the data that each of them was made with."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cells import functions, lift
from bdjax.cells.functions import Cell, Shared
from bdjax.engine import chunks
from bdjax.engine.programs import Context
from bdjax.engine.progress import Silent
from bdjax.errors import InvalidInput
from bdjax.io.store import results
from bdjax.io.store.store import Store
from bdjax.keys import root, stream
from bdjax.study import Study, resolve
from bdjax.study.groups import Group, groups
from bdjax.study.jobs import Job, plan
from bdjax.types import Given, Key, Net, PyTree, Trained


class Models(NamedTuple):
    """What one defense of a study left, seed by seed."""

    group: Group  # the network, the attack and the audit, if any, that they are put to
    cells: Cell  # stacked over seeds, drawn: purified models as `victim`, and what the audit needs beside them
    shared: Shared


class Stored(NamedTuple):
    """Some cells of a study: one attack and ratio, some seeds and defenses."""

    seeds: tuple[int, ...]
    net: Net  # before any defense changed it
    models: dict[str, Models]  # defense -> its models

    @property
    def classes(self) -> int:
        """How many classes the data have."""
        return next(iter(self.models.values())).group.scene.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the images: height, width, channels."""
        return next(iter(self.models.values())).shared.test.image.shape[1:]


def opened(
    folder: str | Path, attack: str, ratio: float, defenses: Iterable[str], seeds: Iterable[int], audit: str = ""
) -> Stored:
    """Read models of a study.

    Args:
        folder: the study's `out`, a folder or a place in an object store.
        attack, ratio: coordinates in its results.
        defenses, seeds: further coordinates; () for all that the study has under that attack and ratio.
        audit: `name:setting=value`, of AUDITS: what its card needs is read beside the models; "" for the models alone.

    Raises:
        InvalidInput: the folder holds no such study or cells, or a model is missing.
    """
    store = Store.at(folder)  # only read, so it is not entered and nothing is claimed
    store.refresh()
    folder = store.folder
    index = results.read_index(folder)
    cells = [cell for cell in index["cells"] if (cell["attack"], cell["ratio"]) == (attack, ratio)]
    if not cells:
        there = sorted({f"{cell['attack']} at {cell['ratio']:g}" for cell in index["cells"]})
        raise InvalidInput(f"{folder}: nothing of {attack} at {ratio:g}; it has {', '.join(there)}")
    chosen = {}
    for name, wanted in (("seed", tuple(seeds)), ("defense", tuple(defenses))):
        held = tuple(dict.fromkeys(cell[name] for cell in cells))
        missing = [str(one) for one in wanted if one not in held]
        if missing:
            raise InvalidInput(f"{folder}: no {name} {missing[0]}; choose from {', '.join(map(str, held))}")
        chosen[f"{name}s"] = wanted or held
    fields = json.loads(index["attributes"]["config"])
    audits = (audit,) if audit else ()
    asked = Study(**fields | chosen | {"attacks": (attack,), "ratios": (ratio,), "audits": audits})
    resolved = resolve.resolve(asked)
    if resolved.base != index["base"]:
        raise InvalidInput(f"{folder}: made with other data or another network; run the study again first")
    return Stored(chosen["seeds"], resolved.net, _models(resolved, store, audit))


def _models(resolved: resolve.Work, store: Store, audit: str) -> dict[str, Models]:
    planned = plan(resolved)
    jobs = {job.address: job for job in planned.jobs}
    asked: dict[str, list[Job]] = {}
    for cell in planned.cells:
        job = jobs[cell["audits"][audit] if audit else cell["score"]]
        asked.setdefault(cell["defense"], []).append(job)
        for name in (job.model, job.clean_model, job.backdoored, job.trigger):
            if name and not store.has_model(name):
                what = f"{store.folder}: lacks the model of {cell['defense']} at seed {cell['seed']}"
                if audit:
                    raise InvalidInput(f"{what}, or one that {audit} compares it with; run the study with that audit")
                raise InvalidInput(f"{what}; run the study again")
    data = resolved.dataset
    shared = Shared(*(jax.tree.map(jnp.asarray, split) for split in (data.train, data.test)))
    context = Context(resolved, store, Silent(), {}, shared, lambda: 0, 1)
    return {defense: _ready(context, jobs) for defense, jobs in asked.items()}


def _ready(context: Context, jobs: list[Job]) -> Models:
    (group,) = groups(context.work, jobs)
    made = [chunks.ready_cell(context, group, job) for job in jobs]
    blank = Models(group, lift.stack([cell for cell, _ in made], len(jobs)), made[0][1])
    drawn = over_seeds(blank, lambda cell, shared: functions.draw(group.scene, cell, shared)[0])(blank.cells)
    if jobs[0].trigger:
        triggers = [context.store.load_model(job.trigger).carry for job in jobs]
        drawn = drawn.replace(poison=drawn.poison.replace(trigger=lift.stack(triggers, len(jobs))))
    return blank._replace(cells=drawn)


def over_seeds(models: Models, function: Callable[[Cell, Shared], Any]) -> Callable[[Cell], Any]:
    """`function(cell, shared)` for every seed, one after the other: cells -> results, both stacked, compiled once."""
    lifted = jax.jit(lift.batched(lambda state, cell, shared: (state, function(cell, shared)), "map"))
    return lambda cells: lifted((), cells, models.shared, cells.seed.shape[0])[1]


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
