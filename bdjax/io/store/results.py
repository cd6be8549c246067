"""Results on disk: immutable netCDF shards, one table of rows each, merged on read into an `xarray.Dataset`.

A shard of kind `run` holds a row for every model trained in a chunk: its address, seconds, status, and its training
curves in the group `curves`; one of kind `score`, a row for every model scored under an attack; one of kind `audit`,
the figures of an audit; one of kind `detect`, those of a detector on a victim. Rows find their cells through
study.json, so a model that serves many cells is stored once.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bdjax.cards import split
from bdjax.errors import Damaged, InvalidInput, Unreadable
from bdjax.io.checksums import checksum
from bdjax.io.files import read_regular, write_atomically
from bdjax.io.store import remote
from bdjax.io.store.described import STATUS, describe
from bdjax.io.store.documents import read_plan, read_study
from bdjax.io.store.store import address
from bdjax.io.store.trees import check_arrays, load_named
from bdjax.metrics import der
from bdjax.metrics.detection import FIGURES, GRID

OK, DIVERGED, ABSENT, UNASKED = tuple(STATUS)
"""What `status` says of a cell: has its numbers, became NaN in training, not run, not asked for."""

CHECKSUM = "checksum"
"""The attribute of a shard, and of its group of curves, over all columns in it."""

SEAL, LARGEST = b"sha256:", 2**32
"""What stands before the checksum of a shard's bytes, and how many bytes it may have."""

COLUMNS = {
    "run": {"seconds": (), "status": ()},
    "score": dict.fromkeys(("overlap", "acc", "asr", "ra"), ()),
    "audit": {},
    "detect": dict.fromkeys((*FIGURES, "detection_seconds"), ()) | {"roc": GRID.shape},
}
"""Kinds of shards, and the columns that each must have, with the shape of one row's value; it may have others."""

KINDS = tuple(COLUMNS)
PROGRAM = ("label", "capacity", "bytes", "compile_seconds")
"""What is told of a group's programs."""


def failures(folder: Path) -> list[str]:
    """What went wrong in each group of cells that failed and was not done since: a line each."""
    lines = []
    for path in sorted((folder / "failures").glob("*.txt")):
        with contextlib.suppress(InvalidInput):  # it was tried again and is done, or is none of a run's
            lines.append(read_regular(path, LARGEST).decode(errors="replace").partition("\n")[0])
    return lines


