"""Running a study: groups in order, chunk by chunk, each kept on disk before the next begins."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import xarray as xr

from bdjax.cells import lift, memory
from bdjax.engine import chunks, compiled, drivers, forecast, programs, signals
from bdjax.engine import progress as progresses
from bdjax.engine.failures import Failed, Failures, needed
from bdjax.engine.programs import Context
from bdjax.engine.progress import Progress
from bdjax.engine.signals import Interrupted
from bdjax.errors import Damaged, InvalidInput, Unreadable
from bdjax.io.store import results
from bdjax.io.store.checkpoints import sweep_up, unfinished
from bdjax.io.store.documents import read_plan
from bdjax.io.store.store import ClaimLost, Store
from bdjax.models.parts import convolution
from bdjax.study import Study, index
from bdjax.study.groups import Group, groups
from bdjax.study.jobs import TRAINING, Job, plan, share_of
from bdjax.study.resolve import resolve
from bdjax.study.work import Work

POLL_SECONDS = 1.0
"""How often a writer that has nothing to do looks whether another one has finished."""

EXPECT_SECONDS = 5.0
"""How often it says how long the rest will take."""

WAITING = 60
"""After so many looks in vain it says for whom it waits, and again after as many."""


def run(
    study: Study,
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
    share: tuple[int, int] = (1, 1),
) -> xr.Dataset:
    """Run what is missing of a study and return all of it.

    Args:
        study: what is asked for.
        out: the study's folder, or a place in an object store such as s3://bucket/study, to which writers must do
            different shares; what is finished there is not done again. None keeps nothing on disk.
        progress: who is told what happens: None, whoever looks on in a terminal or a notebook; True, a log too; False,
            nobody; or your own `bdjax.engine.progress.Progress`.
        share: (3, 16) does the third of sixteen shares of the work, which are the same ones always: a scheduler's tasks
            do one each, in one folder, and a task that is run again does what it lacks.

    Returns:
        As `bdjax.load`: all that there is by then, of other shares too.

    Raises:
        InvalidInput: something in the study or in the folder cannot be used; nothing has been trained then.
        Failed: something went wrong in some groups of cells; the others are done, and all that is there can be loaded.
        Interrupted: SIGINT or SIGTERM came; the same call goes on from there.
    """
    if not isinstance(study, Study):
        raise InvalidInput(f"study: {study!r:.80}; give a bdjax.Study")
    if out is not None and not (isinstance(out, str | Path) and str(out)):
        raise InvalidInput(f"out: {out!r}; give the path of a folder, or None to keep nothing")
    if not 1 <= share[0] <= share[1]:
        raise InvalidInput(f"share {share[0]}/{share[1]}; give one of 1/{share[1]} to {share[1]}/{share[1]}")
    told = progresses.of(progress)
    compiled.keep()
    work = resolve(study)
    if out is not None:
        return run_resolved(work, Store.at(out), told, share)
    with temporary() as folder:
        return run_resolved(work, Store(folder), told, share)


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A folder for a study that keeps nothing; it stays where groups have failed, for the error names what is there."""
    folder, kept = Path(tempfile.mkdtemp(prefix="bdjax-")), False
    try:
        yield folder
    except Failed:
        kept = True
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def run_resolved(work: Work, store: Store, progress: Progress, share: tuple[int, int] = (1, 1)) -> xr.Dataset:
    """Run what is missing of a study that is resolved, in its store; as of `run`."""
    planned = plan(work)
    with store, signals.noted(progress.stopping) as told:
        try:
            runner = _Runner(work, share_of(planned.jobs, *share), store, progress, told)
            runner.begin()
            index.enter(store, work, planned)
            store.publish()
            runner.run()
        finally:
            progress.end()
        if told:  # it came while all was done
            raise Interrupted(told[0])
    store.refresh()  # with what other shares have put there since
    return results.load(store.folder)


def is_done(job: Job, found: set[str], store: Store, keep_scores: bool) -> bool:
    """Whether a job's row is among those found, and its file there where it makes one."""
    if job.kind == "detect" and keep_scores and not store.has_scores(job.address):
        return False
    return job.address in found and (job.kind not in TRAINING or store.has_model(job.address))


def check_plan(held: dict, driver: str, path: Path) -> None:
    """Refuse a plan.json that says what cannot be, or another driver than a study asks for.

    Raises:
        InvalidInput: says which.
    """
    if driver not in ("auto", held["driver"]):
        raise InvalidInput(f"driver {driver}; {path} says {held['driver']}; give that or auto, or remove the file")
    if held["driver"] not in lift.DRIVERS:
        raise InvalidInput(f"{path}: no driver {held['driver']!r}; remove the file")
    if held["convolution"] not in convolution.FORMS:
        raise InvalidInput(f"{path}: no form of convolution {held['convolution']!r}; remove the file")


