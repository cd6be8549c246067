"""The leaderboard of BackdoorBench, a CSV file with a row a result, as arrays by data set, network and method.

Its figures are fractions of single runs, and no seed is named; what is negative there was not measured.
"""

import csv
import io
import math
from pathlib import Path

import numpy as np
import xarray as xr

from bdjax.errors import InvalidInput
from bdjax.io.files import check_memory, read_regular
from bdjax.io.store.described import describe

LARGEST = 2**28
"""Bytes of a file."""

DIMS = {
    "dataset": ("dataset",),
    "backbone": ("backbone",),
    "attack": ("attack", "attack_name"),
    "defense": ("defense", "defense_name"),
    "ratio": ("ratio", "pratio"),
}
"""Dim -> what files call it."""

FIGURES = {"acc": "test_acc", "asr": "test_asr", "ra": "test_ra"}
UNDEFENDED = ("no defense", "nodefense")
MEASURED, MISSING = 0, -1


def is_one(path: Path) -> bool:
    """Whether the first line of a file is such a table's."""
    with open(path, "rb") as file:
        names = file.readline(1000).decode("utf-8", "replace").strip().split(",")
    return set(FIGURES.values()) <= set(names)


def read(path: Path) -> xr.Dataset:
    """The leaderboard in a file.

    Returns:
        Dims dataset, backbone, attack, defense (str; none: the undefended victim) and ratio (float64): acc, asr and ra,
        float64 fractions, and status, int8: 0 measured, -1 not. The attributes `rows`, `measured` and `sentinels` count
        the file's rows.

    Raises:
        InvalidInput: the file is no such table, a figure or a ratio is no fraction, or a result is there twice.
    """
    where = repr(str(path))
    rows = _rows(path, where)
    axes = {dim: sorted({row[0][place] for row in rows}) for place, dim in enumerate(DIMS)}
    shape = tuple(map(len, axes.values()))
    check_memory(math.prod(shape) * 32, where)
    places = [{value: place for place, value in enumerate(values)} for values in axes.values()]
    found = {name: np.full(shape, np.nan) for name in FIGURES}
    status, seen = np.full(shape, MISSING, np.int8), np.zeros(shape, bool)
    for line, (key, values) in enumerate(rows, 2):
        place = tuple(known[value] for known, value in zip(places, key, strict=True))
        if seen[place]:
            raise InvalidInput(f"{where}: line {line}: {', '.join(map(str, key))} is there twice; remove one")
        seen[place] = True
        if not any(math.isnan(value) or value < 0 for value in values):
            status[place] = MEASURED
            for name, value in zip(FIGURES, values, strict=True):
                found[name][place] = value
    variables = {name: (tuple(axes), value) for name, value in (found | {"status": status}).items()}
    counts = {
        "rows": len(rows),
        "measured": int((status == MEASURED).sum()),
        "sentinels": sum(any(value < 0 for value in values) for _, values in rows),
    }
    return describe(xr.Dataset(variables, axes, counts | {"runs": "one a result; no seed is named"}), ())


def _rows(path: Path, where: str) -> list[tuple[tuple, list[float]]]:
    """The coordinates and figures of every row; NaN where the file says nothing."""
    try:
        table = csv.DictReader(io.StringIO(read_regular(path, LARGEST).decode("utf-8")), strict=True)
        names = table.fieldnames or []
        columns = [next((name for name in called if name in names), "") for called in DIMS.values()]
        lacking = [dim for dim, name in zip(DIMS, columns, strict=True) if not name]
        lacking += [name for name in FIGURES.values() if name not in names]
        if lacking:
            raise InvalidInput(f"{where}: no column {lacking[0]}; give the leaderboard's results.csv")
        rows = [_row(row, columns, f"{where}: line {table.line_num}") for row in table]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidInput(f"{where}: no CSV table ({error}); give the leaderboard's results.csv") from None
    if not rows:
        raise InvalidInput(f"{where}: no row; give the leaderboard's results.csv")
    return rows


def _row(row: dict[str, str], columns: list[str], where: str) -> tuple[tuple, list[float]]:
    *texts, ratio = (str(row[name]) for name in columns)
    key = tuple("none" if text in UNDEFENDED else text for text in texts)
    figures = [_number(row[name] or "nan", name, where) for name in FIGURES.values()]
    share = _number(ratio, columns[-1], where)
    if not 0 <= share <= 1 or any(value > 1 for value in figures):
        raise InvalidInput(f"{where}: {share:g}, {figures}: give fractions, at most 1")
    return (*key, share), figures


def _number(text: str, name: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{where}: {name} is {text[:40]!r}; give a number") from None
