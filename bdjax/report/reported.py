"""Figures that others published, shown beside measured ones: percentages of single runs, without intervals.

assets/reported.csv holds, a row a cell: the leaderboard of BackdoorBench (backdoorbench.github.io at b98eab4; without
label_consistent below ratio 0.1, where its page and its own table of results disagree), of its older page spectral
signatures, which the newer one lacks, and tables 1 and 2 of Zhu et al., Enhancing Fine-Tuning Based Backdoor Defense
with Sharpness-Aware Minimization, ICCV 2023.
"""

import csv
import functools
import re
from pathlib import Path
from typing import NamedTuple

import xarray


class Reported(NamedTuple):
    """One published cell, in percent; `ra` is None where only the other two were published."""

    source: str
    acc: float
    asr: float
    ra: float | None


@functools.cache
def _published() -> dict[tuple[str, str], dict[tuple[str, float, str], list[Reported]]]:
    found: dict[tuple[str, str], dict[tuple[str, float, str], list[Reported]]] = {}
    with (Path(__file__).parent / "assets" / "reported.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            setting = found.setdefault((row["dataset"], row["network"]), {})
            ra = float(row["ra"]) if row["ra"] else None
            cell = Reported(row["source"], float(row["acc"]), float(row["asr"]), ra)
            setting.setdefault((row["attack"], float(row["ratio"]), row["defense"]), []).append(cell)
    return found


def reported(results: xarray.Dataset) -> dict[tuple[str, float, str], list[Reported]]:
    """(attack, ratio, defense) -> what was published of it on the data set and network of a study.

    Methods and networks with other settings than their defaults are other methods: nothing was published of them.
    """
    dataset = re.sub(r"[^a-z0-9]+", "_", str(results.attrs.get("dataset", "")).lower())
    dataset = re.sub(r"^(cifar)_(100?)$", r"\1\2", dataset)
    return _published().get((dataset, str(results.attrs.get("model", ""))), {})


def sources(defense: str) -> dict[str, int]:
    """Where figures of a defense were published, and how many cells of each source are held here."""
    found: dict[str, int] = {}
    for cells in _published().values():
        for (_, _, name), several in cells.items():
            for one in several if name == defense else ():
                found[one.source] = found.get(one.source, 0) + 1
    return found
