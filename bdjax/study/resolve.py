"""A study resolved: checked against what there is, its methods built for its network and data."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdjax import attacks, audits, cards, defenses, detection, models, selections
from bdjax.attacks.parts.pictures import identified
from bdjax.attacks.poisoned_set import CARD as SET
from bdjax.cards import Card, Spec
from bdjax.cells.functions import Scene, Shared, wrapped
from bdjax.detection.parts.scoring import score_all
from bdjax.errors import InvalidInput
from bdjax.io import datasets
from bdjax.io.datasets import normalization
from bdjax.study import Study, given, plugins, study, user_sets
from bdjax.study.rehearsal import rehearse
from bdjax.types import Attack, Audit, Detector, Net, Stage, real

ENGINE = 1
"""Raised when the engine computes something else from the same study."""

JUDGED = {"rows": "train", "queries": "queries"}
"""The field of Given that what a detector judges is made of."""


@dataclass
class Method:
    """A defense, audit or detector as built for the study's network."""

    spec: Spec
    card: Card
    needs: tuple[str, ...]  # fields of Given, under its settings
    stages: tuple[Stage, ...] = ()  # of a defense; an audit is built for the network that it is put to
    detector: Detector | None = None
    scoring: Mapping[str, Stage] = field(default_factory=dict)  # of a detector, by what it judges

    @property
    def oracle(self) -> bool:
        """Whether it uses what a defender would not have."""
        return cards.is_oracle(self.needs)

    def judging(self, judges: str) -> tuple[Stage, ...]:
        """All stages of a detector that judges rows or queries."""
        return (*self.detector.stages, self.scoring[judges])


@dataclass
class Work:
    """A study resolved: everything that it names, built."""

    study: Study  # as results tell it: without paths of the user's files
    dataset: datasets.Dataset
    model: Spec
    net: Net
    scene: Scene
    recipe: Method
    attacks: dict[str, tuple[Spec, Attack]]
    defenses: dict[str, Method]
    audits: dict[str, Method]
    detectors: dict[str, Method]
    selection: Spec
    base: dict[str, Any]  # what all of the study depends on
    victims: dict[str, given.Victim] = field(default_factory=dict)  # those that are given, by the texts of `attacks`
    absent: dict[str, str] = field(default_factory=dict)  # fields of Given that the data cannot serve, and why

    def shared(self) -> Shared:
        """The data that all cells read, on the device."""
        data = self.dataset
        splits = {"train": data.train, "test": data.test, "queries": data.queries}
        return Shared(**jax.tree.map(jnp.asarray, splits))

    def lacking(self, attack: str) -> dict[str, str]:
        """Fields of Given that methods cannot have under an attack, and why."""
        return (given.absent(self.attacks[attack][0]) if self.victims else {}) | self.absent

    def judged(self, attack: str, method: Method) -> tuple[str, ...]:
        """Of "rows" and "queries" what a detector judges under an attack: what there is of the two."""
        lacking = self.lacking(attack)
        return tuple(on for on in method.detector.on if JUDGED[on] not in lacking)

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

    def cards(self) -> dict[str, list[Card]]:
        """The cards of all methods that the study uses, each once, by what they are."""
        used = [spec.name for spec, _ in self.attacks.values() if spec.name in (SET.name, *attacks.ATTACKS)]
        found = {
            "models": [models.MODELS[name].card for name in [self.model.name] if name in models.MODELS],
            "attacks": [SET if name == SET.name else attacks.ATTACKS[name].card for name in used],
            "selections": [selections.SELECTIONS[self.selection.name].card],
            "defenses": [method.card for method in self.defenses.values()],
            "audits": [method.card for method in self.audits.values()],
            "detectors": [method.card for method in self.detectors.values()],
        }
        return {kind: list({card.name: card for card in held}.values()) for kind, held in found.items()}


