"""A study resolved: checked against what there is, its methods built for its network and data."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bdjax import attacks, cards, defenses, models, selections
from bdjax.attacks.parts.pictures import identified
from bdjax.attacks.poisoned_set import CARD as SET
from bdjax.cards import Spec
from bdjax.cells.functions import Scene
from bdjax.errors import InvalidInput
from bdjax.io import datasets
from bdjax.io.datasets import normalization
from bdjax.study import Study, given, plugins, study, user_sets
from bdjax.study.building import build_audit, build_defense, build_detector, check_size, lookup
from bdjax.study.rehearsal import rehearse
from bdjax.study.work import ENGINE, Work, check_needs
from bdjax.types import Attack, Net, real


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
    check_size(models.MODELS[model.name].card, shape)
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
        given.check_fit(victims, net, dataset.test, classes)
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
        detectors={text: build_detector(spec, net, shape, classes) for text, spec in specs.detectors.items()},
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


def _attack(spec: Spec, net: Net, shape, classes: int, recipe: Mapping[str, Any]) -> tuple[Spec, Attack]:
    method = attacks.ATTACKS[spec.name]
    spec = spec.fill(method.card, recipe)
    check_size(method.card, shape)
    return identified(spec, method.card), method.make(net, shape, classes, **spec.static)


def _retrained(spec: Spec, recipe: Mapping[str, Any]) -> Spec:
    """A defense that drops rows and trains anew follows the study's recipe wherever its own text is silent."""
    card = defenses.DEFENSES[spec.name].card
    return spec.fill(card, recipe) if "suspects" in card.needs else spec


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
