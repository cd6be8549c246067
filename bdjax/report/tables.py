"""Tables of results: one row a cell over its seeds, and one row a pair of defenses."""

from itertools import product
from typing import NamedTuple

import numpy as np
import xarray

from bdjax.cards import split
from bdjax.errors import InvalidInput
from bdjax.io.store.results import DIVERGED, OK
from bdjax.report.statistics import MEASURES, Estimate, difference, estimates, usable

PAIRED_MEASURES = ("acc", "asr")
UNDEFENDED = "none"


class Row(NamedTuple):
    """One attack at one ratio under one defense, over its seeds."""

    attack: str
    ratio: float
    defense: str
    oracle: bool  # the defense uses what a defender would not have
    count: int  # seeds whose numbers count
    diverged: int  # seeds that became NaN in training
    measures: dict[str, Estimate]  # fractions, by measure


class Pair(NamedTuple):
    """Two defenses of the same victims: `first` minus `second`, seed by seed."""

    attack: str
    ratio: float
    first: str
    second: str
    measures: dict[str, Estimate]  # differences of fractions, by measure


def table(results: xarray.Dataset, measures: tuple[str, ...] = MEASURES) -> list[Row]:
    """One row an (attack, ratio, defense), in the order of the results; cells that were never run have none."""
    status = results["status"].transpose("attack", "ratio", "defense", "seed").values
    measured = {name: estimates(usable(results, name).values) for name in measures}
    oracle = _oracle(results)
    rows = []
    axes = [list(enumerate(results[name].values)) for name in ("attack", "ratio", "defense")]
    for (a, attack), (r, ratio), (d, defense) in product(*axes):
        states = status[a, r, d]
        row = Row(
            str(attack),
            float(ratio),
            str(defense),
            oracle[str(defense)],
            int((states == OK).sum()),
            int((states == DIVERGED).sum()),
            {name: value[a, r, d] for name, value in measured.items()},
        )
        if row.count or row.diverged:
            rows.append(row)
    return rows


def paired(results: xarray.Dataset, first: str, second: str) -> list[Pair]:
    """Defense `first` minus defense `second`, paired by seed: a row an (attack, ratio) where both have numbers.

    Raises:
        InvalidInput: the results hold no such defense.
    """
    known = [str(name) for name in results["defense"].values]
    for name in (first, second):
        if name not in known:
            raise InvalidInput(f"no results of defense {name!r}; choose from {', '.join(known)}")
    measured = {name: estimates(difference(results, name, first, second).values) for name in PAIRED_MEASURES}
    rows = []
    for (a, attack), (r, ratio) in product(enumerate(results["attack"].values), enumerate(results["ratio"].values)):
        measures = {name: value[a, r] for name, value in measured.items()}
        if any(estimate.count for estimate in measures.values()):
            rows.append(Pair(str(attack), float(ratio), first, second, measures))
    return rows


def pairs(defenses: list[str]) -> list[tuple[str, str]]:
    """The pairs worth a row: every defense against none and against the first one, and FT-SAM against FT."""
    others = [name for name in defenses if name != UNDEFENDED]
    chosen = [(name, UNDEFENDED) for name in others if UNDEFENDED in defenses]
    chosen += [(name, others[0]) for name in others[1:]]
    kinds = {kind: [name for name in others if split(name)[0] == kind] for kind in ("ft_sam", "ft")}
    chosen += [pair for pair in product(kinds["ft_sam"], kinds["ft"]) if pair[::-1] not in chosen]
    return list(dict.fromkeys(chosen))


def largest(rows: list[Row]) -> dict[tuple[str, str], Row]:
    """(attack, defense) -> its row at the attack's largest ratio that has numbers."""
    top: dict[str, float] = {}
    for row in rows:
        if row.count:
            top[row.attack] = max(row.ratio, top.get(row.attack, 0.0))
    return {(row.attack, row.defense): row for row in rows if row.count and row.ratio == top[row.attack]}


def _oracle(results: xarray.Dataset) -> dict[str, bool]:
    names = [str(name) for name in results["defense"].values]
    flags = results["oracle"].values if "oracle" in results.coords else np.zeros(len(names), bool)
    return {name: bool(flag) for name, flag in zip(names, flags, strict=True)}
