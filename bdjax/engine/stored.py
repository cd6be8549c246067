"""The models of a stored study, one defense at a time and over seeds, with the data that each of them was made with."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bdjax.cells import functions, lift
from bdjax.cells.functions import Cell, Shared
from bdjax.engine import chunks
from bdjax.engine.programs import Context
from bdjax.engine.progress import Silent
from bdjax.errors import InvalidInput
from bdjax.io.store.store import Store
from bdjax.study.groups import Group, groups
from bdjax.study.jobs import Job, plan
from bdjax.study.stored import find, resolved
from bdjax.study.work import Work
from bdjax.types import Net


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
    found = find(folder)
    folder = found.store.folder
    cells = [cell for cell in found.cells if (cell["attack"], cell["ratio"]) == (attack, ratio)]
    if not cells:
        there = sorted({f"{cell['attack']} at {cell['ratio']:g}" for cell in found.cells})
        raise InvalidInput(f"{folder}: nothing of {attack} at {ratio:g}; it has {', '.join(there)}")
    chosen = {}
    for name, wanted in (("seed", tuple(seeds)), ("defense", tuple(defenses))):
        held = tuple(dict.fromkeys(cell[name] for cell in cells))
        missing = [str(one) for one in wanted if one not in held]
        if missing:
            raise InvalidInput(f"{folder}: no {name} {missing[0]}; choose from {', '.join(map(str, held))}")
        chosen[f"{name}s"] = wanted or held
    work = resolved(found._replace(cells=cells), **chosen, audits=(audit,) if audit else ())
    return Stored(chosen["seeds"], work.net, _models(work, found.store, audit))


def _models(work: Work, store: Store, audit: str) -> dict[str, Models]:
    planned = plan(work)
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
    context = Context(work, store, Silent(), {}, work.shared(), lambda: 0, 1)
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
