"""Results as flat tables for other programs: CSV and parquet."""

import re
from pathlib import Path

import xarray

from bdjax.io.files import write_atomically
from bdjax.io.store.results import OK
from bdjax.report.statistics import CELL


def export(results: xarray.Dataset, folder: Path) -> list[Path]:
    """Write results.csv and results.parquet, a row a cell that was run, and the same for each audit with own dims.

    Fractions stay fractions; `oracle` and `version` of the defense are columns. Returns the paths written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = [name for name, variable in results.items() if set(variable.dims) <= set(CELL)]
    written = _both(results[flat], folder / "results")
    for name in results.data_vars:
        if name not in flat:
            slug = re.sub(r"[^\w-]+", "_", str(name))
            written += _both(results[[name, "status"]], folder / slug)
    return written


def _both(dataset: xarray.Dataset, stem: Path) -> list[Path]:
    frame = dataset.to_dataframe()
    frame = frame[frame["status"] >= OK].reset_index()
    csv, parquet = stem.with_name(f"{stem.name}.csv"), stem.with_name(f"{stem.name}.parquet")
    write_atomically(csv, lambda path: frame.to_csv(path, index=False))
    write_atomically(parquet, lambda path: frame.to_parquet(path, index=False))
    return [csv, parquet]
