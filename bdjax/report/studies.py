"""What a page shows of a study, and how several studies on one page are told apart."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray

from bdjax.cards import Card
from bdjax.report.wording import discreet

NAMED = ("dataset", "model", "recipe")
"""What a study is one of: each a column wherever results leave their study."""


class Shown(NamedTuple):
    """One study as the page takes it; all but the results may be missing."""

    results: xarray.Dataset
    curves: xarray.Dataset | None = None  # dims (attack, ratio, seed, defense, epoch), NaN beyond the end
    samples: dict[str, tuple] | None = None  # attack -> clean and triggered uint8 (m, height, width, 1 or 3), figures
    cards: Mapping[str, Sequence[Card]] = {}  # of all methods used, by what they are: attacks, defenses, detectors ...
    suspects: dict[tuple, tuple] | None = None  # (attack, detector, on) -> images uint8 (m, ...), poisoned, score (m,)
    scores: dict[tuple, dict[str, Any]] | None = None  # (attack, ratio, seed, detector, on) -> score, truth, flagged


def named_cards(studies: Sequence[Shown], kind: str) -> dict[str, Card]:
    """The cards of a kind by name; a defense and a detector may share theirs."""
    return {card.name: card for study in studies for card in study.cards.get(kind, ())}


def about(results: xarray.Dataset) -> dict[str, str]:
    """Data set, model and recipe of a study; "default" is the data set's own recipe, "" what the results do not say."""
    config = json.loads(results.attrs.get("config") or "{}")
    recipe = config.get("recipe")
    known = {"dataset": results.attrs.get("dataset", ""), "model": results.attrs.get("model", "")}
    return discreet(known | {"recipe": "" if recipe is None else recipe or "default"})


def are_given(results: xarray.Dataset) -> bool:
    """Whether the victims of a study were given, so that nobody knows a poison ratio."""
    return bool(np.isinf(results["ratio"].values).all())


def labels(found: list[xarray.Dataset]) -> list[str]:
    """What each study is called beside the others: what sets it apart of NAMED, and a number where nothing does."""
    known = [about(results) for results in found]
    apart = [name for name in NAMED if len({one[name] for one in known}) > 1]
    called = [" · ".join(one[name] or "?" for name in apart) for one in known]
    return [name if called.count(name) == 1 else f"{name} (study {k + 1})".strip() for k, name in enumerate(called)]