def resolve(asked: Study) -> Work:
    """Check a study against what there is and build its methods.

    Raises:
        InvalidInput: anything in it cannot be used; nothing has been trained then.
    """
    study.check(asked)
    plugins.load(asked.plugins)
    plugins.check()
    specs = _parse(asked)
    dataset = datasets.load(asked.dataset, flip=asked.flip)
    shape, classes = dataset.shape, dataset.count
    model, selection = specs.model, specs.selection
    _check_size(models.MODELS[model.name].card, shape)
    more = {"covariance": dataset.covariance} if "covariance" in models.MODELS[model.name].card.needs else {}
    own = normalization.parse(asked.normalization, shape[2]) if asked.normalization else (dataset.mean, dataset.std)
    net = models.MODELS[model.name].make(shape, classes, *own, **more, **model.static)
    sets = user_sets.load(asked, dataset)
    recipe = _recipe(specs.recipe, dataset)
    # An attacker who controls training follows the study's recipe wherever the attack's own text is silent.
    followed = {"flip": dataset.flip} | recipe
    built = {
        text: user_sets.attack(text, sets[text])
        if text in sets
        else _attack(specs.attacks[text], net, shape, classes, followed)
        for text in asked.attacks
    }
    _check_apart(built)
    under, victims = {made[0].text: made for made in built.values()}, given.load(asked, net)
    seen = _shown(asked, dataset, built, victims)
    if victims:
        victims, under = given.tested(victims, under)
    work = Work(
        study=seen,
        dataset=dataset,
        model=model,
        net=net,
        scene=_scene(asked, dataset, net, selection, user_sets.barred(asked, dataset, sets)),
        victims=victims,
        recipe=build_defense(specs.recipe.fill(defenses.NONE.card, recipe), net, shape, classes),
        attacks=under,
        defenses={
            text: build_defense(_retrained(spec, recipe), net, shape, classes) for text, spec in specs.defenses.items()
        },
        audits={text: build_audit(spec, shape) for text, spec in specs.audits.items()},
        detectors={text: _detector(spec, net, shape, classes) for text, spec in specs.detectors.items()},
        selection=selection,
        base={
            "engine": ENGINE,
            "dataset": dataset.digest,
            "padding": dataset.padding,
            "flip": dataset.flip,
            "model": model.identity(),
            "float": str(np.dtype(real())),
        }
        | ({"normalization": [list(part) for part in own]} if asked.normalization else {}),
    )
    _check_selection(work)
    check_needs(work)
    rehearse(work)
    return work


def check_needs(work: Work) -> None:
    """Refuse methods that need what there is not, which only studies of given victims and of few data lack.

    Raises:
        InvalidInput: says which method, what it needs, and why that is not there.
    """
    used = {text: method for text, method in work.defenses.items() if text != "none"}  # `none` changes no victim
    for called in work.attacks:
        lacking = work.lacking(called)
        for text, method in {**used, **work.audits}.items():
            for need in filter(lacking.get, method.needs):
                raise InvalidInput(f"{text} for {called} needs {need}: {lacking[need]}; leave {text} out")
        for text, method in work.detectors.items():
            judged = () if work.judged(called, method) else [JUDGED[on] for on in method.detector.on]
            for need in filter(lacking.get, (*judged, *method.needs)):
                if need != "suspects":  # which are what it judges
                    raise InvalidInput(f"{text} for {called} needs {need}: {lacking[need]}; leave {text} out")


def _check_apart(built: Mapping[str, tuple[Spec, Attack]]) -> None:
    often = Counter(spec.text for spec, _ in built.values()).most_common(1)
    if often and often[0][1] > 1:
        raise InvalidInput(f"attacks: {often[0][0]} is given twice; give it once")


def _shown(
    asked: Study,
    dataset: datasets.Dataset,
    built: Mapping[str, tuple[Spec, Attack]],
    victims: Mapping[str, given.Victim],
) -> Study:
    """The study as results tell it: with the content of users' files in the place of their paths."""
    texts = {text: spec.text for text, (spec, _) in built.items()}

    def ratio(entry):
        head, equals, tail = str(entry).rpartition("=")
        return f"{texts[head]}={tail}" if equals and head in texts else entry

    ratios = tuple(map(ratio, asked.ratios))
    shown = datasets.shown(asked.dataset, dataset)
    files = given.shown(asked, victims)
    return replace(asked, dataset=shown, attacks=tuple(texts.values()), ratios=ratios, victims=files)


class _Specs(NamedTuple):
    """All that a study's texts ask for, by text."""

    model: Spec
    selection: Spec
    recipe: Spec
    attacks: dict[str, Spec]  # without users' own sets
    defenses: dict[str, Spec]
    audits: dict[str, Spec]
    detectors: dict[str, Spec]


def _parse(asked: Study) -> _Specs:
    """Every text of a study, here and nowhere else, and before a dataset is read, which may take minutes."""

    def all_of(texts, what: str) -> dict[str, Spec]:
        return {text: lookup(text, what) for text in texts}

    named = [text for text in asked.attacks if not text.startswith(user_sets.PREFIX)]
    return _Specs(
        model=lookup(asked.model, "model"),
        attacks=all_of(named, "attack"),
        selection=lookup(asked.selection, "selection"),
        defenses=all_of(asked.defenses, "defense"),
        recipe=cards.lookup(f"none:{asked.recipe}", defenses.DEFENSES, "defense", "recipe"),
        audits=all_of(asked.audits, "audit"),
        detectors=all_of(asked.detectors, "detector"),
    )


