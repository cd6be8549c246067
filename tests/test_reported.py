"""Published figures: they stand beside measured ones of the same setting and beside no other."""

import numpy as np
import pytest
import xarray as xr

from bdjax import report
from bdjax.attacks import ATTACKS
from bdjax.cli import main
from bdjax.defenses import DEFENSES
from bdjax.report.content import content
from bdjax.report.reported import Reported, _published, reported
from bdjax.report.studies import Shown


def results(dataset="cifar10", model="preact_resnet18", defense="ft"):
    """One seed of blended at 0.1."""
    dims, names = ("attack", "ratio", "seed", "defense"), ("acc", "asr", "ra", "der", "seconds", "overlap")
    shape = (1, 1, 1, 2)
    data = {name: (dims, np.full(shape, 0.5)) for name in names} | {"status": (dims, np.zeros(shape, np.int8))}
    coords = {"attack": ["blended"], "ratio": [0.1], "seed": [0], "defense": ["none", defense]}
    return xr.Dataset(data, coords, {"dataset": dataset, "model": model})


@pytest.mark.parametrize("dataset", ["cifar10", "CIFAR-10", "cifar_10"])
def test_a_cell_is_found_by_all_of_its_setting(dataset):
    """From the leaderboard: FT on Blended at 10%, 92.78 / 96.11 / 3.57; the FT-SAM paper has 92.48 / 82.22."""
    found = reported(results(dataset))["blended", 0.1, "ft"]
    assert found == [
        Reported("BackdoorBench leaderboard", 92.78, 96.11, 3.57),
        Reported("FT-SAM paper", 92.48, 82.22, None),
    ]
    assert ("blended", 0.1, "ft:epochs=20") not in reported(results(dataset))
    assert ("blended", 0.02, "ft") not in reported(results(dataset))


@pytest.mark.parametrize(
    ("cell", "source", "figures"),
    [
        (("badnets", 0.1, "abl"), "FT-SAM paper", (80.10, 0.00, None)),
        (("wanet", 0.1, "nc"), "FT-SAM paper", (92.80, 98.90, None)),
        (("low_frequency", 0.1, "ac"), "FT-SAM paper", (52.28, 94.34, None)),
        (("blended", 0.1, "spectral"), "BackdoorBench leaderboard (old)", (90.35, 99.84, 0.14)),
    ],
)
def test_every_column_of_a_source_is_held(cell, source, figures):
    assert Reported(source, *figures) in reported(results())[cell]


@pytest.mark.parametrize(("dataset", "model"), [("digits", "preact_resnet18"), ("cifar10", "preact_resnet18:width=16")])
def test_nothing_was_published_of_other_data_and_networks(dataset, model):
    assert reported(results(dataset, model)) == {}


def test_all_names_are_those_of_methods_and_figures_are_percentages():
    for cells in _published().values():
        for (attack, ratio, defense), several in cells.items():
            assert attack.partition(":")[0] in ATTACKS and 0 < ratio <= 0.1
            assert defense in set(DEFENSES)
            assert all(0 <= value <= 100 for one in several for value in one[1:] if value is not None)


def test_page_and_table_show_them(tmp_path):
    one = results()
    rows = content([Shown(one)], [report.table(one)], 0.05)["rows"]
    assert [len(row[-1]) for row in rows] == [2, 2]
    report.export(one, tmp_path)
    header, *lines = (tmp_path / "results.csv").read_text().splitlines()
    held = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert [cell["reported_acc"] for cell in held] == ["0.9347", "0.9278"]
    report.export(results("digits"), tmp_path)
    assert "reported" not in (tmp_path / "results.csv").read_text()


def test_the_list_of_defenses_says_where_they_come_from(capsys):
    assert main(["list", "defenses", "ft_sam"]) == 0
    assert "cells reported by FT-SAM paper" in capsys.readouterr().out