def write_shard(
    folder: Path, kind: str, rows: Mapping[str, Any], curves: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write DIR/results/KIND-HASH.nc. rows: column -> one value a row, `address` among them; curves: (row, epoch)."""
    import h5py

    path = folder / "results" / f"{kind}-{address([kind, list(rows['address'])])}.nc"
    content = io.BytesIO()  # in memory: where the disk is full HDF5 takes the process down with it
    with h5py.File(content, "w") as file:
        _fill(file, {name: (_dims(value), np.asarray(value)) for name, value in rows.items()})
        if curves:
            _fill(file.create_group("curves"), {name: (("row", "epoch"), value) for name, value in curves.items()})
    text = content.getvalue()
    write_atomically(path, lambda target: target.write_bytes(text + _ending(text)))


def _ending(text: bytes) -> bytes:
    """What follows HDF5's own bytes in a file, which leaves it alone: their checksum."""
    return SEAL + hashlib.sha256(text).hexdigest().encode()


def _checked(path: Path) -> bytes:
    """What HDF5 is to read of a file, which may never end on one that is damaged, and reads one that is cut.

    Raises:
        ValueError: its checksum is another, or cut off.
    """
    text = read_regular(path, LARGEST)
    own, ending = text[: -len(SEAL) - 64], text[-len(SEAL) - 64 :]
    if ending != _ending(own):
        raise ValueError("its checksum is another")
    return own


def _dims(value: Any) -> tuple[str, ...]:
    return ("row", *[f"axis_{index}" for index in range(1, np.ndim(value))])


def _fill(group, columns: Mapping[str, tuple[tuple[str, ...], np.ndarray]]) -> None:
    """Put columns, name -> (dimensions, values), into an HDF5 group in such a way that it is netCDF-4."""
    import h5py

    sizes = {dim: size for dims, value in columns.values() for dim, size in zip(dims, value.shape, strict=True)}
    for dim, size in sizes.items():
        words = f"This is a netCDF dimension but not a netCDF variable. {size:10d}"  # the format's own
        group.create_dataset(dim, (size,), ">f4").make_scale(words)
    group.attrs[CHECKSUM] = checksum({name: value for name, (_, value) in columns.items()})
    for name, (dims, value) in columns.items():
        text = value.dtype.kind == "U"
        column = group.create_dataset(name, data=value.astype(h5py.string_dtype()) if text else value)
        for axis, dim in enumerate(dims):
            column.dims[axis].attach_scale(group[dim])


def shards(folder: Path, kind: str) -> list[Path]:
    """The shards of a kind. They never change, so what was read once need not be read again."""
    return sorted((folder / "results").glob(f"{kind}-*.nc"))


def read_shard(path: Path, curves: bool = False) -> dict[str, dict[str, Any]]:
    """The rows of a shard by address: {column: value}; or their curves, {name: values by epoch}.

    Raises:
        Damaged: the shard is not what was written, or stands in another's place.
        Unreadable: it is there, and reading it failed.
    """
    import h5py  # several times faster than by way of xarray

    try:
        content = _checked(path)
        with h5py.File(io.BytesIO(content)) as file:
            columns = _columns(file, len(content))
            names = columns.pop("address").tolist()
            _check_rows(path, names, columns)
            if curves:
                columns = _columns(file["curves"], len(content)) if "curves" in file else {}
                _check_curves(names, columns)
    except Unreadable:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise Damaged(f"{path}: a damaged shard ({reason[:80]}); run the same study again") from None
    return {name: {column: value[index] for column, value in columns.items()} for index, name in enumerate(names)}


def _check_rows(path: Path, names: list[str], columns: Mapping[str, np.ndarray]) -> None:
    """Refuse rows that are not those of the shard's name, or columns that its kind does not have.

    Raises:
        ValueError: says which.
    """
    kind = path.name.partition("-")[0]
    if path.stem != f"{kind}-{address([kind, names])}":
        raise ValueError("its rows are not those of its name")
    for name, shape in COLUMNS[kind].items():
        if name not in columns or columns[name].shape[1:] != shape:
            raise ValueError(f"no column {name} of shape {shape}")
    for name, value in columns.items():
        if value.dtype.kind not in "fi" or value.shape[:1] != (len(names),):
            raise ValueError(f"column {name} is {value.dtype}{value.shape}")
    if kind == "run" and not np.isin(columns["status"], (OK, DIVERGED)).all():
        raise ValueError("a status that is none")


def _check_curves(names: list[str], curves: Mapping[str, np.ndarray]) -> None:
    for name, value in curves.items():
        if value.dtype.kind != "f" or value.ndim != 2 or len(value) != len(names):
            raise ValueError(f"curve {name} is {value.dtype}{value.shape}")


def _columns(group, most: int) -> dict[str, np.ndarray]:
    """The columns of an HDF5 group that `_fill` has filled, of a file of `most` bytes.

    Raises:
        ValueError: one is missing, lies in another file, or the checksum is another.
    """
    import h5py

    own = [name for name in group if isinstance(group.get(name, getlink=True), h5py.HardLink)]
    values = {name: group[name] for name in own if isinstance(group[name], h5py.Dataset)}
    values = {name: value for name, value in values.items() if not value.is_scale}
    if any(value.size * value.dtype.itemsize > most for value in values.values()):
        raise ValueError("it says that it holds more than it does")
    columns = {
        name: np.array(value.asstr()[()], str) if h5py.check_string_dtype(value.dtype) else value[()]
        for name, value in values.items()
    }
    if group.attrs[CHECKSUM] != checksum(columns):
        raise ValueError("its checksum is another")
    return columns


def _rows(folder: Path, kind: str, curves: bool = False) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in shards(folder, kind):
        found |= read_shard(path, curves)
    return found


def read_index(folder: Path) -> dict[str, Any]:
    """What study.json says of the study in a folder.

    Raises:
        InvalidInput: no study is there.
    """
    index = read_study(folder / "study.json")
    if index is None:
        raise InvalidInput(f"{folder}: no study.json there; give the folder that a study was run with as --out")
    return index


def load(folder: str | Path) -> xr.Dataset:
    """What a study found so far.

    Args:
        folder: the study's `out`, a folder or a place in an object store.

    Returns:
        Dims attack (str), ratio (float64), seed (int64), defense (str); float64 fractions acc, asr, ra, der,
        overlap (the share of the defender's clean rows whose copies are poisoned) and, if some attack has it, cross
        (cross accuracy); seconds; status int8 (0 ok, 1 diverged, -1 not run, -2 not asked for, as an attack at
        another's ratio); audits as <audit>_<figure>. Cells without results are NaN.
        Variables and coordinates have attributes long_name and units; status has flag_values and flag_meanings.
        Where detectors were asked for, also dims detector (str) and on ("rows", "queries"): float64 fractions of dims
        (attack, ratio, seed, detector, on) as `metrics.detection.judge` gives them, `roc` with the further dim
        false_alarms, and detection_seconds.

    Raises:
        InvalidInput: no study is there, or a shard is damaged.
    """
    folder = remote.local(folder)
    index = read_index(folder)
    cells = index["cells"]
    axes = _axes(cells)
    rows = {kind: _rows(folder, kind) for kind in KINDS}
    table = _Table(axes, _prefixes(cells))
    for cell in cells:
        table.fill(cell, rows)
    found = table.dataset(index, folder)
    if not index["detections"]:
        return describe(found, table.prefixes.values())
    asked = {one["address"] for one in index["detections"]}
    found.attrs |= {"detections": len(asked), "detections_finished": len(asked & rows["detect"].keys())}
    whole = {name for name, run in rows["run"].items() if run["status"] == OK}  # a diverged victim has no scores
    found = found.merge(_detections(index["detections"], axes, rows["detect"], whole))
    return describe(found, table.prefixes.values())


def _axes(cells: list[dict]) -> dict[str, list]:
    """The coordinates of the cells of a study, by dim."""
    return {
        "attack": list(dict.fromkeys(cell["attack"] for cell in cells)),
        "ratio": sorted({cell["ratio"] for cell in cells}),
        "seed": sorted({cell["seed"] for cell in cells}),
        "defense": list(dict.fromkeys(cell["defense"] for cell in cells)),
    }


def _places(axes: dict[str, list]) -> dict[str, dict]:
    """Where along each dim a coordinate is."""
    return {dim: {value: place for place, value in enumerate(values)} for dim, values in axes.items()}


def _detections(asked: list[dict], axes: dict[str, list], rows: dict[str, dict], whole: set[str]) -> xr.Dataset:
    """What detectors found on the models `whole`, dims (attack, ratio, seed, detector, on)."""
    own = {"detector": list(dict.fromkeys(one["detector"] for one in asked)), "on": ["rows", "queries"]}
    axes = {name: axes[name] for name in ("attack", "ratio", "seed")} | own
    places = _places(axes)
    shape = tuple(len(values) for values in axes.values())
    columns = {name: np.full(shape, np.nan) for name in (*FIGURES, "detection_seconds")}
    columns["roc"] = np.full((*shape, GRID.size), np.nan)
    for one in asked:
        where = tuple(places[dim][one[dim]] for dim in axes)
        for name, value in rows.get(one["address"], {}).items() if one["model"] in whole else ():
            columns[name][where] = value
    dims = {"roc": (*axes, "false_alarms")}
    coordinates = {name: _coordinate(name, values) for name, values in axes.items()} | {"false_alarms": GRID}
    return xr.Dataset({name: (dims.get(name, tuple(axes)), value) for name, value in columns.items()}, coordinates)


def load_scores(folder: str | Path) -> dict[tuple, dict[str, np.ndarray]]:
    """The scores that a study kept, by (attack, ratio, seed, detector, on).

    Each is a dict of score float (n,), larger is more suspect; truth int8 (n,): 1 has the trigger, 0 has not, -1 does
    not count; and flagged bool (n,) where the detector decides. Empty where nothing was kept.

    Raises:
        InvalidInput: no study is there, or a file is damaged.
    """
    found, folder = {}, remote.local(folder)
    for one in read_index(folder)["detections"]:
        path = folder / "scores" / f"{one['address']}.safetensors"
        if path.exists():
            place = tuple(one[name] for name in ("attack", "ratio", "seed", "detector", "on"))
            found[place] = read_scores(path)
    return found


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """The scores of a detection, as `load_scores` gives them.

    Raises:
        Damaged: the file is not what was written.
    """
    tree, _ = load_named(path)
    flagged = {"flagged": (np.bool_, 1)} if "flagged" in tree else {}
    check_arrays(path, tree, {"score": (np.floating, 1), "truth": (np.int8, 1)} | flagged)
    return tree


def load_curves(folder: str | Path) -> xr.Dataset:
    """Training curves of a study: dims attack, ratio, seed, defense, epoch; NaN beyond a curve's end."""
    folder = remote.local(folder)
    cells = read_index(folder)["cells"]
    axes = _axes(cells)
    lines = _rows(folder, "run", curves=True)
    names = sorted({name for row in lines.values() for name in row})
    longest = max((len(value) for row in lines.values() for value in row.values()), default=0)
    shape = (*(len(values) for values in axes.values()), longest)
    values = {name: np.full(shape, np.nan) for name in names}
    places = _places(axes)
    for cell in cells:
        where = tuple(places[dim][cell[dim]] for dim in axes)
        for name, value in lines.get(cell["model"], {}).items():
            values[name][where][: len(value)] = value
    coordinates = {dim: _coordinate(dim, held) for dim, held in axes.items()}
    return xr.Dataset({name: ((*axes, "epoch"), value) for name, value in values.items()}, coordinates)


def _prefixes(cells: list[dict]) -> dict[str, str]:
    """What the figures of each audit are called by: its name, or its whole text where it was run with other settings.

    An audit that was run as `retuning` and as `retuning:rows=500` gives two sets of variables.
    """
    texts = {text for cell in cells for text in cell["audits"]}
    names = [split(text)[0] for text in texts]
    return {text: split(text)[0] if names.count(split(text)[0]) == 1 else text for text in texts}


class _Table:
    """The dense arrays of a results dataset while they are filled."""

    def __init__(self, axes: dict[str, list], prefixes: dict[str, str]):
        self.axes, self.prefixes = axes, prefixes
        self.places = _places(axes)
        self.shape = tuple(len(values) for values in axes.values())
        self.columns = {name: self._blank(()) for name in ("acc", "asr", "ra", "overlap", "seconds")}
        self.status = np.full(self.shape, UNASKED, np.int8)
        self.trained: dict[str, float] = {}  # seconds that each model took; a model may serve several cells

    def _blank(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full((*self.shape, *shape), np.nan)

    def fill(self, cell: dict, rows: dict[str, dict]) -> None:
        """Put what is known of a cell into its place."""
        where = tuple(self.places[dim][cell[dim]] for dim in self.axes)
        self.status[where] = ABSENT
        scored, run = rows["score"].get(cell["score"]), rows["run"].get(cell["model"])
        if run is not None:
            self.trained[cell["model"]] = run["seconds"]
        if scored is None or run is None:
            return
        self.status[where] = run["status"]
        self.columns["seconds"][where] = run["seconds"]
        self.columns["overlap"][where] = scored["overlap"]
        usable = run["status"] == OK
        for name in ("acc", "asr", "ra", "cross"):
            if name in scored:
                self.columns.setdefault(name, self._blank(()))[where] = scored[name] if usable else np.nan
        for text, audit in cell["audits"].items():
            for figure, value in rows["audit"].get(audit, {}).items():
                name = f"{self.prefixes[text]}_{figure}"
                column = self.columns.setdefault(name, self._blank(np.shape(value)))
                column[where] = value if usable else np.nan

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
        plan = read_plan(folder / "plan.json") or dict(driver="", convolution="", threads=0, groups={}, held={})
        found.attrs = index["attributes"] | {
            "driver": plan["driver"],
            "convolution": plan["convolution"],
            "compile_seconds": float(sum(group["compile_seconds"] for group in plan["groups"].values())),
            "seconds_total": float(sum(self.trained.values())),
            "models": len({cell["model"] for cell in index["cells"]}),
            "models_finished": len(self.trained),
            "memory": json.dumps(plan["held"]),
            "failures": json.dumps(failures(folder)),
            "programs": json.dumps([{name: group[name] for name in PROGRAM} for group in plan["groups"].values()]),
        }
        return found


def _coordinate(dim: str, values: list) -> np.ndarray:
    kinds = {"ratio": np.float64, "seed": np.int64}
    return np.asarray(values, kinds.get(dim, str))