ASKED = {
    "model": ("--model", models.MODELS),
    "attack": ("--attacks", attacks.ATTACKS),
    "selection": ("--selection", selections.SELECTIONS),
    "defense": ("--defenses", defenses.DEFENSES),
    "audit": ("--audits", audits.AUDITS),
    "detector": ("--detectors", detection.DETECTORS),
}
"""What a study names: the option of the command for it, and what there is."""


def lookup(text: str, what: str) -> Spec:
    """A method of a kind in ASKED by its text.

    Raises:
        InvalidInput: it is not known, or of another kind, or a setting of it is wrong.
    """
    name, known = cards.split(text)[0], ASKED[what][1]
    others = {other: option for other, (option, registry) in ASKED.items() if name in registry}
    if others and name not in known:
        where, options = " and ".join(f"{other}s" for other in others), " or ".join(others.values())
        raise InvalidInput(f"{name} is not among the {what}s, but among the {where}; give it with {options}")
    return cards.lookup(text, known, what)


def _recipe(spec: Spec, dataset: datasets.Dataset) -> dict[str, Any]:
    """How victims are trained: by the dataset's own recipe, but for what the study says, by a preset or by itself."""
    values = {**spec.static, **spec.traced}
    said = {*defenses.NONE.card.presets[spec.preset], *spec.said}
    return dataset.recipe | {name: values[name] for name in said}


def _check_selection(work: Work) -> None:
    """Rows are searched for only where an attack poisons rows before training and leaves it open which."""
    for text, (spec, attack) in work.attacks.items():
        if work.scene.select.search is not None and (attack.train or spec.name == SET.name):
            given = f"selection {work.selection.text} for {text}, which leaves no choice of rows before training"
            raise InvalidInput(f"{given}; it works for attacks that only poison data; give --selection random")


def _scene(asked: Study, dataset: datasets.Dataset, net: Net, selection: Spec, barred: np.ndarray) -> Scene:
    make = selections.SELECTIONS[selection.name].make
    select = make(net, dataset.shape, dataset.count, **selection.static)
    clean, valid = _shares(asked, dataset, barred)
    reserved = asked.clean == "reserved"
    return Scene(
        net,
        dataset.count,
        dataset.padding,
        dataset.flip,
        select,
        clean,
        valid,
        reserved,
        barred,
        suspects=asked.suspects,
        given=bool(asked.victims),
    )


def _check_size(card: Card, shape: tuple[int, int, int]) -> None:
    if min(shape[:2]) < card.smallest:
        size = f"{shape[0]}x{shape[1]}"
        raise InvalidInput(f"{card.name} on {size} images; it needs {card.smallest} pixels a side; use larger images")


def _attack(spec: Spec, net: Net, shape, classes: int, recipe: Mapping[str, Any]) -> tuple[Spec, Attack]:
    method = attacks.ATTACKS[spec.name]
    spec = spec.fill(method.card, recipe)
    _check_size(method.card, shape)
    return identified(spec, method.card), method.make(net, shape, classes, **spec.static)


def build_defense(spec: Spec, net: Net, shape, classes: int) -> Method:
    """A defense for a network that reads images of a shape (height, width, channels).

    Raises:
        InvalidInput: it cannot be put to this network.
    """
    method = defenses.DEFENSES[spec.name]
    _check_size(method.card, shape)
    return Method(spec, method.card, method.card.needs_of(spec.static), method.make(net, shape, classes, **spec.static))


def _retrained(spec: Spec, recipe: Mapping[str, Any]) -> Spec:
    """A defense that drops rows and trains anew follows the study's recipe wherever its own text is silent."""
    card = defenses.DEFENSES[spec.name].card
    return spec.fill(card, recipe) if "suspects" in card.needs else spec


def build_audit(spec: Spec, shape) -> Method:
    """An audit of networks that read images of a shape.

    Raises:
        InvalidInput: the images are too small.
    """
    card = audits.AUDITS[spec.name].card
    _check_size(card, shape)
    return Method(spec, card, card.needs_of(spec.static))


def _detector(spec: Spec, net: Net, shape, classes: int) -> Method:
    method = detection.DETECTORS[spec.name]
    _check_size(method.card, shape)
    detector = method.make(net, shape, classes, **spec.static)
    scoring = {judges: score_all(net, detector, judges == "queries") for judges in detector.on}
    return Method(spec, method.card, method.card.needs_of(spec.static), detector=detector, scoring=scoring)


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
