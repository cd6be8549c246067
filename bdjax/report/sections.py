"""Where the numbers of a study come from, as plain values for the template."""

import json
from typing import NamedTuple

import xarray

from bdjax.report.studies import about
from bdjax.report.wording import discreet, duration, size


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
    attrs = discreet(results.attrs) | about(results)
    found = {name: str(attrs[name]) for name in ("dataset", "model", "recipe", "device", "date") if attrs.get(name)}
    return found | {"seeds": str(results.sizes["seed"])}


def origin(results: xarray.Dataset) -> Origin:
    """Where the numbers come from; texts are cut of absolute paths."""
    attrs = results.attrs
    known = ("dataset", "dataset_version", "dataset_digest", "model", "device", "driver", "convolution", "date")
    plain = {name: str(attrs[name]) for name in known if attrs.get(name)}
    times = {
        "compiling": "compile_seconds",
        "training, summed over models": "seconds_total",
        "wall time": "wall_seconds",
    }
    spent = {label: duration(float(attrs[name])) for label, name in times.items() if name in attrs}
    versions, memory, config = (
        discreet(json.loads(attrs.get(name) or "{}")) for name in ("versions", "memory", "config")
    )
    spent |= {f"memory {name}": size(amount) for name, amount in memory.items()}
    programs = [Programs(**group) for group in discreet(json.loads(attrs.get("programs") or "[]"))]
    text = json.dumps(config, indent=2, ensure_ascii=False)
    return Origin(discreet(plain) | spent, versions, programs, text)
