"""A study: what is asked for, checked against what there is, and the jobs that answer it.

A job makes one thing with a content address: a victim, a purified model, a score, an audit. Its address is the hash of
all that it depends on and of nothing else, so a new seed, ratio or defense adds jobs and changes none.
"""

import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from bdjax import attacks, audits, cards, defenses, models, poison, selections
from bdjax.cards import Card, Spec
from bdjax.errors import InvalidInput
from bdjax.io import datasets
from bdjax.io.store import address
from bdjax.stages import Scene, wrapped
from bdjax.sweep import DRIVERS
from bdjax.types import Attack, Audit, Net, Procedure, real

ENGINE = 1
"""Raised when the engine computes something else from the same study."""


@dataclass(frozen=True)
class Study:
    """What is asked for. Methods are written `name` or `name:setting=value,setting=value`."""

    dataset: str = "digits"  # a registered or prepared TFDS name, a folder of class folders, or an .npz
    model: str = "small_cnn"
    attacks: tuple[str, ...] = ("badnets",)
    ratios: tuple[float | str, ...] = (0.0, 0.05, 0.1)  # of the training set; "sig=0.05": that attack's own
    seeds: Iterable[int] = (0, 1, 2, 3)
    defenses: tuple[str, ...] = ("none",)
    audits: tuple[str, ...] = ()
    selection: str = "random"
    recipe: str = ""  # settings of whoever trains the victim: "epochs=15,batch=64"; "" is the dataset's own
    clean: str = "any"  # the defender's clean rows: `any` rows, or `reserved` from the attacker
    clean_ratio: float = 0.05  # of the training set, class-balanced
    valid_ratio: float = 0.01  # further rows, on which thresholds are chosen
    flip: bool | None = None  # whether training mirrors images; None: the dataset's own rule
    driver: str = "auto"  # vmap, map, loop, shard
    memory: str = ""  # what the study may take: "1GB"; "" is 80% of what there is
    plugins: tuple[str, ...] = ()  # modules that register methods

    def __post_init__(self) -> None:
        for name in ("attacks", "ratios", "seeds", "defenses", "audits", "plugins"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | int | float) else tuple(value))


@dataclass(frozen=True)
class Job:
    """One thing to make. attack, method and audit are texts of the study, or None where the thing is independent."""

    kind: str  # train, score, audit
    address: str
    seed: int
    count: int  # rows to poison
    attack: str | None
    method: str | None  # the defense; None for a victim, and for scores of unwrapped networks
    audit: str | None = None
    model: str | None = None  # address of the model that it starts from
    clean_model: str | None = None
    trigger: str | None = None  # address of the victim whose training made the trigger


@dataclass
class Method:
    """A defense or audit as built for the study's network."""

    spec: Spec
    card: Card
    stages: tuple[Procedure, ...] = ()  # of a defense; an audit is built for the network that it is put to


@dataclass
class Work:
    """A study resolved: everything built, every job known."""

    study: Study
    dataset: datasets.Dataset
    model: Spec
    net: Net
    scene: Scene
    recipe: Method
    attacks: dict[str, tuple[Spec, Attack]]
    defenses: dict[str, Method]
    audits: dict[str, Method]
    base: dict[str, Any]
    jobs: dict[str, Job] = field(default_factory=dict)  # by address, in an order in which they can be done
    cells: list[dict[str, Any]] = field(default_factory=list)  # for study.json

    def net_of(self, defense: str | None) -> Net:
        """The network that a defense leaves."""
        return self.net if defense is None else wrapped(self.net, self.defenses[defense].stages)

    def audit_of(self, audit: str, defense: str | None) -> Audit:
        """An audit of the network that a defense leaves."""
        spec = self.audits[audit].spec
        make = audits.AUDITS[spec.name].make
        return make(self.net_of(defense), self.dataset.shape, self.dataset.count, **spec.static)

    def cards(self) -> list[Card]:
        """The cards of all methods that the study uses, each once."""
        used = [(models.MODELS, [self.study.model]), (attacks.ATTACKS, self.study.attacks)]
        used += [(selections.SELECTIONS, [self.study.selection]), (defenses.DEFENSES, self.study.defenses)]
        used += [(audits.AUDITS, self.study.audits)]
        found = [registry[cards.split(text)[0]].card for registry, texts in used for text in texts]
        return list({id(card): card for card in found}.values())


