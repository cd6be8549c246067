"""What a study comes to once it is resolved: everything that it names, built, and what follows from that."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdjax import attacks, audits, cards, models, selections
from bdjax.attacks.poisoned_set import CARD as SET
from bdjax.cards import Card, Spec
from bdjax.cells.functions import Scene, Shared, wrapped
from bdjax.errors import InvalidInput
from bdjax.io import datasets
from bdjax.study import Study, given
from bdjax.types import Attack, Audit, Detector, Net, Stage

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
