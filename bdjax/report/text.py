"""Tables for a terminal: plain text, at most 100 columns."""

import io
from collections.abc import Iterable
from textwrap import wrap

import xarray

from bdjax.report.detection import Detected, detected
from bdjax.report.headline import unfinished
from bdjax.report.tables import Pair, Row, foremost, largest, paired, pairs, ranked, table
from bdjax.report.verdicts import BOUND, COSTLY, DESTROYED, INEFFECTIVE, UNDEFENDED, WEAK, rules
from bdjax.report.wording import brief, centre, discreet, points, share, whole

WIDTH = 100
LONG = 14
"""Columns of the table, and of a name in it."""


MOST = 200
"""Rows of a table, beyond which it has those at each attack's largest ratio alone."""

MARKS = {DESTROYED: "x", COSTLY: "-", INEFFECTIVE: "=", WEAK: "?"}
"""What stands for a verdict."""


def summary(results: xarray.Dataset, bound: float = BOUND) -> str:
    """The results as text, one row an (attack, ratio, defense): means over seeds with their 95% intervals.

    What is not finished comes first. Defenses stand in the order of `tables.ranked`; one that loses more accuracy than
    `bound`, a fraction, is marked.
    """
    begun = unfinished(results)
    rows = table(results, bound=bound)
    if not rows:
        return begun + "\n"
    order = ranked(results, rows)
    attacks = [str(name) for name in results["attack"].values]
    top = list(foremost(results, rows).values())
    shown = rows if len(rows) <= MOST else top[:MOST]
    shown.sort(key=lambda row: (attacks.index(row.attack), row.ratio, order.index(row.defense)))
    lines = [begun] * bool(begun) + [text_table(shown, bound).rstrip("\n"), *_cut(rows, shown)]
    return "\n".join(lines) + "\n"


def text_table(rows: list[Row], bound: float = BOUND) -> str:
    """Rows as a plain text table of at most 100 columns, measures in percent, ending with what the marks mean."""
    names = ("attack", "ratio", "defense", "n", "ACC %", "ASR %", "RA %", "DER %")
    called = brief((name for row in rows for name in (row.attack, row.defense)), LONG)
    cells = (_cells(row, called) for row in rows)
    return _drawn(names, ("attack", "defense"), cells, _notes(rows, bound) + _spelled(called))


def differences(results: xarray.Dataset) -> str:
    """Defense against defense above ratio 0, paired by seed, as text; empty where there is nothing to compare."""
    defenses = [str(name) for name in results["defense"].values]
    compared = [(first, second) for first, second in pairs(defenses) if second != UNDEFENDED]
    rows = [row for first, second in compared for row in paired(results, first, second) if row.ratio > 0]
    if not rows:
        return ""
    top = largest(results)
    shown = rows if len(rows) <= MOST else [row for row in rows if row.ratio == top[row.attack]][:MOST]
    names = ("attack", "ratio", "paired by seed", "n", "ASR, points", "ACC, points")
    note = "differences in points: mean [95% Student interval over n seeds]; with n below 3 the values"
    called = brief((name for row in rows for name in (row.attack, row.first, row.second)), LONG)
    cells = (_compared(row, called) for row in shown)
    return _drawn(names, ("attack", "paired by seed"), cells, [note, *_cut(rows, shown), *_spelled(called)])


def detections(results: xarray.Dataset) -> str:
    """Detectors as text, one row an (attack, ratio, detector, on); empty where none ran."""
    rows = detected(results)
    if not rows:
        return ""
    top = largest(results)
    shown = rows if len(rows) <= MOST else [row for row in rows if row.ratio == top[row.attack]][:MOST]
    names = ("attack", "ratio", "detector", "among", "n", "AUROC", "TPR@1", "TPR", "FPR")
    called = brief((name for row in rows for name in (row.attack, row.detector)), LONG)
    notes = ["all in percent; TPR@1: at 1% false positives; TPR and FPR: at the method's own threshold,"]
    notes += ["where at ratio 0 FPR is the false alarms on clean models"]
    if weak := sum(row.weak for row in rows):
        notes.append(f"? no backdoor to find in some victims ({weak} in all), which are part of no mean")
    cells = (_detected(row, called) for row in shown)
    return _drawn(names, ("attack", "detector"), cells, [*notes, *_cut(rows, shown), *_spelled(called)])


def _detected(row: Detected, called: dict[str, str]) -> list[str]:
    figures = [whole(row.measures["auroc"]), *(centre(row.measures[name]) for name in ("tpr_at_1", "tpr", "fpr"))]
    names = _printable(called[row.attack]), share(row.ratio), _printable(called[row.detector]), row.on
    return [*names, f"{row.count}{'?' if row.weak else ''}", *figures]


def _cut(rows: list, shown: list) -> list[str]:
    left = len(rows) - len(shown)
    return [f"{left:,} further rows, those at smaller ratios among them, are on the page"] if left else []


def _spelled(called: dict[str, str]) -> list[str]:
    short = {text: name for text, name in called.items() if text != name}
    lines = (f"{name} is {text.partition(':')[2].replace(',', ', ')}" for text, name in short.items())
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


def _compared(pair: Pair, called: dict[str, str]) -> list[str]:
    asr, acc = (pair.measures[name] for name in ("asr", "acc"))
    figures = [whole(one, points) for one in (asr, acc)]
    attack, first, second = (called[name] for name in (pair.attack, pair.first, pair.second))
    names = _printable(attack), share(pair.ratio), f"{_printable(first)} - {_printable(second)}"
    return [*names, str(asr.count), *figures]


def _cells(row: Row, called: dict[str, str]) -> list[str]:
    acc, asr, ra, der = (row.measures[name] for name in ("acc", "asr", "ra", "der"))
    marks = ("*" if row.oracle else "") + "".join(MARKS[verdict] for verdict in row.verdicts)
    name = f"{called[row.defense]} {marks}".strip()
    count = f"{row.count}" + ("!" if row.diverged else "")
    figures = [whole(one) for one in (acc, asr)]
    attack = _printable(called[row.attack])
    return [attack, share(row.ratio), _printable(name), count, *figures, centre(ra), centre(der)]


def _notes(rows: list[Row], bound: float) -> list[str]:
    notes = ["mean [95% Student interval over n seeds]; with n below 3 the values"]
    if any(row.oracle for row in rows):
        notes.append("* oracle: uses what a defender would not have")
    if diverged := sum(row.diverged for row in rows):
        notes.append(f"! some seeds diverged ({diverged} in all) and are left out")
    given = {verdict for row in rows for verdict in row.verdicts}
    lines = (f"{MARKS[verdict]} {verdict}: {rule}" for verdict, rule in rules(bound).items() if verdict in given)
    return notes + [part for line in lines for part in wrap(line, WIDTH, subsequent_indent="  ")]


def _printable(text: str) -> str:
    """Names come from files too: no control character reaches the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in discreet(text))