def resolve(study: Study) -> Work:
    """Check a study against what there is, build its methods and list its jobs.

    Raises:
        InvalidInput: anything in it cannot be used; nothing has been trained then.
    """
    for name in study.plugins:
        _plug(name)
    _check_plain(study)
    dataset = datasets.load(study.dataset, flip=study.flip)
    shape, classes = dataset.shape, dataset.count
    model = cards.lookup(study.model, models.MODELS, "model")
    _check_size(models.MODELS[model.name].card, shape)
    net = models.MODELS[model.name].make(shape, classes, dataset.mean, dataset.std, **model.static)
    recipe_values = cards.split("none:" + study.recipe)[1] if study.recipe else {}
    recipe = _defense("none:" + study.recipe if study.recipe else "none", net, shape, classes, dataset.recipe)
    fallback = dataset.recipe | recipe_values
    selection = cards.lookup(study.selection, selections.SELECTIONS, "selection")
    select = selections.SELECTIONS[selection.name].make(net, shape, classes, **selection.static)
    clean, valid = _shares(study, dataset)
    scene = Scene(net, classes, dataset.padding, dataset.flip, select, clean, valid, study.clean == "reserved")
    work = Work(
        study,
        dataset,
        model,
        net,
        scene,
        recipe,
        attacks={text: _attack(text, net, shape, classes, fallback) for text in study.attacks},
        defenses={text: _defense(text, net, shape, classes) for text in study.defenses},
        audits={text: _audit(text, shape) for text in study.audits},
        base={
            "engine": ENGINE,
            "dataset": dataset.digest,
            "padding": dataset.padding,
            "flip": dataset.flip,
            "model": model.identity(),
            "float": str(np.dtype(real())),
        },
    )
    _list_jobs(work, selection)
    return work


