"""What the page's script draws of detectors, in the form of `content`: figures, ROC curves, scores, suspect images."""

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np
import xarray

from bdjax.metrics.detection import FIGURES
from bdjax.report import detection
from bdjax.report.detection import HEADS
from bdjax.report.pictures import address
from bdjax.report.statistics import estimates
from bdjax.report.studies import Shown

ON = ("rows", "queries")
SHOWN = 12
"""Suspect images a cell."""
BYTES = 1_000_000
"""Of all suspect images together; cells beyond are left out, and counted."""


def evidence(studies: list[Shown], axes: Mapping[str, list], estimate: Callable) -> dict[str, Any]:
    """All of the section on detectors; estimate: `content.estimate`. Empty lists where no detector ran."""
    found: dict[str, Any] = {"rows": [], "clean": [], "roc": [], "histograms": [], "grid": []}
    for k, study in enumerate(studies):
        if detection.detects(study.results):
            found["rows"] += _rows(k, study.results, axes, estimate)
            found["clean"] += [
                [k, axes["detector"].index(detector), ON.index(on), one.count, estimate(one)]
                for (detector, on), one in detection.false_alarms(study.results).items()
            ]
            found["roc"] += _roc(k, study.results, axes, estimate)
            found["grid"] = (100 * study.results["false_alarms"].values).round(2).tolist()
        found["histograms"] += _histograms(k, study, axes)
    pictured, left = _suspects(studies, axes)
    heads = [{"name": name, "title": HEADS[name][0], "about": HEADS[name][1]} for name in FIGURES]
    return found | {"figures": heads, "suspects": pictured, "left": left}


def _rows(study: int, results: xarray.Dataset, axes: Mapping[str, list], estimate: Callable) -> Iterable[list]:
    """[study, attack, ratio, detector, on, n, without backdoor, seconds, estimates of FIGURES]."""
    spent = results["detection_seconds"].mean("seed").to_series()
    for row in detection.detected(results):
        seconds = float(spent[row.attack, row.ratio, row.detector, row.on])
        where = (axes["attack"].index(row.attack), axes["ratio"].index(row.ratio))
        yield [
            *(study, *where, axes["detector"].index(row.detector), ON.index(row.on), row.count, row.weak),
            round(seconds, 1) if np.isfinite(seconds) else None,
            *(estimate(row.measures[name]) for name in FIGURES),
        ]


def _roc(study: int, results: xarray.Dataset, axes: Mapping[str, list], estimate: Callable) -> Iterable[list]:
    """[study, attack, ratio, detector, on, estimates over the grid] at each attack's largest ratio with a curve."""
    curves = detection.curves(results)
    for attack, detector, on in product(*(curves[dim].values for dim in ("attack", "detector", "on"))):
        one = curves.sel(attack=attack, detector=detector, on=on)
        ratios = one["ratio"].values[np.isfinite(one).any(["false_alarms", "seed"]).values]
        if ratios.size:
            points = [estimate(point, digits=2) for point in estimates(one.sel(ratio=ratios.max()).values)]
            where = (axes["attack"].index(str(attack)), axes["ratio"].index(float(ratios.max())))
            yield [study, *where, axes["detector"].index(str(detector)), ON.index(str(on)), points]


def _histograms(study: int, shown: Shown, axes: Mapping[str, list]) -> Iterable[list]:
    """[study, attack, ratio, seed, detector, on, histogram] of one victim an (attack, detector, on).

    That at the largest ratio, and of those the one of the lowest seed.
    """
    chosen: dict[tuple, tuple] = {}
    for place in shown.scores or {}:
        attack, ratio, seed, detector, on = place
        one = (-ratio, seed)
        if one < chosen.get((attack, detector, on), (np.inf, np.inf)):
            chosen[attack, detector, on] = one
    for (attack, detector, on), (ratio, seed) in chosen.items():
        cell = shown.scores[attack, -ratio, seed, detector, on]
        drawn = detection.histogram(cell["score"], cell["truth"], cell.get("flagged"))
        where = (axes["attack"].index(attack), axes["ratio"].index(-ratio), int(seed))
        if drawn.edges:
            yield [study, *where, axes["detector"].index(detector), ON.index(on), _rounded(drawn)]


def _rounded(drawn: detection.Histogram) -> dict[str, Any]:
    shares = {name: (100 * np.asarray(getattr(drawn, name))).round(2).tolist() for name in ("clean", "poisoned")}
    lowest = None if drawn.lowest is None else float(f"{drawn.lowest:.4g}")
    return {"edges": [float(f"{edge:.5g}") for edge in drawn.edges], "lowest": lowest} | shares


def _suspects(studies: list[Shown], axes: Mapping[str, list]) -> tuple[list[list], int]:
    """[study, attack, detector, on, [[picture, whether poisoned, score], ...]], and how many cells are left out."""
    found, spent, left = [], 0, 0
    for k, study in enumerate(studies):
        for (attack, detector, on), (images, poisoned, score) in (study.suspects or {}).items():
            order = np.argsort(-np.asarray(score, float), kind="stable")[:SHOWN]
            shown = [[address(np.asarray(images[i])), bool(poisoned[i]), float(f"{score[i]:.4g}")] for i in order]
            size = sum(len(one[0]) for one in shown)
            if spent + size > BYTES:
                left += 1
                continue
            spent += size
            found.append([k, axes["attack"].index(attack), axes["detector"].index(detector), ON.index(on), shown])
    return found, left
