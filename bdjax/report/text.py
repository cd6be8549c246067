"""Tables for a terminal: plain text, at most 100 columns."""

import io
from collections.abc import Iterable

import xarray

from bdjax.report.tables import UNDEFENDED, Pair, Row, paired, pairs, table
from bdjax.report.wording import centre, discreet, points, spread

WIDTH = 100


def summary(results: xarray.Dataset) -> str:
    """The results as text, one row an (attack, ratio, defense): means over seeds with their 95% intervals."""
    return text_table(table(results))


def text_table(rows: list[Row]) -> str:
    """Rows as a plain text table of at most 100 columns, measures in percent, ending with what the marks mean."""
    names = ("attack", "ratio", "defense", "n", "ACC %", "ASR %", "RA %", "DER %")
    return _drawn(names, ("attack", "defense"), map(_cells, rows), _notes(rows))


def differences(results: xarray.Dataset) -> str:
    """Defense against defense above ratio 0, paired by seed, as text; empty where there is nothing to compare."""
    defenses = [str(name) for name in results["defense"].values]
    compared = [(first, second) for first, second in pairs(defenses) if second != UNDEFENDED]
    rows = [row for first, second in compared for row in paired(results, first, second) if row.ratio > 0]
    if not rows:
        return ""
    names = ("attack", "ratio", "paired by seed", "n", "ASR, points", "ACC, points")
    note = "differences in points: mean [95% Student interval over n seeds]; with n below 3 the values"
    return _drawn(names, ("attack", "paired by seed"), map(_compared, rows), [note])


def _drawn(names: tuple[str, ...], words: tuple[str, ...], rows: Iterable[list[str]], notes: list[str]) -> str:
    """A grid with the columns `names`, of which `words` may be folded, and lines below it."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in names:
        word = name in words
        grid.add_column(name, justify="left" if word else "right", overflow="fold", no_wrap=not word)
    for row in rows:
        grid.add_row(*map(Text, row))
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None, legacy_windows=False).print(grid)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join([*(line for line in lines if line), *notes]) + "\n"


def _compared(pair: Pair) -> list[str]:
    asr, acc = (pair.measures[name] for name in ("asr", "acc"))
    figures = [f"{centre(one, points)} {spread(one, points)}".strip() for one in (asr, acc)]
    names = f"{pair.first} - {pair.second}"
    return [_printable(pair.attack), f"{pair.ratio:g}", _printable(names), f"{asr.count}", *figures]


def _cells(row: Row) -> list[str]:
    acc, asr, ra, der = (row.measures[name] for name in ("acc", "asr", "ra", "der"))
    name = row.defense + (" *" if row.oracle else "")
    count = f"{row.count}" + ("!" if row.diverged else "")
    whole = [f"{centre(one)} {spread(one)}".strip() for one in (acc, asr)]
    if row.impossible and not row.count:
        whole = ["impossible", "–"]
    return [_printable(row.attack), f"{row.ratio:g}", _printable(name), count, *whole, centre(ra), centre(der)]


def _notes(rows: list[Row]) -> list[str]:
    notes = ["mean [95% Student interval over n seeds]; with n below 3 the values"]
    if any(row.oracle for row in rows):
        notes.append("* oracle: uses what a defender would not have")
    if diverged := sum(row.diverged for row in rows):
        notes.append(f"! some seeds diverged ({diverged} in all) and are left out")
    return notes


def _printable(text: str) -> str:
    """Names come from files too: no control character reaches the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in discreet(text))
