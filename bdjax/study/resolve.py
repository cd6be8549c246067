"""A study resolved: checked against what there is, its methods built for its network and data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bdjax import attacks, audits, cards, defenses, models, selections
from bdjax.attacks.parts.pictures import identified
from bdjax.attacks.poisoned_set import CARD as SET
from bdjax.cards import Card, Spec
from bdjax.cells import memory
from bdjax.cells.functions import Cell, Scene, Shared, scalars, steps, wrapped
from bdjax.errors import InvalidInput
from bdjax.io import datasets
from bdjax.keys import root
from bdjax.study import Study, plugins, study, user_sets
from bdjax.types import Attack, Audit, Net, Poison, Stage, Weights, real

ENGINE = 1
"""Raised when the engine computes something else from the same study."""


@dataclass
class Method:
    """A defense or audit as built for the study's network."""

    spec: Spec
    card: Card
    needs: tuple[str, ...]  # fields of Given, under its settings
    stages: tuple[Stage, ...] = ()  # of a defense; an audit is built for the network that it is put to

    @property
    def oracle(self) -> bool:
        """Whether it uses what a defender would not have."""
        return cards.is_oracle(self.needs)


@dataclass
class Work:
    """A study resolved: everything that it names, built."""

    study: Study
    dataset: datasets.Dataset
    model: Spec
    net: Net
    scene: Scene
    recipe: Method
    attacks: dict[str, tuple[Spec, Attack]]
    defenses: dict[str, Method]
    audits: dict[str, Method]
    selection: Spec
    base: dict[str, Any]  # what all of the study depends on

    def net_of(self, defense: str | None) -> Net:
        """The network that a defense leaves."""
        return self.net if defense is None else wrapped(self.net, self.defenses[defense].stages)

    def audit_of(self, audit: str, defense: str | None) -> Audit:
        """An audit of the network that a defense leaves."""
        spec = self.audits[audit].spec
        make = audits.AUDITS[spec.name].make
        return make(self.net_of(defense), self.dataset.shape, self.dataset.count, **spec.static)

    def held(self, text: str) -> int:
        """Rows that an attack could poison but that are reserved for the defender."""
        spec, attack = self.attacks[text]
        if not self.scene.reserved or spec.name == SET.name:
            return 0
        classes = np.arange(self.dataset.count, dtype=np.int32)
        return int(np.sum(np.asarray(attack.eligible(classes)))) * (self.scene.clean + self.scene.valid)

    def cards(self) -> list[Card]:
        """The cards of all methods that the study uses, each once."""
        used = [(models.MODELS, [self.study.model]), (attacks.ATTACKS, self.study.attacks)]
        used += [(selections.SELECTIONS, [self.study.selection]), (defenses.DEFENSES, self.study.defenses)]
        used += [(audits.AUDITS, self.study.audits)]
        named = [
            (registry, text) for registry, texts in used for text in texts if not text.startswith(user_sets.PREFIX)
        ]
        found = [registry[cards.split(text)[0]].card for registry, text in named]
        found += [SET] * any(text.startswith(user_sets.PREFIX) for text in self.study.attacks)
        return list({id(card): card for card in found}.values())


def resolve(asked: Study) -> Work:
    """Check a study against what there is and build its methods.

    Raises:
        InvalidInput: anything in it cannot be used; nothing has been trained then.
    """
    study.check(asked)
    plugins.load(asked.plugins)
    _check_names(asked)
    dataset = datasets.load(asked.dataset, flip=asked.flip)
    shape, classes = dataset.shape, dataset.count
    model = cards.lookup(asked.model, models.MODELS, "model")
    _check_size(models.MODELS[model.name].card, shape)
    more = {"covariance": dataset.covariance} if "covariance" in models.MODELS[model.name].card.needs else {}
    net = models.MODELS[model.name].make(shape, classes, dataset.mean, dataset.std, **more, **model.static)
    selection = cards.lookup(asked.selection, selections.SELECTIONS, "selection")
    sets = user_sets.load(asked, dataset)
    recipe = dataset.recipe | _recipe(asked)
    # An attacker who controls training follows the study's recipe wherever the attack's own text is silent.
    own = {"flip": dataset.flip} | recipe
    built = {
        text: user_sets.attack(text, sets[text]) if text in sets else _attack(text, net, shape, classes, own)
        for text in asked.attacks
    }
    work = Work(
        study=asked,
        dataset=dataset,
        model=model,
        net=net,
        scene=_scene(asked, dataset, net, selection, user_sets.barred(asked, dataset, sets)),
        recipe=_defense(f"none:{asked.recipe}", net, shape, classes, recipe),
        attacks=built,
        defenses={text: _defense(text, net, shape, classes) for text in asked.defenses},
        audits={text: _audit(text, shape) for text in asked.audits},
        selection=selection,
        base={
            "engine": ENGINE,
            "dataset": dataset.digest,
            "padding": dataset.padding,
            "flip": dataset.flip,
            "model": model.identity(),
            "float": str(np.dtype(real())),
        },
    )
    _check_selection(work)
    _rehearse(work)
    return work


def _recipe(asked: Study) -> dict[str, Any]:
    """What the study says of training, by a preset and by itself."""
    said = cards.split(f"none:{asked.recipe}")[1]
    return {**defenses.NONE.card.presets[said.pop("preset", "paper")], **said}


