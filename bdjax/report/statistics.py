"""Statistics over seeds: means with 95% Student intervals, and differences between defenses paired by seed.

Seeds that diverged, were never run, or cannot exist count neither in a mean nor in its n.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import xarray

from bdjax.io.store.results import OK

LEVEL = 0.95
FEWEST = 3
"""With fewer seeds than this there is no interval, only the values."""

CELL = ("attack", "ratio", "seed", "defense")
MEASURES = ("acc", "asr", "ra", "der")
ABOUT = ("cross", "overlap", "seconds", "status")
"""What the results say of a cell beside its measures."""


class Interval(NamedTuple):
    """Student's interval over the last axis of some values: arrays of the remaining axes, or numbers for one cell."""

    mean: np.ndarray  # NaN where count is 0
    low: np.ndarray  # NaN where count is below FEWEST
    high: np.ndarray
    count: np.ndarray


class Estimate(NamedTuple):
    """What the seeds of one cell say of one measure."""

    mean: float
    low: float
    high: float
    count: int
    values: tuple[float, ...]  # in the order of the seeds, without those that do not count


def crossed(results: xarray.Dataset, attack: str) -> dict[str, float]:
    """Cross accuracy by ACC of an attack's undefended victims at its largest ratio, as `cross/acc`; {} without any."""
    if "cross" not in results or "none" not in results.defense:
        return {}
    one = results[["cross", "acc"]].sel(attack=attack, defense="none")
    found = (one.cross / one.acc).mean("seed").where(one.ratio > 0).dropna("ratio")
    return {"cross/acc": float(found[-1])} if found.size else {}


@cache
def quantile(count: int) -> float:
    """The two-sided 95% quantile of Student's distribution for the mean of `count` values."""
    from scipy.special import stdtrit  # scipy.stats has the same and takes a second to import

    return float(stdtrit(count - 1, 0.5 + LEVEL / 2))


def audited(results: xarray.Dataset) -> list[str]:
    """The variables that audits added: those of every cell that are neither a measure nor about the cell."""
    known = (*MEASURES, *ABOUT)
    return [str(name) for name, one in results.items() if name not in known and set(CELL) <= set(one.dims)]


def student(values: np.ndarray) -> Interval:
    """The mean over the last axis and its 95% Student interval; NaN marks values that do not count.

    An interval is not cut at the ends of a measure's range: for a fraction near 1 it may pass 1.
    """
    finite = np.isfinite(values)
    count = finite.sum(-1)
    several = np.maximum(count, 1)
    mean = np.where(finite, values, 0).sum(-1) / several
    square = np.where(finite, (values - mean[..., None]) ** 2, 0).sum(-1)
    deviation = np.sqrt(square / np.maximum(count - 1, 1))
    width = np.vectorize(quantile, otypes=[float])(np.maximum(count, 2)) * deviation / np.sqrt(several)
    width = np.where(count < FEWEST, np.nan, width)
    mean = np.where(count == 0, np.nan, mean)
    return Interval(mean, mean - width, mean + width, count)


def usable(results: xarray.Dataset, name: str) -> xarray.DataArray:
    """Variable `name` where the cell is whole, NaN elsewhere; dims (attack, ratio, defense, its own, seed)."""
    values = results[name].astype(float).where(results["status"] == OK)
    return values.transpose("attack", "ratio", "defense", ..., "seed")


def difference(results: xarray.Dataset, name: str, first: str, second: str) -> xarray.DataArray:
    """Measure `name` under defense `first` minus under `second`, seed by seed: dims (attack, ratio, its own, seed)."""
    values = usable(results, name)
    return values.sel(defense=first, drop=True) - values.sel(defense=second, drop=True)


def estimates(values: np.ndarray) -> np.ndarray:
    """An `Estimate` for every row of `values` (..., seeds), as an object array of the leading axes."""
    interval = student(values)
    result = np.empty(values.shape[:-1], object)
    for index in np.ndindex(result.shape):
        row = values[index]
        kept = tuple(float(value) for value in row[np.isfinite(row)])
        result[index] = Estimate(*(float(part[index]) for part in interval[:3]), len(kept), kept)
    return result