class _Runner:
    """The state of a running study."""

    def __init__(self, work: Work, jobs: list[Job], store: Store, progress: Progress, told: list[int]):
        shared = work.shared()
        self.store = store
        store.heed = self._heed
        self.groups = groups(work, jobs)
        trained = (len(group.jobs) for group in self.groups if group.kind in TRAINING)
        usual = min(programs.LARGEST, max(trained, default=1))
        self.context = Context(work, store, progress, {}, shared, lambda: told[0] if told else 0, usual)
        self.context.expect = self._expect
        self.found: set[str] = set()  # addresses of all rows that are on disk
        self.read: set[Path] = set()  # shards that they were read from
        self.failures = Failures(store.folder)
        self._expected = -EXPECT_SECONDS  # when it was last told how long the rest will take

    def begin(self) -> None:
        """See what is there, and decide how cells are batched."""
        self._look()
        models = [job for group in self.groups if group.kind in TRAINING for job in group.jobs]
        self.context.progress.begin(len(models), sum(map(self._done, models)))
        self.context.plan = self.store.update_json("plan.json", read_plan, self._planned)
        self.context.times = forecast.Times(self.context.driver)
        self._expect()
        self._compare_threads(self.context.plan["threads"], lift.threads())
        self.context.shared = lift.everywhere(self.context.shared, self.context.mesh)

    def _planned(self, held: dict | None) -> dict:
        """plan.json: the driver is decided once; what each group needs is added as it is compiled.

        Raises:
            InvalidInput: the study asks for another driver than the folder's.
        """
        if held:
            check_plan(held, self.context.work.study.driver, self.store.folder / "plan.json")
            return held
        self.context.progress.stage("choosing a driver", 0)
        driver, form = drivers.choose(self.context.work, self.context.shared, self._heed)
        return {"driver": driver, "convolution": form, "threads": lift.threads(), "groups": {}, "held": {}}

    def _compare_threads(self, first: int, now: int) -> None:
        """Say where results that are added will not have the bits that they would have had there."""
        if first != now:
            cure = f"; NPROC={first} in the environment prevents it" if jax.local_device_count() <= first else ""
            text = f"the study was begun with {first} CPU threads and goes on with {now}, which changes last bits{cure}"
            self.context.progress.note(text)

    def run(self) -> None:
        """Do all jobs that are not done, sharing them with other writers of the folder."""
        beside = memory.before()
        try:
            with convolution.using(self.context.plan["convolution"]):
                self._run()
        except BaseException:
            with contextlib.suppress(Exception):  # which would hide what went wrong
                self._weigh(beside)
            raise
        finally:
            with contextlib.suppress(OSError, InvalidInput):  # a cache
                self.context.times.save()
        self._weigh(beside)

    def _expect(self, running: Group | None = None, done: float = 0.0) -> None:
        """Tell how long what is left will take; of the running chunk so many cells are done."""
        if running and time.monotonic() - self._expected < EXPECT_SECONDS:
            return
        self._expected = time.monotonic()
        lost = self.failures.lost(self.groups)

        def missing(group: Group) -> int:
            return sum(job.address not in self.found and job.address not in lost for job in group.jobs)

        parts = forecast.left(self.groups, missing, self.context.times)
        left = forecast.seconds(parts) - (done * self.context.times.of(running).cell if running else 0.0)
        guessed = any(part.guessed and part.missing for part in parts)
        if running or not guessed:  # before anything has run a guess has nothing to go by
            self.context.progress.expect(left, guessed)

    def _weigh(self, beside: int) -> None:
        """Note how much memory was planned and how much was held, of the writer that held the most."""
        used = [group.key for group in self.groups if group.capacity and group.kind != "given"]  # which plans nothing
        if not used:
            return
        planned = beside + max(self.context.plan["groups"][key]["bytes"] for key in used)
        held = {"planned": planned, "held": memory.peak()}

        def change(plan: dict | None) -> dict:
            plan = plan or self.context.plan  # somebody has removed the file
            return plan | {"held": max(plan["held"], held, key=lambda one: one.get("held", 0))}

        self.store.update_json("plan.json", read_plan, change)

    def _run(self) -> None:
        waited = 0
        while self._left():
            worked = any([self._run_group(group) for group in self._round()])
            waited = 0 if worked else waited + 1
            if not worked:
                self._wait(waited)
        self._heed()
        missing = {job.address for group in self.groups for job in group.jobs if not self._done(job)}
        done = (self.found - missing).__contains__
        sweep_up(
            self.store.folder / "checkpoints",
            done,
            lambda name: name != self.store.writer and self.store.is_alive(name),
        )
        self.store.publish()
        self._heed()
        self.failures.check()

    def _left(self) -> list[str]:
        """Addresses that are missing and can still come."""
        lost = self.failures.lost(self.groups)
        jobs = [job for group in self.groups for job in group.jobs]
        return [job.address for job in jobs if job.address not in lost and not self._done(job)]

    def _wait(self, waited: int) -> None:
        """Let another writer go on, which has all the rest; say for whom once in WAITING polls."""
        self._heed()
        if waited % WAITING == 0:
            left = self._left()
            owner = self.store.owner(left)
            whom = f"{owner[0]}, last seen {owner[1]:.0f} s ago" if owner else "another writer"
            self.context.progress.note(f"{len(left)} results are missing; waiting for {whom}")
        time.sleep(POLL_SECONDS)
        self._look()

    def _round(self) -> Iterator[Group]:
        """All groups in order, scores also after each training group, so that figures appear early."""
        scores = [group for group in self.groups if group.kind == "score"]
        for group in self.groups:
            yield group
            if group.kind == "train":
                yield from scores

    def _look(self) -> None:
        """See what is on disk by now."""
        for kind in results.KINDS:
            for path in results.shards(self.store.folder, kind):
                if path not in self.read:
                    self.read.add(path)
                    self.found |= self._addresses(path)

    def _addresses(self, path: Path) -> set[str]:
        try:
            return set(results.read_shard(path))
        except Damaged as error:
            self.store.set_aside(path, error)
            return set()

    def _done(self, job: Job) -> bool:
        return is_done(job, self.found, self.store, self.context.work.study.keep_scores)

    def _ready(self, job: Job) -> bool:
        return all(map(self.store.has_model, needed(job)))

    def _heed(self) -> None:
        if self.context.told():
            raise Interrupted(self.context.told())

    def _run_group(self, group: Group) -> bool:
        """Do those of a group's jobs that are missing, ready and free; whether there were any."""
        if group in self.failures:
            return False
        try:
            return self._run_chunks(group)
        except Damaged:  # what it needs is set aside, and has to be made again first
            return True
        except (OSError, Unreadable):  # a full or failing disk is nobody's group's own
            raise
        except Exception as error:
            group.programs.clear()
            self.context.progress.note(self.failures.add(group, error))
            return True

    def _run_chunks(self, group: Group) -> bool:
        left = [job for job in group.jobs if not self._done(job) and self._ready(job)]
        worked = False
        while left:
            if not group.programs and not self._prepare(group, left[0]):
                break
            chunk = self._next(group, left)
            left = [job for job in left if job not in chunk]
            worked |= self._run_chunk(group, chunk)
        if all(map(self._done, group.jobs)):
            group.programs.clear()
            self.failures.forget(group, self.found)
        return worked

    def _next(self, group: Group, left: list[Job]) -> list[Job]:
        """The jobs of a chunk that was left in the middle, else this writer's share of those that are missing."""
        for _, names in unfinished(self.store.folder / "checkpoints"):
            chunk = [job for job in left if job.address in names]
            if chunk and len(chunk) == len(names) <= group.capacity:
                return chunk
        if self.context.driver == "vmap":  # which takes as long for fewer cells
            return left[: group.capacity]
        share = lift.whole(-(-len(left) // self.store.writers()), self.context.mesh)
        return left[: min(group.capacity, share)]

    def _prepare(self, group: Group, job: Job) -> bool:
        """Compile a group's programs; not where another writer is at the assets that they take."""
        if group.kind == "given":  # of which nothing is computed
            group.capacity = programs.LARGEST
            return True
        missing = [group.assets] if group.assets and not self.store.has_assets(group.assets) else []
        taken = self.store.claim(missing)
        try:
            if taken == missing:
                programs.prepare(self.context, group, *chunks.ready_cell(self.context, group, job))
            return taken == missing
        finally:
            self.store.release(taken)

    def _run_chunk(self, group: Group, jobs: list[Job]) -> bool:
        taken = self.store.claim([job.address for job in jobs])
        try:
            self._look()
            chunk = [job for job in jobs if job.address in taken and not self._done(job)]
            self._heed()
            if chunk:
                begun = time.perf_counter()
                chunks.run(self.context, group, chunk)
                cell = (time.perf_counter() - begun) / len(chunk)
                before = self.context.times.of(group).cell or cell
                self.context.times.note(group, cell=(cell + before) / 2)
                self.found |= {job.address for job in chunk}
                self.store.publish()
            return bool(chunk)
        except ClaimLost:  # this process was stopped for so long that another one goes on with the chunk
            return True
        finally:
            self.store.release(taken)