def _check_names(asked: Study) -> None:
    """Every name and setting, before a dataset is read, which may take minutes."""
    registries = {
        "model": (models.MODELS, [asked.model]),
        "attack": (attacks.ATTACKS, [text for text in asked.attacks if not text.startswith(user_sets.PREFIX)]),
        "selection": (selections.SELECTIONS, [asked.selection]),
        "defense": (defenses.DEFENSES, [*asked.defenses, f"none:{asked.recipe}"]),
        "audit": (audits.AUDITS, asked.audits),
    }
    for what, (registry, texts) in registries.items():
        for text in texts:
            cards.lookup(text, registry, what)


def _rehearse(work: Work) -> None:
    """Trace how every defense and audit begins, computing nothing: what cannot be done on these data is refused now."""
    victim = jax.eval_shape(work.net.init, root(0))
    _check_memory(work.study, victim)
    data, label = Shared(work.dataset.train, work.dataset.test), work.dataset.train.label
    asked = [(method.stages, method) for method in work.defenses.values()]
    asked += [(work.audit_of(text, None).stages, method) for text, method in work.audits.items()]
    for stages, method in asked:
        cell = Cell(
            seed=np.uint32(0),
            count=np.int32(0),
            attack={},
            settings=scalars(method.spec.traced),
            poison=Poison(np.zeros(label.shape, np.int8), label, {}),
            order=np.arange(label.size, dtype=np.int32),
            clean=np.zeros(work.scene.classes * work.scene.clean, np.int32),
            valid=np.zeros(work.scene.classes * work.scene.valid, np.int32),
            victim=victim,
            clean_model=victim,
            backdoored=victim,
        )
        if stages:
            steps(work.scene, stages[0], method.needs, cell, data)


def _check_selection(work: Work) -> None:
    """Rows are searched for only where an attack poisons rows before training and leaves it open which."""
    for text, (spec, attack) in work.attacks.items():
        if work.scene.select.search is not None and (attack.train or spec.name == SET.name):
            given = f"selection {work.selection.text} for {text}, which leaves no choice of rows before training"
            raise InvalidInput(f"{given}; it works for attacks that only poison data; give --selection random")


def _check_memory(asked: Study, victim: Weights) -> None:
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(victim))
    if held > memory.budget(asked.memory):
        needed = (held + memory.resident() * (jax.default_backend() == "cpu")) // 10**6
        given = f"{asked.model}: with its weights alone {needed} MB are held, more than the memory allowed"
        raise InvalidInput(f"{given}; give more --memory or a narrower model")


def _scene(asked: Study, dataset: datasets.Dataset, net: Net, selection: Spec, barred: np.ndarray) -> Scene:
    make = selections.SELECTIONS[selection.name].make
    select = make(net, dataset.shape, dataset.count, **selection.static)
    clean, valid = _shares(asked, dataset, barred)
    reserved = asked.clean == "reserved"
    return Scene(net, dataset.count, dataset.padding, dataset.flip, select, clean, valid, reserved, barred)


def _check_size(card: Card, shape: tuple[int, int, int]) -> None:
    if min(shape[:2]) < card.smallest:
        size = f"{shape[0]}x{shape[1]}"
        raise InvalidInput(f"{card.name} on {size} images; it needs {card.smallest} pixels a side; use larger images")


def _attack(text: str, net: Net, shape, classes: int, fallback: Mapping[str, Any]) -> tuple[Spec, Attack]:
    spec = cards.lookup(text, attacks.ATTACKS, "attack", fallback)
    method = attacks.ATTACKS[spec.name]
    _check_size(method.card, shape)
    return identified(spec, method.card), method.make(net, shape, classes, **spec.static)


def _defense(text: str, net: Net, shape, classes: int, fallback: Mapping[str, Any] | None = None) -> Method:
    spec = cards.lookup(text, defenses.DEFENSES, "defense", fallback)
    method = defenses.DEFENSES[spec.name]
    _check_size(method.card, shape)
    return Method(spec, method.card, method.card.needs_of(spec.static), method.make(net, shape, classes, **spec.static))


def _audit(text: str, shape) -> Method:
    spec = cards.lookup(text, audits.AUDITS, "audit")
    card = audits.AUDITS[spec.name].card
    _check_size(card, shape)
    return Method(spec, card, card.needs_of(spec.static))


def _shares(asked: Study, dataset: datasets.Dataset, barred: np.ndarray) -> tuple[int, int]:
    """Rows a class for the defender and for thresholds."""
    size = dataset.train.label.size
    for name, share in (("clean_ratio", asked.clean_ratio), ("valid_ratio", asked.valid_ratio)):
        if not 0 < share < 1:
            raise InvalidInput(f"{name} {share}; give a fraction between 0 and 1")
    clean = max(1, int(size * asked.clean_ratio / dataset.count))
    valid = max(1, int(size * asked.valid_ratio / dataset.count))
    smallest = int(np.bincount(dataset.train.label[~barred], minlength=dataset.count).min())
    if clean + valid > smallest:
        given = f"clean_ratio {asked.clean_ratio:g} and valid_ratio {asked.valid_ratio:g}"
        raise InvalidInput(f"{given} take {clean + valid} rows a class; the smallest class has {smallest}; lower them")
    return clean, valid
