"""One chunk of cells from its jobs to its files: drawn, taken through its stages, scored or audited."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdjax import metrics
from bdjax.cells import functions, lift
from bdjax.cells.functions import Cell, Shared, scalars
from bdjax.engine import detections, samples
from bdjax.engine.programs import Context
from bdjax.engine.signals import Interrupted
from bdjax.io.store import results
from bdjax.io.store.checkpoints import Checkpoint
from bdjax.io.store.store import address
from bdjax.io.store.trees import save_named
from bdjax.study import rehearsal
from bdjax.study.groups import Group
from bdjax.study.jobs import Job
from bdjax.train.descend import TAKEN
from bdjax.types import PyTree, Trained, Weights, real

CHECKPOINT_SECONDS = 120.0
CALL_SECONDS = 2.0
"""How often a running chunk is checkpointed, and how long one call of a compiled program should take."""


def run(context: Context, group: Group, jobs: list[Job]) -> None:
    """Do jobs of one group, at most its capacity of them, and write what they make."""
    context.progress.stage(group.label, len(jobs))
    if group.kind == "given":
        trained = [Trained(context.work.victims[job.attack].weights) for job in jobs]
        _keep(context, jobs, lift.stack(trained, len(jobs)), np.ones(len(jobs), bool), _Position())
        return
    cells, overlap, shared = _drawn(context, group, jobs)
    if group.kind == "score":
        _score(context, group, jobs, cells, shared, overlap)
        return
    if group.stages:
        cells = cells.replace(left=functions.left_before(group.scene, cells))
    stage_run = _Run(context, group, cells, shared, jobs)
    trained, finite = stage_run.run() if group.stages else (None, None)
    if group.kind == "audit":
        _audit(context, group, jobs, cells.replace(left=trained), shared)
    elif group.kind == "detect":
        _check_claims(context, jobs)
        detections.keep(context, group, jobs, stage_run.cells, shared, trained, stage_run.position.seconds)
    else:
        _check_claims(context, jobs)
        _keep(context, jobs, trained, finite, stage_run.position)
    stage_run.checkpoint.remove()


def _check_claims(context: Context, jobs: list[Job]) -> None:
    """Write nothing of a chunk that another writer has taken over."""
    context.store.check_claims([job.address for job in jobs])


def ready_cell(context: Context, group: Group, job: Job) -> tuple[Cell, Shared]:
    """A cell as it is before anything is drawn for it, and what its group reads."""
    return _cell(context, group, job), _shared(context, group)


def _cell(context: Context, group: Group, job: Job) -> Cell:
    work, store = context.work, context.store
    settings = work.attacks[job.attack][0].traced if job.attack is not None else {}
    cell = Cell(np.uint32(job.seed), np.int32(job.count), scalars(settings), scalars(group.settings(job)))
    models = {"victim": job.model, "clean_model": job.clean_model, "backdoored": job.backdoored}
    cell = cell.replace(**{name: store.load_model(model).weights for name, model in models.items() if model})
    if group.scene.searching or group.scene.select.search is None:
        return cell
    unsearched = np.zeros(context.shared.train.label.shape, real())
    return cell.replace(priority=store.load_model(job.selection).carry["priority"] if job.selection else unsearched)


def _shared(context: Context, group: Group) -> Shared:
    """What the cells of a group read; the attack's assets are made once and kept on disk."""
    if group.assets is None:
        return context.shared
    if group.assets not in context.assets:
        if not context.store.has_assets(group.assets):
            text = group.jobs[0].attack
            context.progress.stage(f"prepare {text}", 0)
            made = rehearsal.prepare(context.work, text, context.shared.train)
            save_named(context.store.assets_path(group.assets), made, {"attack": text})
        made = jax.tree.map(jnp.asarray, context.store.load_assets(group.assets))
        context.assets[group.assets] = lift.everywhere(made, context.mesh)
    return context.shared.replace(assets=context.assets[group.assets])


