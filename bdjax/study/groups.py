"""Jobs that share a program: the same network, attack, stages and static settings; only arrays differ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bdjax.cards import Spec
from bdjax.cells.functions import Scene
from bdjax.cells.lift import Program
from bdjax.data import poison
from bdjax.io.store.store import address
from bdjax.keys import number
from bdjax.study.jobs import Job
from bdjax.study.work import Work
from bdjax.types import Audit, Net, PyTree, Stage


@dataclass
class Group:
    """Jobs that one set of programs serves, and those programs once they are compiled."""

    label: str  # for people
    key: str  # of plan.json: the same in every run
    kind: str  # given, select, train, score, audit, detect
    scene: Scene
    assets: str | None  # address of the attack's assets; None where it has none
    needs: tuple[str, ...]  # what the running method is given
    stream: str  # name of its random streams
    stages: tuple[Stage, ...]
    settings: Callable[[Job], Mapping[str, float]]  # the running method's float settings
    net: Net  # that the scored or audited weights belong to
    audit: Audit | None = None
    jobs: list[Job] = field(default_factory=list)
    capacity: int = 0  # cells at a time; 0 until it is decided
    programs: dict[Any, Program] = field(default_factory=dict)
    checkpoints: list[PyTree] = field(default_factory=list)  # shapes of what a checkpoint of each stage holds
    steps: list[int] = field(default_factory=list)  # in each epoch of each stage

    def streams(self, index: int) -> np.int32:
        """The number of the random streams of a stage."""
        return number(f"{self.stream} {index}")


def groups(work: Work, jobs: list[Job]) -> list[Group]:
    """The jobs of a study in groups, in an order in which they can be done."""
    found: dict[str, Group] = {}
    most = max((job.count for job in jobs if job.kind == "select"), default=0)
    for job in jobs:
        key = _key(work, job)
        if key not in found:
            found[key] = _group(work, job, key, most)
        found[key].jobs.append(job)
    return list(found.values())


def _program(spec: Spec) -> dict[str, Any]:
    """What of a method shapes a program."""
    return {"name": spec.name, "version": spec.version, **spec.static}


def _key(work: Work, job: Job) -> str:
    parts: dict[str, Any] = {"kind": job.kind, "assets": _assets(work, job)}
    if job.attack is not None:
        parts["attack"] = _program(work.attacks[job.attack][0])
    if job.kind == "select":
        parts["selection"] = _program(work.selection)
    if job.method is not None:
        parts["method"] = _program(work.defenses[job.method].spec)
    if job.audit is not None:
        parts["audit"] = _program(work.audits[job.audit].spec)
    if job.detector is not None:
        suspects = work.scene.suspects
        parts |= {"detector": _program(work.detectors[job.detector].spec), "judges": job.judges, "suspects": suspects}
    return address(work.base | parts | {"recipe": _program(work.recipe.spec)})


def _assets(work: Work, job: Job) -> str | None:
    """Assets are shared by all cells of a group, so they tell groups apart."""
    if job.attack is None or work.attacks[job.attack][1].prepare is None:
        return None
    return address(work.base | {"assets": work.attacks[job.attack][0].identity()})


def _group(work: Work, job: Job, key: str, most: int) -> Group:
    attack = work.attacks[job.attack][1] if job.attack is not None else poison.NO_ATTACK
    searching = job.kind == "select"
    own = searching or (bool(attack.train) and job.kind == "train" and job.method is None)
    scene = work.scene._replace(attack=attack, own=own, searching=searching)

    def group(words, needs=(), stream="score", stages=(), settings=lambda job: {}, audit=None) -> Group:
        label, net = " ".join(filter(None, words)), work.net_of(job.method)
        assets = _assets(work, job)
        return Group(label, key, job.kind, scene, assets, needs, stream, stages, settings, net, audit)

    if job.kind == "given":
        return group(("given victims",))
    if searching:
        words, stages = (work.selection.text, job.attack), scene.select.search(most)
        return group(words, ("whole", "stamped"), "search", stages, lambda job: work.selection.traced)
    if job.kind == "score":
        return group(("score", job.method, job.attack))
    if job.kind == "audit":
        needs, audit = work.audits[job.audit].needs, work.audit_of(job.audit, job.method)
        words, traced = (job.audit, job.method, job.attack), lambda job: work.audits[job.audit].spec.traced
        return group(words, needs, "audit", audit.stages, traced, audit)
    if job.kind == "detect":
        scene, method = scene._replace(judges=job.judges), work.detectors[job.detector]
        words, traced = (
            (job.detector, "on", job.judges, job.attack),
            lambda job: work.detectors[job.detector].spec.traced,
        )
        return group(words, method.needs, "detector", method.judging(job.judges), traced)
    if job.method is not None:
        method, traced = work.defenses[job.method], lambda job: work.defenses[job.method].spec.traced
        return group((job.method, job.attack), method.needs, "defense", method.stages, traced)
    words = ("victims", job.attack or "clean")
    if scene.own:
        return group(words, ("train", "whole"), "victim", attack.train, lambda job: work.attacks[job.attack][0].traced)
    recipe = work.recipe
    return group(words, recipe.needs, "victim", recipe.stages, lambda job: recipe.spec.traced)
