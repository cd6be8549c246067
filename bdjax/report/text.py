"""Tables for a terminal: plain text, at most 100 columns."""

import io
from collections import Counter
from collections.abc import Iterable
from textwrap import wrap

import xarray

from bdjax.report.tables import UNDEFENDED, Pair, Row, paired, pairs, table
from bdjax.report.wording import centre, discreet, points, whole

WIDTH = 100
LONG = 14
"""Columns of the table, and of a name in it."""


def summary(results: xarray.Dataset) -> str:
    """The results as text, one row an (attack, ratio, defense): means over seeds with their 95% intervals."""
    return text_table(table(results))


def text_table(rows: list[Row]) -> str:
    """Rows as a plain text table of at most 100 columns, measures in percent, ending with what the marks mean."""
    names = ("attack", "ratio", "defense", "n", "ACC %", "ASR %", "RA %", "DER %")
    brief = _brief(name for row in rows for name in (row.attack, row.defense))
    cells = (_cells(row, brief) for row in rows)
    return _drawn(names, ("attack", "defense"), cells, _notes(rows) + _spelled(brief))


def differences(results: xarray.Dataset) -> str:
    """Defense against defense above ratio 0, paired by seed, as text; empty where there is nothing to compare."""
    defenses = [str(name) for name in results["defense"].values]
    compared = [(first, second) for first, second in pairs(defenses) if second != UNDEFENDED]
    rows = [row for first, second in compared for row in paired(results, first, second) if row.ratio > 0]
    if not rows:
        return ""
    names = ("attack", "ratio", "paired by seed", "n", "ASR, points", "ACC, points")
    note = "differences in points: mean [95% Student interval over n seeds]; with n below 3 the values"
    brief = _brief(name for row in rows for name in (row.attack, row.first, row.second))
    cells = (_compared(row, brief) for row in rows)
    return _drawn(names, ("attack", "paired by seed"), cells, [note, *_spelled(brief)])


def _brief(names: Iterable[str]) -> dict[str, str]:
    """What long names with settings are called in a table: `name:…`, where no other one would be called the same."""
    long = {text: text.partition(":")[0] + ":…" for text in names if len(text) > LONG and ":" in text}
    called = Counter(long.values())
    return {text: name for text, name in long.items() if called[name] == 1}


def _spelled(brief: dict[str, str]) -> list[str]:
    lines = (f"{name} is {text.partition(':')[2].replace(',', ', ')}" for text, name in brief.items())
    return [part for line in lines for part in wrap(_printable(line), WIDTH, subsequent_indent="    ")]


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


def _compared(pair: Pair, brief: dict[str, str]) -> list[str]:
    asr, acc = (pair.measures[name] for name in ("asr", "acc"))
    figures = [whole(one, points) for one in (asr, acc)]
    attack, first, second = (brief.get(name, name) for name in (pair.attack, pair.first, pair.second))
    names = f"{first} - {second}"
    return [_printable(attack), f"{pair.ratio:g}", _printable(names), f"{asr.count}", *figures]


def _cells(row: Row, brief: dict[str, str]) -> list[str]:
    acc, asr, ra, der = (row.measures[name] for name in ("acc", "asr", "ra", "der"))
    name = brief.get(row.defense, row.defense) + (" *" if row.oracle else "")
    count = f"{row.count}" + ("!" if row.diverged else "")
    figures = [whole(one) for one in (acc, asr)]
    attack = brief.get(row.attack, row.attack)
    return [_printable(attack), f"{row.ratio:g}", _printable(name), count, *figures, centre(ra), centre(der)]


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
