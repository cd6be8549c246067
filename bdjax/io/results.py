"""Results on disk: immutable netCDF shards, one table of rows each, merged on read into an `xarray.Dataset`.

A shard of kind `run` holds a row for every model trained in a chunk: its address, seconds, status, and its training
curves in the group `curves`; one of kind `score`, a row for every model scored under an attack; one of kind `audit`,
the figures of an audit. Rows find their cells through study.json, so a model that serves many cells is stored once.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bdjax.errors import InvalidInput
from bdjax.io.files import write_atomically
from bdjax.io.store import address, read_json
from bdjax.metrics import der

OK, DIVERGED, ABSENT = 0, 1, -1
"""Status of a cell: trained, not a number any more, or not part of the study."""


def write_shard(
    folder: Path, kind: str, rows: Mapping[str, Any], curves: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write DIR/results/KIND-HASH.nc. rows: column -> one value a row, `address` among them; curves: (row, epoch)."""
    path = folder / "results" / f"{kind}-{address([kind, list(rows['address'])])}.nc"
    table = xr.Dataset({name: (_dims(value), np.asarray(value)) for name, value in rows.items()})

    def write(target: Path) -> None:
        table.to_netcdf(target, engine="h5netcdf")
        if curves:
            lines = xr.Dataset({name: (("row", "epoch"), value) for name, value in curves.items()})
            lines.to_netcdf(target, engine="h5netcdf", group="curves", mode="a")

    write_atomically(path, write)


def _dims(value: Any) -> tuple[str, ...]:
    return ("row", *[f"axis_{index}" for index in range(1, np.ndim(value))])


def read_rows(folder: Path, kind: str, group: str | None = None) -> dict[str, dict[str, Any]]:
    """All rows of a kind by address: {column: value}; with `group="curves"`, {name: values by epoch}.

    Raises:
        InvalidInput: a shard is damaged.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / "results").glob(f"{kind}-*.nc")):
        try:
            with xr.open_dataset(path, engine="h5netcdf") as shard:
                names = [str(name) for name in shard["address"].values]
                table = shard.load()
            if group:
                with xr.open_dataset(path, engine="h5netcdf", group=group) as shard:
                    table = shard.load()
        except (OSError, KeyError, ValueError) as error:
            if group and "curves" in str(error):
                continue
            raise InvalidInput(f"{path}: a damaged shard ({type(error).__name__}); remove it and run again") from None
        columns = {name: table[name].values for name in table.data_vars}
        for index, name in enumerate(names):
            found[name] = {column: values[index] for column, values in columns.items() if column != "address"}
    return found


def load(folder: str | Path) -> xr.Dataset:
    """What a study found so far.

    Args:
        folder: the study's `out`.

    Returns:
        Dims attack (str), ratio (float64), seed (int64), defense (str); float64 fractions acc, asr, ra, der, and
        overlap (the share of the defender's clean rows whose copies are poisoned); seconds; status int8 (0 ok, 1
        diverged, -1 not there); audits as <audit>_<figure>. Cells without results are NaN.

    Raises:
        InvalidInput: no study is there, or a shard is damaged.
    """
    folder = Path(folder)
    index = read_json(folder / "study.json")
    if index is None:
        raise InvalidInput(f"{folder}: no study.json there; give the folder that a study was run with as --out")
    cells = index["cells"]
    axes = {
        "attack": list(dict.fromkeys(cell["attack"] for cell in cells)),
        "ratio": sorted({cell["ratio"] for cell in cells}),
        "seed": sorted({cell["seed"] for cell in cells}),
        "defense": list(dict.fromkeys(cell["defense"] for cell in cells)),
    }
    rows = {kind: read_rows(folder, kind) for kind in ("run", "score", "audit")}
    table = _Table(axes)
    for cell in cells:
        table.fill(cell, rows)
    return table.dataset(index, folder)


def load_curves(folder: str | Path) -> xr.Dataset:
    """Training curves of a study: dims attack, ratio, seed, defense, epoch; NaN beyond a curve's end."""
    folder = Path(folder)
    found = load(folder)
    lines = read_rows(folder, "run", "curves")
    names = sorted({name for row in lines.values() for name in row})
    longest = max((len(value) for row in lines.values() for value in row.values()), default=0)
    dims = ("attack", "ratio", "seed", "defense")
    shape = (*(found.sizes[dim] for dim in dims), longest)
    values = {name: np.full(shape, np.nan) for name in names}
    for cell in read_json(folder / "study.json")["cells"]:
        where = tuple(list(found[dim].values).index(cell[dim]) for dim in dims)
        for name, value in lines.get(cell["model"], {}).items():
            values[name][where][: len(value)] = value
    coordinates = {dim: found[dim].values for dim in dims}
    return xr.Dataset({name: ((*dims, "epoch"), value) for name, value in values.items()}, coordinates)


