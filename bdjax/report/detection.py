"""What detectors found: figures over seeds, false alarms on clean models, and the scores behind them.

Detectors judge undefended victims. A victim that its attack left without a backdoor gives a detector nothing to find:
it is counted and part of no mean.
"""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import xarray

from bdjax.metrics.detection import FIGURES
from bdjax.report.statistics import Estimate, estimates
from bdjax.report.verdicts import HALF, UNDEFENDED

HEADS = {
    "auroc": ("AUROC", "area under the ROC curve: 50% is chance"),
    "ap": ("AP", "average precision"),
    "tpr_at_1": ("TPR at 1%", "poisoned found where 1% of clean are flagged"),
    "tpr_at_5": ("TPR at 5%", "poisoned found where 5% of clean are flagged"),
    "tpr_at_10": ("TPR at 10%", "poisoned found where 10% of clean are flagged"),
    "tpr": ("TPR", "poisoned found at the method's own threshold"),
    "fpr": ("FPR", "clean flagged at the method's own threshold"),
}
"""Figure -> its head in a table and what it is."""

ORDER = ("attack", "ratio", "detector", "on", "seed")
BINS = 30


class Detected(NamedTuple):
    """One detector on the victims of one attack at one ratio."""

    attack: str
    ratio: float
    detector: str
    on: str  # rows or queries
    count: int  # victims that it judged and that count
    weak: int  # victims that it judged, without a backdoor
    measures: dict[str, Estimate]  # fractions, by figure


class Histogram(NamedTuple):
    """The scores of one cell, clean ones beside poisoned ones."""

    edges: list[float]  # BINS + 1
    clean: list[float]  # share of the clean rows in each bin
    poisoned: list[float]  # of the poisoned ones
    lowest: float | None  # lowest score that the method's own threshold flags


def detects(results: xarray.Dataset) -> bool:
    """Whether detectors were part of the study."""
    return "detector" in results.dims and "auroc" in results


def detected(results: xarray.Dataset) -> list[Detected]:
    """One row an (attack, ratio, detector, on) that was judged, at ratio 0 with false alarms alone."""
    if not detects(results):
        return []
    judged = _judged(results)
    weak = _weak(results).broadcast_like(judged).transpose(*ORDER).values & judged.values
    counts = judged.values & ~weak
    measured = {name: estimates(np.where(counts, _values(results, name), np.nan)) for name in FIGURES}
    rows = []
    for place in np.ndindex(counts.shape[:-1]):
        if judged.values[place].any():
            names = [judged[dim].values[k] for dim, k in zip(ORDER, place, strict=False)]
            measures = {name: one[place] for name, one in measured.items()}
            row = Detected(str(names[0]), float(names[1]), str(names[2]), str(names[3]), 0, 0, measures)
            rows.append(row._replace(count=int(counts[place].sum()), weak=int(weak[place].sum())))
    return rows


def false_alarms(results: xarray.Dataset) -> dict[tuple[str, str], Estimate]:
    """(detector, on) -> share of rows or queries flagged on clean models: a value a seed, the mean over attacks."""
    if not detects(results) or 0 not in results["ratio"].values:
        return {}
    values = results["fpr"].sel(ratio=0).mean("attack").transpose("detector", "on", "seed")
    found = estimates(values.values)
    names = product(enumerate(values["detector"].values), enumerate(values["on"].values))
    return {(str(one), str(on)): found[k, j] for (k, one), (j, on) in names if found[k, j].count}


def curves(results: xarray.Dataset) -> xarray.DataArray:
    """ROC curves of the victims that count: dims ORDER with false_alarms before seed, a fraction each."""
    return results["roc"].where(~_weak(results)).transpose(*ORDER[:-1], "false_alarms", "seed")


def histogram(score: np.ndarray, truth: np.ndarray, flagged: np.ndarray | None) -> Histogram:
    """Shares of scores in bins of equal width.

    The outermost half percent of a side is put into the first and last bin: one far score would flatten all others.

    Args:
        score: float (n,), larger is more suspect.
        truth: int8 (n,): 1 poisoned, 0 clean, -1 not judged.
        flagged: bool (n,), the method's own decision; None where it makes none.
    """
    kept = (truth >= 0) & np.isfinite(score)
    score, truth = np.asarray(score, float)[kept], np.asarray(truth)[kept]
    if not score.size:
        return Histogram([], [], [], None)
    low, high = np.quantile(score, (0.005, 0.995))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    inside = score.clip(edges[0], edges[-1])
    shares = [np.histogram(inside[truth == kind], edges)[0] / max(1, (truth == kind).sum()) for kind in (0, 1)]
    above = score[np.asarray(flagged)[kept]] if flagged is not None else score[:0]
    return Histogram(edges.tolist(), *(one.tolist() for one in shares), float(above.min()) if above.size else None)


def _judged(results: xarray.Dataset) -> xarray.DataArray:
    found = np.isfinite(results["auroc"]) | np.isfinite(results["fpr"]) | np.isfinite(results["tpr"])
    return found.transpose(*ORDER)


def _values(results: xarray.Dataset, name: str) -> Any:
    return results[name].transpose(*ORDER).values


def _weak(results: xarray.Dataset) -> xarray.DataArray:
    """Whether a victim has no backdoor to find, dims (attack, ratio, seed); clean models are not asked for one."""
    if UNDEFENDED not in results["defense"].values:
        return xarray.zeros_like(results["asr"].isel(defense=0, drop=True), bool)
    return (results["asr"].sel(defense=UNDEFENDED, drop=True) < HALF) & (results["ratio"] > 0)