def _drawn(context: Context, group: Group, jobs: list[Job]) -> tuple[Cell, np.ndarray, Shared]:
    """The cells of a chunk, stacked, with their rows and poison; and the overlap of each."""
    shared = _shared(context, group)
    cells = lift.stack([_cell(context, group, job) for job in jobs], group.capacity)
    _, (cells, overlap) = group.programs["draw"]((), cells, shared, len(jobs))
    if jobs[0].trigger:
        triggers = [context.store.load_model(job.trigger).carry for job in jobs]
        cells = cells.replace(poison=cells.poison.replace(trigger=lift.stack(triggers, group.capacity)))
    return cells, np.asarray(overlap)[: len(jobs)], shared


@dataclass
class _Position:
    """Where in its stages a chunk stands."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    curves: list[dict[str, list[float]]] = field(default_factory=list)  # an epoch each: name -> a value a cell
    finite: list[bool] = field(default_factory=list)  # a cell each: whether no stage so far has diverged


class _Run:
    """The stages of one chunk, resumed where its checkpoint stands."""

    def __init__(self, context: Context, group: Group, cells: Cell, shared: Shared, jobs: list[Job]):
        self.context, self.group, self.cells, self.shared = context, group, cells, shared
        self.count, self.names = len(jobs), [job.address for job in jobs]
        name = address([group.key, group.capacity, context.driver, self.names])
        self.steps = group.steps
        self.checkpoint = Checkpoint(context.store.folder / "checkpoints" / name, context.store.writer)
        position, self.resumed = self.checkpoint.load(self._shapes) or ({}, None)
        self.position = _Position(**position)
        self.saved = time.perf_counter()
        self.length = 4  # steps a call, adapted to CALL_SECONDS

    def _shapes(self, position: dict[str, Any]) -> PyTree:
        """What a checkpoint at a position holds."""
        at, stages = _Position(**position), self.group.stages
        if at.epoch > stages[at.stage].epochs or at.step > self.steps[at.stage]:
            raise ValueError(f"no epoch {at.epoch} and step {at.step} in stage {at.stage}")
        return self.group.checkpoints[at.stage]

    def _call(self, kind: str, index: int, states: PyTree, *args: int):
        program = self.group.programs[f"{kind} {index}"]
        return program(states, self.cells, self.shared, self.count, self.group.streams(index), *args)

    def run(self) -> tuple[Trained, np.ndarray]:
        """All stages to their end: the trained cells, stacked, and which of them did not diverge."""
        trained = None
        for index in range(self.position.stage, len(self.group.stages)):
            carry = self._begin(index, trained)
            trained = None  # or what the stage took over would be held twice
            carry = self._epochs(index, carry)
            _, (trained, whole) = self._call("finish", index, carry)
            # A network that diverged on the way may have left something finite behind it, such as a split of the rows.
            so_far = self.position.finite or [True] * self.count
            self.position.finite = np.logical_and(so_far, np.asarray(whole)[: self.count]).tolist()
            self.position.stage, self.position.epoch, self.position.step = index + 1, 0, 0
        return trained, np.asarray(self.position.finite)

    def _begin(self, index: int, trained: Trained | None) -> PyTree:
        if trained is not None:
            self.cells = self.cells.replace(left=trained)
        if self.resumed is not None:
            (carry, left), self.resumed = self.resumed, None
            self.cells = self.cells.replace(left=left)
            return carry
        carry = self._call("begin", index, ())[1]
        self.cells = functions.begun(self.group.stages[index], self.cells)
        return carry

    def _epochs(self, index: int, carry: PyTree) -> PyTree:
        position, steps = self.position, self.steps[index]
        while position.epoch < self.group.stages[index].epochs:
            sums = carry[1]
            while position.step < steps:
                stop = min(steps, position.step + self.length)
                begun = time.perf_counter()
                carry, sums = self._call("advance", index, carry, position.epoch, position.step, stop)
                jax.block_until_ready(sums)
                self._took(time.perf_counter() - begun, stop - position.step)
                position.step = stop
                self._heed(carry)
            position.curves.append(_means(sums, steps, self.count))
            position.epoch, position.step = position.epoch + 1, 0
        return carry

    def _took(self, seconds: float, made: int) -> None:
        self.position.seconds += seconds
        longer = int(made * CALL_SECONDS / max(seconds, 1e-6))
        self.length = max(1, min(longer, 4 * self.length))
        share = self._share(made)
        self.context.progress.advanced(share, made * self.count)
        self.context.times.note(self.group, cell=self.position.seconds / share / self.count)
        self.context.expect(self.group, share * self.count)

    def _share(self, made: int) -> float:
        epochs = [stage.epochs for stage in self.group.stages]
        lengths = [epoch * steps for epoch, steps in zip(epochs, self.steps, strict=True)]
        position = self.position
        done = sum(lengths[: position.stage]) + position.epoch * self.steps[position.stage] + position.step + made
        return done / sum(lengths)

    def _heed(self, carry: PyTree) -> None:
        """Checkpoint when it is time to, or when the study was told to stop, which then it does."""
        told = self.context.told()
        if not told and time.perf_counter() - self.saved < CHECKPOINT_SECONDS:
            return
        self.context.store.check_claims(self.names)
        try:
            self.checkpoint.save((carry, self.cells.left), self.names, asdict(self.position))
        except Exception:  # swept up while this process was stopped, by the writer that did the chunk instead?
            self.context.store.check_claims(self.names)
            raise
        self.saved = time.perf_counter()
        if told:
            raise Interrupted(told)


def _means(sums: dict[str, jax.Array], steps: int, count: int) -> dict[str, list[float]]:
    """The means of an epoch's infos over the steps that were taken, a value a cell; NaN where none was."""
    sums = {name: np.asarray(value, float)[:count] for name, value in sums.items()}
    taken = sums.pop(TAKEN, np.full(count, steps, float))
    with np.errstate(invalid="ignore"):
        return {name: (value / taken).tolist() for name, value in sums.items()}


