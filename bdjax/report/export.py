"""Results as flat tables for other programs: CSV and parquet."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray

from bdjax.io.files import write_atomically
from bdjax.io.store.results import OK
from bdjax.report.detection import FIGURES, ORDER, detects
from bdjax.report.reported import reported
from bdjax.report.statistics import CELL, audited
from bdjax.report.studies import about


def export(results: xarray.Dataset | Sequence[xarray.Dataset], folder: Path) -> list[Path]:
    """Write results.csv and .parquet, a row a cell that was run; the same for each audit with own dims; and detectors.

    Fractions stay fractions; `reported_acc` and so on are what was published of the same cells, if anything. Data set,
    model and recipe are columns, as several studies go into the same files; so are `oracle` and `version` of the
    defense. Returns the paths written.
    """
    studies = [results] if isinstance(results, xarray.Dataset) else list(results)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = _both([_named(_beside(_cells(one, _plain(one)), one), one) for one in studies], folder / "results")
    own = dict.fromkeys(name for one in studies for name in audited(one) if name not in _plain(one))
    for name in own:
        frames = [_named(_cells(one, [name, "status"]), one) for one in studies if name in one]
        written += _both(frames, folder / re.sub(r"[^\w-]+", "_", name))
    frames = [_named(_judged(one), one) for one in studies if detects(one)]
    return written + (_both(frames, folder / "detectors") if frames else [])


def _plain(results: xarray.Dataset) -> list[str]:
    """The variables with one number a cell."""
    return [str(name) for name, variable in results.items() if set(variable.dims) <= set(CELL)]


def _cells(results: xarray.Dataset, names: list[str]):
    frame = results[names].to_dataframe()
    return frame[frame["status"] >= OK].reset_index()


def _judged(results: xarray.Dataset):
    """A row a (victim, detector, on) that was judged; ROC curves are in the results alone."""
    frame = results[[*FIGURES, "detection_seconds"]].to_dataframe(dim_order=list(ORDER))
    return frame[np.isfinite(frame[list(FIGURES)]).any(axis=1)].reset_index()


def _beside(frame, results: xarray.Dataset):
    """The cells with what was published of the same attack, ratio and defense; the first source where there are two."""
    published = reported(results)
    found = [published.get(place, [None])[0] for place in zip(frame.attack, frame.ratio, frame.defense, strict=True)]
    if any(found):
        frame["reported_source"] = [one.source if one else None for one in found]
        for name in ("acc", "asr", "ra"):
            values = [getattr(one, name) if one else None for one in found]
            frame[f"reported_{name}"] = [np.nan if value is None else value / 100 for value in values]
    return frame


def _named(frame, results: xarray.Dataset):
    for place, (name, value) in enumerate(about(results).items()):
        frame.insert(place, name, value)
    return frame


def _both(frames: list, stem: Path) -> list[Path]:
    import pandas

    frame = pandas.concat(frames, ignore_index=True)
    csv, parquet = stem.with_name(f"{stem.name}.csv"), stem.with_name(f"{stem.name}.parquet")
    write_atomically(csv, lambda path: frame.to_csv(path, index=False))
    write_atomically(parquet, lambda path: frame.to_parquet(path, index=False))
    return [csv, parquet]
