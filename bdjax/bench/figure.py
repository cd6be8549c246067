"""The figure of a measurement: milliseconds a step a cell against the number of cells, a panel a model."""

from typing import Any

from bdjax.report.figures import COLOURS, DASHES, INK, MARKERS


def drawn(found: dict[str, Any]):
    """The figure of what `measure` gives: a line a driver with the range of rounds as bars, and PyTorch level."""
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row["model"] for row in found["rows"]))
    figure = Figure((4.2 * len(models), 3), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        rows = [row for row in found["rows"] if row["model"] == model]
        for index, side in enumerate(dict.fromkeys(row["side"] for row in rows)):
            _line(axes, index, side, [row for row in rows if row["side"] == side])
        axes.set(title=model, xlabel="cells", ylabel="ms a step a cell", xscale="log", ylim=(0, None))
        axes.set_xticks(sorted({row["cells"] for row in rows}), minor=False)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


def _line(axes, index: int, side: str, rows: list[dict[str, Any]]) -> None:
    if side.startswith("PyTorch"):
        dash = DASHES[1] if side.endswith("tuned") else DASHES[2]
        axes.axhline(rows[0]["median"], color=INK, linestyle=dash, label=side)
        return
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    middle = [row["median"] for row in rows]
    reach = [[row["median"] - row["low"] for row in rows], [row["high"] - row["median"] for row in rows]]
    axes.errorbar([row["cells"] for row in rows], middle, reach, color=colour, marker=marker, capsize=2, label=side)
