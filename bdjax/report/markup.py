"""The main table for papers and READMEs: LaTeX with booktabs, and Markdown."""

from collections.abc import Callable, Iterable
from pathlib import Path

import xarray

from bdjax.io.files import write_atomically
from bdjax.report.studies import labels
from bdjax.report.tables import Row, foremost, ranked, table
from bdjax.report.verdicts import BOUND
from bdjax.report.wording import discreet, share, whole

HEADS = ("Attack", "Ratio", "Defense", "n", "ACC, %", "ASR, %", "RA, %", "DER, %", "Flag")
WORDS = ("Study", "Attack", "Defense", "Flag")
"""Columns of the table, and those of them that are no numbers."""

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--"}
_LATEX |= {letter: "\\" + letter for letter in "&%$#_{}"}


def write_tables(studies: list[xarray.Dataset], folder: Path, forms: Iterable[str], bound: float = BOUND) -> list[Path]:
    """Write results.tex and results.md as `forms` (latex, markdown) ask; returns the paths written."""
    known: dict[str, tuple[str, Callable]] = {"latex": ("results.tex", latex), "markdown": ("results.md", markdown)}
    written = []
    for form in forms:
        name, write = known[form]
        text = write(studies, bound)
        written.append(Path(folder) / name)
        write_atomically(written[-1], lambda path, text=text: path.write_text(text, encoding="utf-8"))
    return written


def markdown(studies: list[xarray.Dataset], bound: float = BOUND) -> str:
    """The table at each attack's largest ratio as Markdown."""
    heads, rows = _table(studies, bound)
    rule = ["---" if head in WORDS else "---:" for head in heads]
    lines = [heads, rule, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(studies: list[xarray.Dataset], bound: float = BOUND) -> str:
    """The same as a LaTeX tabular; it needs booktabs."""
    heads, rows = _table(studies, bound)
    heads, *rows = (" & ".join(map(_escape, line)) + r" \\" for line in (heads, *rows))
    columns = "".join("l" if head in WORDS else "r" for head in _heads(studies))
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", heads, r"\midrule", *rows, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _heads(studies: list[xarray.Dataset]) -> list[str]:
    return [*(["Study"] if len(studies) > 1 else []), *HEADS]


def _table(studies: list[xarray.Dataset], bound: float) -> tuple[list[str], list[list[str]]]:
    lines = []
    for label, results in zip(labels(studies), studies, strict=True):
        rows = table(results, bound=bound)
        order = ranked(results, rows)
        top = foremost(results, rows)
        found = [
            top[attack, name]
            for attack in map(str, results["attack"].values)
            for name in order
            if (attack, name) in top
        ]
        lines += [([label] if len(studies) > 1 else []) + _cells(row) for row in found]
    return _heads(studies), lines


def _cells(row: Row) -> list[str]:
    figures = [whole(row.measures[name]) for name in ("acc", "asr", "ra", "der")]
    flags = ", ".join((*(["oracle"] if row.oracle else []), *row.verdicts))
    return [discreet(row.attack), share(row.ratio), discreet(row.defense), str(row.count), *figures, flags]


def _escape(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
