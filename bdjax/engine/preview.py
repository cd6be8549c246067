"""What a study comes to before it runs: what is there, what is missing, and about how long that will take."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from bdjax.cells import functions, lift, memory
from bdjax.cells.functions import Cell, Shared, scalars
from bdjax.engine import drivers
from bdjax.engine.forecast import Left, Times, left
from bdjax.engine.run import check_plan, is_done
from bdjax.errors import Damaged, InvalidInput
from bdjax.io.store import results
from bdjax.io.store.documents import read_plan, read_study
from bdjax.io.store.store import Store
from bdjax.models.parts import convolution
from bdjax.study import Study, index
from bdjax.study.groups import Group, groups
from bdjax.study.jobs import TRAINING, plan, share_of
from bdjax.study.resolve import resolve
from bdjax.study.work import Work


class Preview(NamedTuple):
    """A study, or a share of one, as it stands."""

    models: int
    finished: int  # of them
    prepares: dict[str, bool]  # attacks, as the study writes them, that prepare something: whether that is there
    driver: str
    left: list[Left]  # what each group lacks, in the order in which groups are done
    planned: int  # bytes that the largest group was compiled for; 0 where none was
    allowed: int  # bytes


def preview(study: Study, out: str | Path, share: tuple[int, int] = (1, 1)) -> Preview:
    """Look at what a run would do; nothing is trained or written but for the user's cache.

    Groups that have run on this machine take what they took; of others the rows of all steps are counted, and each
    takes what a row of plain training takes, which is measured now where it never was.

    Raises:
        InvalidInput: as of `engine.run.run`.
    """
    work, store = resolve(study), Store.at(out)
    store.refresh()
    jobs = share_of(plan(work).jobs, *share)
    grouped, found = groups(work, jobs), _found(store.folder)
    if store.folder.exists() and not store.folder.is_dir():
        raise InvalidInput(f"{store.folder}: no folder; give one, or where none is yet")
    path, there = store.folder / "plan.json", read_study(store.folder / "study.json")
    held = read_plan(path) or {}
    if held:
        check_plan(held, study.driver, path)
    if there:
        index.check(store, work, there)
    shared = work.shared()
    driver, form = (held["driver"], held["convolution"]) if held else drivers.choose(work, shared)

    def missing(group: Group) -> int:
        return sum(not is_done(job, found, store, study.keep_scores) for job in group.jobs)

    parts = left(grouped, missing, Times(driver))
    if any(part.guessed and part.missing for part in parts):
        with convolution.using(form):
            row = drivers.seconds_of_a_row(work, shared, driver, form)
        parts = [_counted(work, shared, part, row) for part in parts]
    models = [group for group in grouped if group.kind in TRAINING]
    total, absent = sum(len(group.jobs) for group in models), sum(map(missing, models))
    planned = [held["groups"][group.key]["bytes"] for group in grouped if group.key in held.get("groups", {})]
    allowed = memory.budget(study.memory, lift.devices(lift.mesh(driver, max(total, 1))))
    prepares = {group.jobs[0].attack: store.has_assets(group.assets) for group in grouped if group.assets}
    return Preview(total, total - absent, prepares, driver, parts, max(planned, default=0), allowed)


def _found(folder: Path) -> set[str]:
    """Addresses of all rows that can be read."""
    found: set[str] = set()
    for kind in results.KINDS:
        for path in results.shards(folder, kind):
            try:
                found |= set(results.read_shard(path))
            except Damaged:  # a run sets it aside and makes it again
                continue
    return found


def _counted(work: Work, shared: Shared, part: Left, row: float) -> Left:
    """A guess by the rows of all steps, each of which takes so many seconds; as it was where they cannot be counted."""
    if not part.guessed or not part.missing:
        return part
    try:
        return part._replace(cell=row * _rows(work, part.group, shared))
    except (TypeError, ValueError, AttributeError, KeyError):  # it needs what only a run prepares
        return part._replace(cell=0.0)


def _rows(work: Work, group: Group, shared: Shared) -> int:
    """Rows that all steps of a cell of a group take."""
    victim = jax.eval_shape(work.net.init, jax.random.key(0))
    job = group.jobs[0]
    attack = scalars(work.attacks[job.attack][0].traced) if job.attack is not None else {}
    models = {"victim": victim, "clean_model": victim, "backdoored": victim}
    cell = Cell(np.uint32(0), np.int32(job.count), attack, scalars(group.settings(job)), **models)
    cell = jax.eval_shape(lambda cell, shared: functions.draw(group.scene, cell, shared)[0], cell, shared)
    cell = cell.replace(left=functions.left_before(group.scene, cell))
    return functions.rows(group.scene, group.stages, group.needs, cell, shared)
