"""The jobs that answer a study.

A job makes one thing with a content address: a choice of rows to poison, a victim, a purified model, a score, an
audit, a detection. Its address is the hash of all that it depends on and of nothing else, so a new seed, ratio or
defense adds jobs and changes none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bdjax.cells.functions import wrapped
from bdjax.io.store.store import address
from bdjax.study import given
from bdjax.study.ratios import counts
from bdjax.study.work import Work
from bdjax.types import Attack

TRAINING = ("given", "select", "train")
"""Kinds of jobs that leave a file among the models: a victim that is given, a priority of rows, a trained model."""


@dataclass(frozen=True)
class Job:
    """One thing to make. attack, method, audit and detector are texts of the study; None where it does not depend."""

    kind: str  # given, select, train, score, audit, detect
    address: str
    seed: int
    count: int  # rows to poison
    victim: str  # address of the undefended victim that it belongs to; its own of a victim, "" of a search
    attack: str | None
    method: str | None  # the defense; None for a victim, and for scores of unwrapped networks
    audit: str | None = None
    detector: str | None = None
    judges: str = ""  # rows or queries, of a detector
    model: str | None = None  # address of the model that it starts from
    clean_model: str | None = None
    backdoored: str | None = None
    trigger: str | None = None  # address of the victim whose training made the trigger
    selection: str | None = None  # address of the search that chose its rows


def share_of(jobs: list[Job], number: int, count: int) -> list[Job]:
    """Share `number` of `count`, from 1: the victims whose addresses fall to it, all that belongs to them, and all that
    these take, so that whoever has a share needs no other. Every job is in some share, and in the same one always.
    """
    by_address = {job.address: job for job in jobs}
    wanted = [job for job in jobs if job.victim and int(job.victim, 16) % count == number - 1]
    taken: set[str] = set()
    while wanted:
        job = wanted.pop()
        if job.address not in taken:
            taken.add(job.address)
            needed = (job.model, job.clean_model, job.backdoored, job.trigger, job.selection)
            wanted += [by_address[name] for name in needed if name]
    return [job for job in jobs if job.address in taken]


@dataclass(frozen=True)
class Plan:
    """All that a study comes to."""

    jobs: list[Job]  # in an order in which they can be done
    cells: list[dict[str, Any]]  # for study.json: coordinates, and the addresses of model, score and audits
    detections: list[dict[str, Any]]  # for study.json: coordinates and addresses


def plan(work: Work) -> Plan:
    """The jobs and cells of a study.

    Raises:
        InvalidInput: a ratio cannot be had.
    """
    listing = _Listing(work)
    names = {text: spec.name for text, (spec, _) in work.attacks.items()}
    for text, (_, attack) in work.attacks.items():
        for ratio, count in _counts(work, text, names, attack).items():
            for seed in work.study.seeds:
                listing.add_cells(_Victim(text, ratio, count, int(seed)))
    order = {"given": 0, "select": 0, "train": 1, "score": 2, "detect": 3, "audit": 4}
    ranks = {None: 0} | {text: place + 1 for place, text in enumerate(work.defenses)}  # victims first
    jobs = sorted(listing.jobs.values(), key=lambda job: (order[job.kind], ranks[job.method]))
    return Plan(jobs, listing.cells, listing.detections)


def _counts(work: Work, text: str, names: Mapping[str, str], attack: Attack) -> dict[float, int]:
    """The ratios of an attack and the rows that each poisons."""
    if work.victims:
        label = work.dataset.train.label
        return given.counts(work.attacks[text][0], int(np.sum(np.asarray(attack.eligible(label)))), label.size)
    return counts(work.study, text, names, attack, work.dataset, work.held(text))


@dataclass(frozen=True)
class _Victim:
    attack: str
    ratio: float
    count: int
    seed: int


class _Listing:
    """Jobs by address while they are collected: what two cells share is listed once."""

    def __init__(self, work: Work):
        self.work = work
        self.jobs: dict[str, Job] = {}
        self.cells: list[dict[str, Any]] = []
        self.detections: list[dict[str, Any]] = []
        self.rows = [work.scene.clean, work.scene.valid, np.flatnonzero(work.scene.barred).tolist()]
        if work.scene.rows is not None:
            self.rows += [rows.tolist() for rows in work.scene.rows]

    def _add(self, identity: dict[str, Any], victim: str | None = None, **about: Any) -> str:
        if self.work.victims and about["kind"] != "given":  # which have no seed of their own to tell cells apart
            identity = identity | {"seed": about["seed"]}
        name = address(self.work.base | identity)
        self.jobs.setdefault(name, Job(address=name, victim=name if victim is None else victim, **about))
        return name

    def add_cells(self, victim: _Victim) -> None:
        """The cells and detections of a victim, with all that they take."""
        attack = self.work.attacks[victim.attack][1]
        undefended = self._undefended(victim)
        place = {"attack": victim.attack, "ratio": victim.ratio, "seed": victim.seed}
        common = {
            "seed": victim.seed,
            "count": victim.count,
            "victim": undefended,
            "attack": victim.attack,
            "trigger": undefended if attack.train else None,
            "selection": self._selection(victim.attack, victim.count, victim.seed),
        }
        for defense in self.work.defenses:
            model = undefended if defense == "none" else self._defended(victim, defense, undefended)
            about = common | {"method": self._wrapping(defense), "model": model}
            cell = place | {"defense": defense}
            audits = {audit: self._audit(audit, about, undefended) for audit in self.work.audits}
            self.cells.append(cell | {"model": model, "score": self._score(about), "audits": audits})
        for text, method in self.work.detectors.items():
            for judges in self.work.judged(victim.attack, method):
                # Training rows without poison are the same under every attack; queries are triggered all the same.
                sees = bool(victim.count or attack.train or judges == "queries")
                name = self._detection(text, judges, sees, common | {"model": undefended})
                one = {"detector": text, "on": judges, "address": name, "model": undefended}
                self.detections.append(place | one)

    def _attack(self, text: str | None) -> dict[str, Any] | None:
        return None if text is None else self.work.attacks[text][0].identity()

    def _undefended(self, victim: _Victim) -> str:
        """The victim of a cell: the one that is given, or one to be trained."""
        if victim.attack in self.work.victims:
            about = {"seed": victim.seed, "count": victim.count, "attack": victim.attack, "method": None}
            identity = {"make": "given", "weights": self.work.victims[victim.attack].digest}
            return self._add(identity, kind="given", **about)
        poisoned = victim.count or self.work.attacks[victim.attack][1].train
        return self._victim(victim.attack if poisoned else None, victim.count, victim.seed)

    def _victim(self, attack: str | None, count: int, seed: int) -> str:
        """A victim; without poison and under plain training it is the same for all attacks, so `attack` is None."""
        own = attack is not None and bool(self.work.attacks[attack][1].train)
        identity = {
            "make": "victim",
            "seed": seed,
            "count": count,
            "attack": self._attack(attack),
            "recipe": None if own else self.work.recipe.spec.identity(),
            "selection": self.work.selection.identity() if count else None,
            "reserved": self.rows if count and self.work.scene.reserved else None,
        }
        selection = self._selection(attack, count, seed)
        about = {"seed": seed, "count": count, "attack": attack, "method": None, "selection": selection}
        return self._add(identity, kind="train", **about)

    def _selection(self, attack: str | None, count: int, seed: int) -> str | None:
        """The search for rows to poison; None where there is none."""
        if not count or self.work.scene.select.search is None:
            return None
        identity = {
            "make": "selection",
            "seed": seed,
            "count": count,
            "attack": self._attack(attack),
            "selection": self.work.selection.identity(),
            "reserved": self.rows if self.work.scene.reserved else None,
        }
        return self._add(identity, "", kind="select", seed=seed, count=count, attack=attack, method=None)

    def _clean_model(self, needs: set[str], seed: int) -> str | None:
        return self._victim(None, 0, seed) if "clean_model" in needs else None

    def _defended(self, victim: _Victim, defense: str, undefended: str) -> str:
        method = self.work.defenses[defense]
        needs, own = set(method.needs), bool(self.work.attacks[victim.attack][1].train)
        # Who only reads a training set without poison need not know which attack is absent.
        knows = bool({"target", "triggered", "queries", "poisoned"} & needs)
        sees = knows or (bool({"train", "suspects"} & needs) and victim.count > 0)
        attack = victim.attack if sees else None
        identity = {
            "make": "defended",
            "victim": undefended,
            "defense": method.spec.identity(),
            "clean": self.rows,
            "attack": self._attack(attack),
        }
        clean_model = self._clean_model(needs, victim.seed)
        return self._add(
            identity | ({"clean_model": clean_model} if clean_model else {}),
            undefended,
            kind="train",
            seed=victim.seed,
            count=victim.count if sees else 0,
            attack=attack,
            method=defense,
            model=undefended if "victim" in needs else None,
            clean_model=clean_model,
            trigger=undefended if sees and own else None,
            selection=self._selection(attack, victim.count, victim.seed) if sees else None,
        )

    def _wrapping(self, defense: str) -> str | None:
        changed = wrapped(self.work.net, self.work.defenses[defense].stages) is not self.work.net
        return defense if changed and defense != "none" else None

    def _score(self, about: dict[str, Any]) -> str:
        identity = {
            "make": "score",
            "model": about["model"],
            "attack": self._attack(about["attack"]),
            "count": about["count"],
            "clean": self.rows,  # of which it tells the overlap
        }
        return self._add(identity, kind="score", **about)

    def _audit(self, audit: str, about: dict[str, Any], undefended: str) -> str:
        method = self.work.audits[audit]
        identity = {
            "make": "audit",
            "model": about["model"],
            "attack": self._attack(about["attack"]),
            "count": about["count"],
            "audit": method.spec.identity(),
            "clean": self.rows,
        }
        backdoored = undefended if "backdoored" in method.needs else None
        clean_model = self._clean_model(set(method.needs), about["seed"])
        identity |= {"backdoored": backdoored} | ({"clean_model": clean_model} if clean_model else {})
        models = {"clean_model": clean_model, "backdoored": backdoored}
        return self._add(identity, kind="audit", audit=audit, **models, **about)

    def _detection(self, text: str, judges: str, sees: bool, about: dict[str, Any]) -> str:
        identity = {
            "make": "detection",
            "model": about["model"],
            "attack": self._attack(about["attack"] if sees else None),
            "count": about["count"],
            "detector": self.work.detectors[text].spec.identity(),
            "judges": judges,
            "suspects": self.work.scene.suspects,
            "clean": self.rows,
        }
        return self._add(identity, kind="detect", method=None, detector=text, judges=judges, **about)
