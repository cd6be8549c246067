"""The terminal's table of defense against defense, with numbers worked by hand."""

import numpy as np
import xarray

from bdjax.report import differences

DIMS = ("attack", "ratio", "seed", "defense")
# Victims differ widely, the differences between the defenses of a victim do not: ASR falls by 0.50, 0.52 and 0.54.
ASR = {"none": [0.9, 1.0, 0.8], "ft": [0.8, 0.9, 0.6], "ft_sam": [0.3, 0.38, 0.06]}
ACC = {"none": [0.99, 0.99, 0.99], "ft": [0.97, 0.95, 0.96], "ft_sam": [0.96, 0.95, 0.95]}
# Mean -0.52, squares 0.0004 + 0 + 0.0004, deviation 0.02, t(0.975, 2) = 4.302653, half width 0.04968.
# Mean -0.02 / 3, squares 2 (0.01 / 3)^2 + (0.02 / 3)^2, deviation 0.0057735, half width 0.0143422.
LINE = "ft_sam - ft   3   −52.0 [−57.0, −47.0]   −0.7 [−2.1, +0.8]"


def results(defenses=("none", "ft", "ft_sam"), seeds=3, attack="badnets"):
    def values(table):
        one = np.array([table[name][:seeds] for name in defenses]).T
        return DIMS, np.stack([one, one])[None]

    status = DIMS, np.zeros((1, 2, seeds, len(defenses)), np.int8)
    axes = {"attack": [attack], "ratio": [0.0, 0.1], "seed": range(seeds), "defense": list(defenses)}
    return xarray.Dataset({"acc": values(ACC), "asr": values(ASR), "status": status}, axes)


def test_difference_by_hand():
    lines = differences(results()).splitlines()
    assert lines[0].split("  ")[0].strip() == "attack" and "paired by seed" in lines[0]
    assert len(lines) == 4  # head, rule, one pair at the ratio above 0, what the figures are
    assert lines[2].split() == ["badnets", "0.1", *LINE.split()]
    assert lines[3].startswith("differences in points: mean [95% Student interval")


def test_two_seeds_give_values_and_no_interval():
    row = differences(results(seeds=2)).splitlines()[2]
    assert " ".join(row.split()) == "badnets 0.1 ft_sam - ft 2 −50.0, −52.0 −1.0, +0.0"


def test_against_none_there_is_nothing_to_compare():
    assert differences(results(("none", "ft"))) == ""
    assert differences(results(("none",))) == ""


def test_fits_a_terminal_of_100_columns():
    text = differences(results(attack="blended:" + "alpha=0.123456789," * 10))
    assert max(map(len, text.splitlines())) <= 100
