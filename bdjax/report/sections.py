"""What each section of the page shows, as plain values for the template."""

import json
import math
from typing import NamedTuple

import numpy as np
import xarray
from markupsafe import Markup

from bdjax.report import figures
from bdjax.report.statistics import CELL, audited, usable
from bdjax.report.svg import inline
from bdjax.report.tables import Pair, Row, table
from bdjax.report.wording import discreet, duration, size


class Panel(NamedTuple):
    """One picture of a row of figures."""

    attack: str
    note: str
    svg: Markup


class Audits(NamedTuple):
    """What the audits measured: numbers in a table, ASR against what it was before, and curves in figures."""

    names: list[str]
    rows: list[Row]
    after: dict[str, list[Panel]]
    curves: dict[str, list[Panel]]


class Programs(NamedTuple):
    """What the compiled programs of a group of cells took."""

    label: str
    capacity: int  # cells at a time
    bytes: float
    compile_seconds: float


class Origin(NamedTuple):
    """Where the numbers come from."""

    facts: dict[str, str]
    versions: dict[str, str]
    programs: list[Programs]
    config: str


def facts(results: xarray.Dataset) -> dict[str, str]:
    """The line under the title."""
    attrs = discreet(results.attrs)
    found = {name: str(attrs[name]) for name in ("dataset", "model", "device", "date") if attrs.get(name)}
    return found | {"seeds": str(results.sizes["seed"])}


def legend(defenses: list[str], place: str) -> list[tuple[int, str, Markup]]:
    """(series, defense, sample of its line) for every defense; place: a name that no other legend has."""
    drawn = figures.styles(defenses)
    return [
        (style.index, name, _svg(figures.key(style), f"{place}-key-{style.index}", name))
        for name, style in drawn.items()
    ]


def ratio_figures(results: xarray.Dataset) -> dict[str, list[Panel]]:
    """Measure -> one panel an attack, for ASR and ACC."""
    attacks = [str(name) for name in results["attack"].values]
    drawn: dict[str, list[Panel]] = {}
    for measure in ("asr", "acc"):
        values = usable(results, measure)
        drawn[measure] = []
        for k, attack in enumerate(attacks):
            if np.isfinite(values.sel(attack=attack)).any():
                label = f"{measure.upper()} under {attack} against the poison ratio, a line a defense"
                figure = figures.ratio_panel(results, attack, measure)
                drawn[measure].append(Panel(attack, "", _svg(figure, f"{measure}-{k}", label)))
    return drawn


def curve_figures(curves: xarray.Dataset | None, defenses: list[str]) -> dict[str, list[Panel]]:
    """Variable -> one panel an attack, against epochs, at the attack's largest ratio that has a curve."""
    if curves is None or not curves.data_vars:
        return {}
    if "epoch" not in curves.coords:
        curves = curves.assign_coords(epoch=1 + np.arange(curves.sizes["epoch"]))
    drawn = {str(name): _panels(values, "epoch", defenses, f"curve-{k}") for k, (name, values) in _numeric(curves)}
    return {name: panels for name, panels in drawn.items() if panels}


def audits(results: xarray.Dataset, defenses: list[str]) -> Audits:
    """Every variable that an audit added: those with no dims of their own as rows, those with one as figures."""
    added = audited(results)
    own = {str(name): [dim for dim in results[name].dims if dim not in CELL] for name in added}
    plain = [name for name, dims in own.items() if not dims]
    curves = {}
    for k, (name, dims) in enumerate(own.items()):
        if len(dims) == 1:
            curves[name] = _panels(usable(results, name), dims[0], defenses, f"audit-{k}")
    rows = [row for row in table(results, tuple(plain)) if any(one.count for one in row.measures.values())]
    after = {name: _audited(results, name, f"after-{k}") for k, name in enumerate(plain) if name.endswith("_asr")}
    after, curves = ({name: panels for name, panels in drawn.items() if panels} for drawn in (after, curves))
    return Audits(plain, rows if plain else [], after, curves)


def _audited(results: xarray.Dataset, name: str, prefix: str) -> list[Panel]:
    panels = []
    for k, attack in enumerate(str(one) for one in results["attack"].values):
        if np.isfinite(usable(results, name).sel(attack=attack)).any():
            figure = figures.audited_panel(results, attack, name)
            panels.append(Panel(attack, "", _svg(figure, f"{prefix}-{k}", f"ASR after and before under {attack}")))
    return panels


def reach(rows: list[Pair], measure: str) -> float:
    """The farthest that any interval of the differences lies from 0: the half width of their common scale."""
    ends = [abs(end) for row in rows for end in row.measures[measure][1:3] if math.isfinite(end)]
    return max(ends, default=0.0) or 1.0


def origin(results: xarray.Dataset) -> Origin:
    """Where the numbers come from; texts are cut of absolute paths."""
    attrs = results.attrs
    known = ("dataset", "dataset_version", "dataset_digest", "model", "device", "driver", "convolution", "date")
    plain = {name: str(attrs[name]) for name in known if attrs.get(name)}
    times = {"compiling": "compile_seconds", "training, summed over models": "seconds_total"}
    spent = {label: duration(float(attrs[name])) for label, name in times.items() if name in attrs}
    versions, memory, config = (
        discreet(json.loads(attrs.get(name) or "{}")) for name in ("versions", "memory", "config")
    )
    spent |= {f"memory {name}": size(amount) for name, amount in memory.items()}
    programs = [Programs(**group) for group in discreet(json.loads(attrs.get("programs") or "[]"))]
    text = json.dumps(config, indent=2, ensure_ascii=False)
    return Origin(discreet(plain) | spent, versions, programs, text)


def _panels(values: xarray.DataArray, along: str, defenses: list[str], prefix: str) -> list[Panel]:
    style = figures.styles(defenses)
    panels = []
    for k, attack in enumerate(values["attack"].values):
        one = values.sel(attack=attack)
        shown = np.isfinite(one).any([dim for dim in one.dims if dim != "ratio"])
        if shown.any():
            ratio = float(one["ratio"].values[shown.values].max())
            figure = figures.line_panel(one.sel(ratio=ratio), along, style)
            panels.append(Panel(str(attack), f"ratio {ratio:g}", _svg(figure, f"{prefix}-{k}", str(attack))))
    return panels


def _numeric(dataset: xarray.Dataset):
    return enumerate((name, value) for name, value in dataset.items() if np.issubdtype(value.dtype, np.number))


def _svg(figure, name: str, label: str) -> Markup:
    return Markup(inline(figure, name, discreet(label)))