def _plug(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise InvalidInput(f"plugin {name}: {error}; give a module that Python can import") from None


def _check_plain(study: Study) -> None:
    for name in ("attacks", "ratios", "seeds", "defenses"):
        if not getattr(study, name):
            raise InvalidInput(f"no {name}; give at least one")
    for name in ("attacks", "seeds", "defenses", "audits", "ratios"):
        values = getattr(study, name)
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise InvalidInput(f"{name}: {twice[0]} is given twice; give it once")
    for seed in study.seeds:
        if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**31:
            raise InvalidInput(f"seed {seed}; give whole numbers from 0 to {2**31 - 1}")
    if study.driver not in ("auto", *DRIVERS):
        raise InvalidInput(f"driver {study.driver!r}; choose from auto, {', '.join(DRIVERS)}")
    if study.clean not in ("any", "reserved"):
        raise InvalidInput(f"clean {study.clean!r}; choose any or reserved")


def _check_size(card: Card, shape: tuple[int, int, int]) -> None:
    if min(shape[:2]) < card.smallest:
        size = f"{shape[0]}x{shape[1]}"
        raise InvalidInput(f"{card.name} on {size} images; it needs {card.smallest} pixels a side; use larger images")


def _attack(text: str, net: Net, shape, classes: int, fallback: Mapping[str, Any]) -> tuple[Spec, Attack]:
    spec = cards.lookup(text, attacks.ATTACKS, "attack", fallback)
    _check_size(attacks.ATTACKS[spec.name].card, shape)
    return spec, attacks.ATTACKS[spec.name].make(net, shape, classes, **spec.static)


def _defense(text: str, net: Net, shape, classes: int, fallback: Mapping[str, Any] | None = None) -> Method:
    spec = cards.lookup(text, defenses.DEFENSES, "defense", fallback)
    method = defenses.DEFENSES[spec.name]
    _check_size(method.card, shape)
    return Method(spec, method.card, method.make(net, shape, classes, **spec.static))


def _audit(text: str, shape) -> Method:
    spec = cards.lookup(text, audits.AUDITS, "audit")
    card = audits.AUDITS[spec.name].card
    _check_size(card, shape)
    return Method(spec, card)


def _shares(study: Study, dataset: datasets.Dataset) -> tuple[int, int]:
    """Rows a class for the defender and for thresholds."""
    size = dataset.train.label.size
    for name, share in (("clean_ratio", study.clean_ratio), ("valid_ratio", study.valid_ratio)):
        if not 0 < share < 1:
            raise InvalidInput(f"{name} {share}; give a fraction between 0 and 1")
    clean = max(1, int(size * study.clean_ratio / dataset.count))
    valid = max(1, int(size * study.valid_ratio / dataset.count))
    smallest = int(np.bincount(dataset.train.label, minlength=dataset.count).min())
    if clean + valid > smallest:
        given = f"clean_ratio {study.clean_ratio:g} and valid_ratio {study.valid_ratio:g}"
        raise InvalidInput(f"{given} take {clean + valid} rows a class; the smallest class has {smallest}; lower them")
    return clean, valid


def counts(
    study: Study, text: str, name: str, attack: Attack, dataset: datasets.Dataset, held: int
) -> dict[float, int]:
    """The ratios of an attack and the rows that each poisons.

    Raises:
        InvalidInput: a ratio is no fraction, poisons no row, or more rows than there are.
    """
    own, common = [], []
    for entry in study.ratios:
        head, equals, tail = str(entry).partition("=")
        if equals and head not in (*study.attacks, *(cards.split(other)[0] for other in study.attacks)):
            raise InvalidInput(f"ratio {entry!r}: the study has no attack {head!r}")
        try:
            value = float(tail if equals else head)
        except ValueError:
            raise InvalidInput(f"ratio {entry!r}; give fractions, or attack=fraction") from None
        if not equals:
            common.append(value)
        elif head in (text, name):
            own.append(value)
    label = dataset.train.label
    size, limit = label.size, int(np.sum(np.asarray(attack.eligible(label)))) - held
    found = {}
    for ratio in own or common:
        count = round(ratio * size)
        if not 0 <= ratio <= 1:
            raise InvalidInput(f"ratio {ratio:g}; give a fraction of the training set, from 0 to 1")
        if count > limit:
            largest = int(limit / size * 1e4) / 1e4
            raise InvalidInput(
                f"{text} at ratio {ratio:g} poisons {count} rows; {limit} can be; the largest ratio is {largest:g}"
            )
        if ratio > 0 and count == 0:
            raise InvalidInput(f"ratio {ratio:g} of {size} rows is none; the smallest ratio is {0.5 / size:.2g}")
        found[float(ratio)] = count
    if not found:
        raise InvalidInput(f"no ratios for {text}; give some that are not another attack's own")
    return found


def _held(work: Work, attack: Attack) -> int:
    """Rows that the attack could poison but that are reserved for the defender."""
    scene = work.scene
    if not scene.reserved:
        return 0
    classes = np.arange(work.dataset.count, dtype=np.int32)
    return int(np.sum(np.asarray(attack.eligible(classes)))) * (scene.clean + scene.valid)


def _list_jobs(work: Work, selection: Spec) -> None:
    for text, (spec, attack) in work.attacks.items():
        ratios = counts(work.study, text, spec.name, attack, work.dataset, _held(work, attack))
        for ratio, count in ratios.items():
            for seed in work.study.seeds:
                _list_cell(work, selection, text, ratio, count, int(seed))
    # Victims first, then their scores, then defense by defense: results appear early and models are read warm.
    ranks = {None: 0} | {text: place + 1 for place, text in enumerate(work.defenses)}
    order = {"train": 0, "score": 1, "audit": 2}
    arranged = sorted(work.jobs.values(), key=lambda job: (order[job.kind] == 2, ranks[job.method], order[job.kind]))
    work.jobs = {job.address: job for job in arranged}


def _list_cell(work: Work, selection: Spec, text: str, ratio: float, count: int, seed: int) -> None:
    victim = _victim(work, selection, text, count, seed)
    clean_model = _victim(work, selection, None, 0, seed)
    for defense, method in work.defenses.items():
        model = victim
        if defense != "none":
            model = _defended(work, text, count, seed, defense, method, victim, clean_model)
        about = {"seed": seed, "count": count, "attack": text, "method": _wrapping(work, defense), "model": model}
        about["trigger"] = _trigger(work, text, victim)
        scored = _score(work, about)
        audited = {audit: _audited(work, about, audit, clean_model) for audit in work.audits}
        work.cells.append(
            {
                "attack": text,
                "ratio": ratio,
                "seed": seed,
                "defense": defense,
                "model": model,
                "score": scored,
                "audits": {cards.split(audit)[0]: name for audit, name in audited.items()},
            }
        )


def _add(work: Work, identity: dict[str, Any], **about: Any) -> str:
    name = address(work.base | identity)
    work.jobs.setdefault(name, Job(address=name, **about))
    return name


def _victim(work: Work, selection: Spec, text: str | None, count: int, seed: int) -> str:
    spec, attack = work.attacks[text] if text is not None else (None, poison.NO_ATTACK)
    if not count and not attack.train:
        text, spec = None, None
    identity = {
        "make": "victim",
        "seed": seed,
        "count": count,
        "attack": spec and spec.identity(),
        "recipe": None if attack.train else work.recipe.spec.identity(),
        "selection": selection.identity() if count else None,
        "reserved": [work.scene.clean, work.scene.valid] if count and work.scene.reserved else None,
    }
    return _add(work, identity, kind="train", seed=seed, count=count, attack=text, method=None)


def _sees_attack(card: Card) -> bool:
    return bool({"train", "target", "triggered", "poisoned"} & set(card.needs))


def _defended(work, text, count, seed, defense, method: Method, victim: str, clean_model: str) -> str:
    needs = set(method.card.needs)
    # On a training set without poison a defense that only reads it need not know which attack is absent.
    blind = not _sees_attack(method.card) or (not count and not {"target", "triggered", "poisoned"} & needs)
    identity = {
        "make": "defended",
        "victim": victim,
        "defense": method.spec.identity(),
        "clean": [work.scene.clean, work.scene.valid],
        "attack": None if blind else work.attacks[text][0].identity(),
    }
    return _add(
        work,
        identity,
        kind="train",
        seed=seed,
        count=0 if blind else count,
        attack=None if blind else text,
        method=defense,
        model=victim if "victim" in needs else None,
        clean_model=clean_model if "clean_model" in needs else None,
        trigger=None if blind else _trigger(work, text, victim),
    )


def _trigger(work: Work, text: str, victim: str) -> str | None:
    return victim if work.attacks[text][1].train else None


def _wrapping(work: Work, defense: str) -> str | None:
    changed = wrapped(work.net, work.defenses[defense].stages) is not work.net
    return defense if changed else None


def _score(work: Work, about: dict[str, Any]) -> str:
    attack = work.attacks[about["attack"]][0].identity()
    identity = {"make": "score", "model": about["model"], "attack": attack, "count": about["count"]}
    return _add(work, identity, kind="score", **about)


def _audited(work: Work, about: dict[str, Any], audit: str, clean_model: str) -> str:
    method = work.audits[audit]
    identity = {
        "make": "audit",
        "model": about["model"],
        "attack": work.attacks[about["attack"]][0].identity(),
        "count": about["count"],
        "audit": method.spec.identity(),
        "clean": [work.scene.clean, work.scene.valid],
    }
    clean_model = clean_model if "clean_model" in method.card.needs else None
    return _add(work, identity, kind="audit", audit=audit, clean_model=clean_model, **about)


def config(study: Study) -> str:
    """The study as JSON text."""
    return json.dumps(asdict(study) | {"seeds": [int(seed) for seed in study.seeds]})
