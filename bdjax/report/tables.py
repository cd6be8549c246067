"""Tables of results: one row a cell over its seeds, and one row a pair of defenses."""

from itertools import product
from typing import NamedTuple

import numpy as np
import xarray

from bdjax.cards import split
from bdjax.errors import InvalidInput
from bdjax.io.store.results import DIVERGED, OK, UNASKED
from bdjax.report.statistics import MEASURES, Estimate, difference, estimates, usable
from bdjax.report.verdicts import BOUND, COSTLY, DESTROYED, UNDEFENDED, judge

PAIRED_MEASURES = ("acc", "asr")


class Row(NamedTuple):
    """One attack at one ratio under one defense, over its seeds."""

    attack: str
    ratio: float
    defense: str
    oracle: bool  # the defense uses what a defender would not have
    count: int  # seeds whose numbers count
    diverged: int  # seeds that became NaN in training
    measures: dict[str, Estimate]  # fractions, by measure
    lost: Estimate  # ACC of the undefended victims minus this one, paired by seed
    stopped: Estimate  # ASR likewise
    verdicts: tuple[str, ...]  # of those in `verdicts.rules`

    @property
    def wrecked(self) -> bool:
        """Whether it cost more accuracy than may be, so that its other figures earn no praise."""
        return DESTROYED in self.verdicts or COSTLY in self.verdicts


class Pair(NamedTuple):
    """Two defenses of the same victims: `first` minus `second`, seed by seed."""

    attack: str
    ratio: float
    first: str
    second: str
    measures: dict[str, Estimate]  # differences of fractions, by measure


def table(results: xarray.Dataset, measures: tuple[str, ...] = MEASURES, bound: float = BOUND) -> list[Row]:
    """One row an (attack, ratio, defense), in the order of the results; cells that were never run have none.

    bound: the loss of accuracy, a fraction, beyond which a row is said to cost it.
    """
    status = results["status"].transpose("attack", "ratio", "defense", "seed").values
    measured = {name: estimates(usable(results, name).values) for name in measures}
    judged = judge(results, bound)
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
            *(part[a, r, d] for part in judged),
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


def largest(results: xarray.Dataset) -> dict[str, float]:
    """Attack -> the largest ratio that was asked of it, whether or not it has been run."""
    asked = (results["status"] != UNASKED).any(["seed", "defense"]).transpose("attack", "ratio").values
    ratios = results["ratio"].values
    names = [str(name) for name in results["attack"].values]
    return {name: float(ratios[row].max()) for name, row in zip(names, asked, strict=True) if row.any()}


def foremost(results: xarray.Dataset, rows: list[Row]) -> dict[tuple[str, str], Row]:
    """(attack, defense) -> its row at the attack's largest ratio, where that has numbers."""
    top = largest(results)
    return {(row.attack, row.defense): row for row in rows if row.count and row.ratio == top[row.attack]}


def ranked(results: xarray.Dataset, rows: list[Row]) -> list[str]:
    """Defenses in the order in which a reader meets them: none, the others by mean DER, oracles, which do not compete.

    Those that cost too much in more than half of their rows come after all that do not. It goes by the largest ratio
    of each attack. The mean over attacks is good for an order only: it may be true of none of them, so none is stated.
    """
    own: dict[str, list[Row]] = {row.defense: [] for row in rows}
    for row in foremost(results, rows).values():
        own[row.defense].append(row)
    oracles = {row.defense for row in rows if row.oracle}

    def place(name: str) -> tuple:
        ratings = [one.measures["der"].mean for one in own[name] if one.measures["der"].count]
        costly = 2 * sum(one.wrecked for one in own[name]) > len(own[name])
        return (name != UNDEFENDED, name in oracles, costly, -float(np.mean(ratings)) if ratings else 0.0)

    return sorted(own, key=place)


def _oracle(results: xarray.Dataset) -> dict[str, bool]:
    names = [str(name) for name in results["defense"].values]
    flags = results["oracle"].values if "oracle" in results.coords else np.zeros(len(names), bool)
    return {name: bool(flag) for name, flag in zip(names, flags, strict=True)}