def _keep(context: Context, jobs: list[Job], trained: Trained, finite: np.ndarray, position: _Position) -> None:
    """Write a chunk's curves, then its models; a job is done once both are there."""
    status = np.where(finite, results.OK, results.DIVERGED).astype(np.int8)
    seconds = np.full(len(jobs), position.seconds / len(jobs))
    rows = {"address": [job.address for job in jobs], "seconds": seconds, "status": status}
    searched = jobs[0].kind == "select"  # of which only the priority is of use
    epochs = [] if searched else position.curves
    names = sorted({name for epoch in epochs for name in epoch})
    missing = [np.nan] * len(jobs)
    curves = {name: np.array([epoch.get(name, missing) for epoch in epochs]).T for name in names}
    results.write_shard(context.store.folder, "run", rows, curves)
    trained = jax.device_get(trained.replace(weights=Weights({}, {})) if searched else trained)
    for index, job in enumerate(jobs):
        about = {"kind": job.kind, "attack": job.attack, "defense": job.method, "seed": job.seed, "count": job.count}
        about = {name: str(value) for name, value in about.items() if value is not None}
        context.store.save_model(job.address, lift.pick(trained, index), about)
    context.progress.trained(len(jobs))


def _score(context: Context, group: Group, jobs: list[Job], cells: Cell, shared: Shared, overlap: np.ndarray) -> None:
    _, sums = group.programs["score"]((), cells, shared, len(jobs))
    sums = {name: np.asarray(value, float)[: len(jobs)] for name, value in sums.items()}
    with np.errstate(invalid="ignore"):  # where no image counts there is no ASR
        rates = {name: np.asarray(value) for name, value in metrics.rates(sums).items()}
    rows = {"address": [job.address for job in jobs], "overlap": overlap.astype(float)} | rates
    texts, counts = [job.attack for job in jobs], [job.count for job in jobs]
    _check_claims(context, jobs)
    samples.keep(context.store, group.scene, texts, counts, cells, shared)
    results.write_shard(context.store.folder, "score", rows)
    context.progress.scored(group.label, float(np.mean(rates["acc"])), float(np.mean(rates["asr"])))


def _audit(context: Context, group: Group, jobs: list[Job], cells: Cell, shared: Shared) -> None:
    _, found = group.programs["audit"]((), cells, shared, len(jobs))
    rows = {name: np.asarray(value, float)[: len(jobs)] for name, value in found.items()}
    _check_claims(context, jobs)
    results.write_shard(context.store.folder, "audit", {"address": [job.address for job in jobs]} | rows)
