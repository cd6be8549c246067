"""The README's figure and table, from the folder of a quickstart.

    bdjax quickstart --out runs/quickstart && python -m experiments.readme runs/quickstart

Writes docs/quickstart.svg and puts the table between the README's two markers. Takes seconds.
"""

import re
import sys
from pathlib import Path

import bdjax
from bdjax import report
from bdjax.report.wording import points, whole

ROOT = Path(__file__).parent.parent


def table(results) -> str:
    """Victims and defenses at the largest ratio, and FT-SAM minus FT paired by seed, as Markdown."""
    rows = [row for row in report.table(results) if row.ratio == results.ratio.values.max()]
    lines = ["| attack | defense | n | ACC % | ASR % | RA % | DER % |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = [whole(row.measures[name]) for name in ("acc", "asr", "ra", "der")]
        lines.append(f"| {row.attack} | {row.defense} | {row.count} | " + " | ".join(cells) + " |")
    lines += ["", "| attack | paired by seed | n | ACC, points | ASR, points |", "| --- | --- | --- | --- | --- |"]
    for pair in report.paired(results, "ft_sam", "ft"):
        if pair.ratio == results.ratio.values.max():
            found = [pair.measures[name] for name in ("acc", "asr")]
            cells = [whole(one, points) for one in found]
            lines.append(f"| {pair.attack} | ft_sam − ft | {found[0].count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(folder: str) -> None:
    """Write the figure and the table."""
    results = bdjax.load(folder)
    report.ratio_figure(results).savefig(ROOT / "docs" / "quickstart.svg", metadata={"Date": None})
    readme = ROOT / "README.md"
    filled = re.sub(
        "(<!-- table -->\n).*?(<!-- end of table -->)",
        lambda found: found[1] + table(results) + "\n" + found[2],
        readme.read_text(),
        flags=re.DOTALL,
    )
    readme.write_text(filled)


if __name__ == "__main__":
    main(*sys.argv[1:])
