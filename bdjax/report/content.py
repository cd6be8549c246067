"""What the page's script draws from: numbers of all studies as plain values, in percent, places instead of names.

An estimate is a list: [mean, low, high], or the values themselves where they are too few for an interval, or nothing.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray

from bdjax.io.store.results import ABSENT
from bdjax.report.evidence import evidence
from bdjax.report.names import AXES, BY_CLASS, audit_of, described, named
from bdjax.report.reported import reported
from bdjax.report.statistics import CELL, MEASURES, Estimate, audited, estimates, usable
from bdjax.report.studies import Shown, about, labels, named_cards
from bdjax.report.tables import Row, largest, paired, pairs, ranked
from bdjax.report.verdicts import UNDEFENDED, rules

POINTS = 150_000
"""Points of all training curves together, beyond which each shows fewer of its epochs."""
DRAWN = 3
"""Decimals of points of lines."""
FIRST = ("loss", "accuracy")
"""Training curves that a reader looks for first."""
BEST = 5
"""Defenses that figures begin with."""


def content(studies: list[Shown], rows: list[list[Row]], bound: float) -> dict[str, Any]:
    """All that the script shows.

    Args:
        studies: what is shown.
        rows: of `tables.table`, for each study.
        bound: the loss of accuracy, a fraction, beyond which a defense is not compared; that of `rows`.
    """
    results = [study.results for study in studies]
    cards = {kind: named_cards(studies, kind) for kind in ("attacks", "defenses", "detectors", "audits")}
    axes = _axes(results, rows)
    own = [(k, study, own) for k, (study, own) in enumerate(zip(studies, rows, strict=True))]
    return {
        "studies": [{"label": name} | about(one) for name, one in zip(labels(results), results, strict=True)],
        "attacks": [named(text, cards["attacks"])._asdict() for text in axes["attack"]],
        "defenses": [named(text, cards["defenses"], text in _oracles(rows))._asdict() for text in axes["defense"]],
        "detectors": [named(text, cards["detectors"])._asdict() for text in axes["detector"]],
        "ratios": [ratio if math.isfinite(ratio) else None for ratio in axes["ratio"]],
        "undefended": axes["defense"].index(UNDEFENDED) if UNDEFENDED in axes["defense"] else None,
        "best": [k for k, text in enumerate(axes["defense"]) if text != UNDEFENDED][:BEST],
        "bound": 100 * bound,
        "rules": rules(bound),
        "tops": [
            {axes["attack"].index(name): axes["ratio"].index(top) for name, top in largest(one).items()}
            for one in results
        ],
        "rows": [one for k, study, mine in own for one in _rows(k, study.results, mine, axes)],
        "awaited": [one for k, study, mine in own for one in _awaited(k, study.results, mine, axes)],
        "pairs": [one for k, study, _ in own for one in _pairs(k, study.results, axes)],
        "audits": [one for k, study, _ in own for one in _audits(k, study.results, axes, cards["audits"])],
        "curves": [one for k, study, _ in own for one in _training(k, study.curves, axes, len(studies))],
        "detection": evidence(studies, axes, estimate),
    }


def estimate(one: Estimate, scale: float = 100.0, digits: int = 4) -> list[float]:
    """An estimate as the script reads it: so many decimals, below 1 significant digits.

    Four are enough to be rounded once more; figures that are drawn and not written need fewer.
    """
    parts = one[:3] if math.isfinite(one.low) else one.values
    return [_short(scale * part, digits) for part in parts]


def _short(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}") if abs(value) < 1 else round(float(value), digits)


def _axes(results: list[xarray.Dataset], rows: list[list[Row]]) -> dict[str, list]:
    """The coordinates of all studies together: defenses as they rank, the best of all studies first."""
    orders = [ranked(one, mine) for one, mine in zip(results, rows, strict=True)]
    places: dict[str, list[float]] = {}
    for order in orders:
        for k, name in enumerate(order):
            places.setdefault(name, []).append(k / len(order))
    first = sorted(places, key=lambda name: (name != UNDEFENDED, sum(places[name]) / len(places[name])))
    known = {
        name: [str(text) for one in results if name in one for text in one[name].values]
        for name in ("attack", "defense", "detector")
    }
    return {
        "attack": list(dict.fromkeys(known["attack"])),
        "ratio": sorted({float(ratio) for one in results for ratio in one["ratio"].values}),
        "defense": list(dict.fromkeys([*first, *known["defense"]])),
        "detector": list(dict.fromkeys(known["detector"])),
    }


def _oracles(rows: list[list[Row]]) -> set[str]:
    return {row.defense for mine in rows for row in mine if row.oracle}


def _place(axes: Mapping[str, list], attack: str, ratio: float) -> tuple[int, int]:
    return axes["attack"].index(attack), axes["ratio"].index(ratio)


def _rows(study: int, results: xarray.Dataset, rows: list[Row], axes: Mapping[str, list]) -> Iterable[list]:
    """[study, attack, ratio, defense, n, diverged, acc, asr, ra, der, lost, verdicts, seconds, lost at 0, reported]."""
    clean = {(row.attack, row.defense): row.lost for row in rows if row.ratio == 0}
    spent = results["seconds"].mean("seed").to_series() if "seconds" in results else {}
    verdicts = list(rules())
    published = reported(results)
    for row in rows:
        seconds = float(spent.get((row.attack, row.ratio, row.defense), math.nan)) if len(spent) else math.nan
        harm = clean.get((row.attack, row.defense))
        yield [
            *(study, *_place(axes, row.attack, row.ratio), axes["defense"].index(row.defense)),
            *(row.count, row.diverged, *(estimate(row.measures[name]) for name in MEASURES), estimate(row.lost)),
            [verdicts.index(verdict) for verdict in row.verdicts],
            round(seconds, 1) if math.isfinite(seconds) else None,
            estimate(harm) if harm else [],
            published.get((row.attack, row.ratio, row.defense), []),
        ]


def _awaited(study: int, results: xarray.Dataset, rows: list[Row], axes: Mapping[str, list]) -> Iterable[list]:
    """[study, attack, ratio, defense] of what was asked for and has no seed yet."""
    there = {(row.attack, row.ratio, row.defense) for row in rows}
    absent = (results["status"] == ABSENT).any("seed").transpose("attack", "ratio", "defense")
    names = [absent[dim].values for dim in absent.dims]
    for a, r, d in np.argwhere(absent.values):
        place = (str(names[0][a]), float(names[1][r]), str(names[2][d]))
        if place not in there:
            yield [study, *_place(axes, *place[:2]), axes["defense"].index(place[2])]


def _pairs(study: int, results: xarray.Dataset, axes: Mapping[str, list]) -> Iterable[list]:
    """[study, attack, ratio, first, second, n, asr, acc]: differences in points."""
    defenses = [str(name) for name in results["defense"].values]
    for pair in pairs(defenses):
        places = [axes["defense"].index(name) for name in pair]
        for row in paired(results, *pair):
            acc, asr = row.measures["acc"], row.measures["asr"]
            where = (study, *_place(axes, row.attack, row.ratio), *places)
            yield [*where, asr.count, estimate(asr), estimate(acc)]


def _audits(study: int, results: xarray.Dataset, axes: Mapping[str, list], cards: Mapping) -> Iterable[dict]:
    """Every variable that an audit added: numbers of every cell, or lines along an axis of their own."""
    for name in audited(results):
        if not np.issubdtype(results[name].dtype, np.number):
            continue
        variable = results[name]
        audit = audit_of(name, cards)
        about = described(variable, cards)
        own = [dim for dim in variable.dims if dim not in CELL]
        told = {"name": name, "audit": audit, "title": about.title, "unit": about.unit}
        told["heading"] = cards[audit].title if audit in cards else audit
        if not own:
            yield told | {"rows": _numbers(study, usable(results, name), axes, about.scale)}
        elif len(own) == 1:
            steps = _steps(variable, own[0], audit)
            yield told | steps | {"lines": _lines(study, usable(results, name), axes, about.scale)}


def _steps(variable: xarray.DataArray, dim: str, audit: str) -> dict[str, Any]:
    """What lies along the own axis of a variable: its values and what they are called."""
    if dim in variable.coords:
        return {"along": dim.replace("_", " "), "x": variable[dim].values.tolist()}
    size = variable.sizes[dim]
    if audit.partition(":")[0] in AXES:
        return {"along": AXES[audit.partition(":")[0]], "x": np.linspace(0, 1, size).round(4).tolist()}
    along = "class" if audit.partition(":")[0] in BY_CLASS else "step"
    return {"along": along, "x": list(range(size))}


def _numbers(study: int, values: xarray.DataArray, axes: Mapping[str, list], scale: float) -> list[list]:
    """[study, attack, ratio, defense, n, estimate] of every cell that has numbers."""
    found = estimates(values.values)
    rows = []
    for place in np.ndindex(found.shape):
        if found[place].count:
            attack, ratio, defense = (values[dim].values[k] for dim, k in zip(values.dims, place, strict=False))
            where = (*_place(axes, str(attack), float(ratio)), axes["defense"].index(str(defense)))
            rows.append([study, *where, found[place].count, estimate(found[place], scale)])
    return rows


def _lines(study: int, values: xarray.DataArray, axes: Mapping[str, list], scale: float) -> list[list]:
    """[study, attack, ratio, defense, estimates along the axis] at the largest ratio of each attack that has them."""
    lines = []
    for attack in values["attack"].values:
        one = values.sel(attack=attack)
        ratios = one["ratio"].values[np.isfinite(one).any([dim for dim in one.dims if dim != "ratio"]).values]
        if not ratios.size:
            continue
        ratio = float(ratios.max())
        found = estimates(one.sel(ratio=ratio).values)  # defense, own axis
        for defense, line in zip(one["defense"].values, found, strict=True):
            if any(point.count for point in line):
                where = (*_place(axes, str(attack), ratio), axes["defense"].index(str(defense)))
                lines.append([study, *where, [estimate(point, scale, DRAWN) for point in line]])
    return lines


def _training(study: int, curves: xarray.Dataset | None, axes: Mapping[str, list], studies: int) -> Iterable[dict]:
    """Training curves against epochs, of so many epochs that all studies together stay within POINTS."""
    names = [name for name, one in curves.items() if np.issubdtype(one.dtype, np.number)] if curves is not None else []
    if not names or not curves.sizes["epoch"]:
        return
    epochs = curves.sizes["epoch"]
    lines = max(1, len(names) * curves.sizes["attack"] * curves.sizes["defense"] * studies)
    kept = np.unique(np.linspace(0, epochs - 1, min(epochs, max(8, POINTS // (3 * lines)))).round().astype(int))
    numbers = curves["epoch"].values if "epoch" in curves.coords else 1 + np.arange(epochs)
    for name in sorted(map(str, names), key=lambda one: (*(one != first for first in FIRST), one)):
        about = described(curves[name], {})
        values = curves[name].astype(float).isel(epoch=kept).transpose("attack", "ratio", "defense", "epoch", "seed")
        told = {"name": name, "title": about.title, "unit": about.unit, "along": AXES["epoch"]}
        told |= {"x": numbers[kept].tolist(), "lines": _lines(study, values, axes, about.scale)}
        if told["lines"]:
            yield told