class _Table:
    """The dense arrays of a results dataset while they are filled."""

    def __init__(self, axes: dict[str, list]):
        self.axes = axes
        self.places = {dim: {value: place for place, value in enumerate(values)} for dim, values in axes.items()}
        self.shape = tuple(len(values) for values in axes.values())
        self.columns = {name: self._blank(()) for name in ("acc", "asr", "ra", "overlap", "seconds")}
        self.status = np.full(self.shape, ABSENT, np.int8)

    def _blank(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full((*self.shape, *shape), np.nan)

    def fill(self, cell: dict, rows: dict[str, dict]) -> None:
        """Put what is known of a cell into its place."""
        where = tuple(self.places[dim][cell[dim]] for dim in self.axes)
        scored, run = rows["score"].get(cell["score"]), rows["run"].get(cell["model"])
        if scored is None or run is None:
            return
        self.status[where] = run["status"]
        self.columns["seconds"][where] = run["seconds"]
        for name in ("acc", "asr", "ra", "overlap"):
            self.columns[name][where] = scored[name] if run["status"] == OK or name == "overlap" else np.nan
        for name, audit in cell["audits"].items():
            for figure, value in rows["audit"].get(audit, {}).items():
                column = self.columns.setdefault(f"{name}_{figure}", self._blank(np.shape(value)))
                column[where] = value

    def dataset(self, index: dict, folder: Path) -> xr.Dataset:
        """The filled table with DER, what is an oracle, and where it all comes from."""
        dims = tuple(self.axes)
        extra = {name: [f"{name}_{axis}" for axis in range(1, value.ndim - 3)] for name, value in self.columns.items()}
        data = {name: ((*dims, *extra[name]), value) for name, value in self.columns.items()}
        data["status"] = (dims, self.status)
        found = xr.Dataset(data, {dim: _coordinate(dim, values) for dim, values in self.axes.items()})
        if "none" in self.places["defense"]:
            before = found.sel(defense="none")
            figures = [np.asarray(before[name])[..., None] for name in ("acc", "asr")]
            found["der"] = (dims, der(*figures, found["acc"].values, found["asr"].values))
        else:
            found["der"] = (dims, self._blank(()))
        about = index["defenses"]
        found = found.assign_coords(
            oracle=("defense", [bool(about[name]["oracle"]) for name in self.axes["defense"]]),
            version=("defense", [int(about[name]["version"]) for name in self.axes["defense"]]),
        )
        plan = read_json(folder / "plan.json") or {}
        found.attrs = index["attributes"] | {
            "driver": str(plan.get("driver", "")),
            "compile_seconds": float(sum(group["compile_seconds"] for group in plan.get("groups", {}).values())),
            "seconds_total": float(np.nansum(found["seconds"].values)),
            "memory": json.dumps({name: group["bytes"] for name, group in plan.get("groups", {}).items()}),
        }
        return found


def _coordinate(dim: str, values: list) -> np.ndarray:
    kinds = {"ratio": np.float64, "seed": np.int64}
    return np.asarray(values, kinds.get(dim, str))
