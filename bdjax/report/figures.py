"""Figures for notebooks and papers: means over seeds with 95% bands, one panel an attack, one colour a defense.

The colours keep apart under protanopia, deuteranopia and tritanopia and have a contrast of 3 or more to white and to
near-black; markers and dashes tell them apart without colour. The undefended victim is drawn in the ink of the text.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import xarray

from bdjax.report.statistics import MEASURES, student, usable
from bdjax.report.tables import UNDEFENDED

INK = "#6e7781"  # legible on white and on near-black, for figures that stand alone
COLOURS = ("#3d5fa4", "#9f572d", "#2ca674", "#e95fc0", "#ab8605", "#9f73ff")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)), (0, (8, 3)))
NAMES = {"acc": "ACC", "asr": "ASR", "ra": "RA", "der": "DER"}
PANEL = (3.5, 2.5)  # inches
_APART = 1e-3
_SETTINGS = {"font.size": 8.5, "lines.linewidth": 1.6, "lines.markersize": 4, "lines.markeredgewidth": 0}


def with_settings(draw):
    """The function, drawing under this module's settings of matplotlib and leaving the caller's as they were."""

    @functools.wraps(draw)
    def drawn(*args, **options):
        import matplotlib

        with matplotlib.rc_context(_SETTINGS):
            return draw(*args, **options)

    return drawn


class Style(NamedTuple):
    """How one defense is drawn."""

    colour: str
    marker: str
    dash: str | tuple


def styles(defenses: list[str]) -> dict[str, Style]:
    """Defense -> style, by its place in the results: colours repeat after six, with another marker and dash."""
    drawn: dict[str, Style] = {}
    others = [name for name in defenses if name != UNDEFENDED]
    for name in defenses:
        k = others.index(name) if name in others else 0
        colour = INK if name == UNDEFENDED else COLOURS[k % len(COLOURS)]
        marker = MARKERS[(k + k // len(COLOURS)) % len(MARKERS)]
        drawn[name] = Style(colour, marker, DASHES[k // len(COLOURS) % len(DASHES)])
    return drawn


@with_settings
def ratio_figure(results: xarray.Dataset, measure: str = "asr", ink: str = INK):
    """`measure` against poison ratio, one panel an attack, with a legend: a matplotlib Figure to save anywhere.

    Args:
        results: a study's results.
        measure: acc, asr, ra or der.
        ink: colour of text, axes and the undefended victim; the default suits light and dark pages.
    """
    attacks = _with_numbers(results[measure])
    columns = {0: 1, 4: 2}.get(len(attacks), min(3, len(attacks)))
    rows = math.ceil(max(1, len(attacks)) / columns)
    figure = new_figure((PANEL[0] * columns, PANEL[1] * rows + 0.4))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    style = styles([str(name) for name in results["defense"].values])
    for k, (panel, attack) in enumerate(zip(panels, attacks, strict=False)):
        _ratios(panel, results, attack, measure, style, ink)
        panel.set_title(attack, color=ink, fontsize=9.5, parse_math=False)
        if k % columns == 0:
            panel.set_ylabel(f"{NAMES[measure]}, %", color=ink)
    for panel in panels[len(attacks) :]:
        panel.remove()
    handles = [_line(None, [], [], one, ink, label=name.replace("$", r"\$")) for name, one in style.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 * columns, frameon=False, labelcolor=ink)
    return figure


def _ratios(axes, results: xarray.Dataset, attack: str, measure: str, style: dict[str, Style], ink: str) -> None:
    values = usable(results, measure).sel(attack=attack).transpose("defense", "ratio", "seed") * 100
    ratios = results["ratio"].values.astype(float)
    shown = np.isfinite(values.values).any((0, 2)) & np.isfinite(ratios)  # of given victims it is not known
    for k, name in enumerate(values["defense"].values):
        aside = (k - (len(style) - 1) / 2) if shown.sum() == 1 else 0  # lone points stand beside each other
        _band(axes, ratios + aside * _APART, values.sel(defense=name).values, style[str(name)], ink)
    positive = ratios[shown & (ratios > 0)]
    if positive.size and positive.max() > 20 * positive.min():
        axes.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
    axes.set_xticks(ratios[shown], [f"{ratio:g}" for ratio in ratios[shown]])
    axes.set_xlabel("poison ratio", color=ink)
    axes.xaxis.set_minor_locator(_no_ticks())
    axes.margins(x=0.06 if shown.sum() > 1 else 0.3)
    if measure in MEASURES and measure != "acc":
        axes.set(ylim=(-4, 104), yticks=range(0, 101, 25))
    _dress(axes, ink)


def _band(axes, x: np.ndarray, values: np.ndarray, style: Style, ink: str) -> None:
    """Mean over the last axis of `values` (x, seeds) as a line and its interval as a band."""
    interval = student(values)
    shown = interval.count > 0
    if not shown.any():
        return
    colour = ink if style.colour == INK else style.colour
    axes.fill_between(
        x[shown], interval.low[shown], interval.high[shown], color=colour, alpha=0.16, linewidth=0, zorder=2
    )
    _line(axes, x[shown], interval.mean[shown], style, ink, zorder=3)
    if shown.sum() == 1 and np.isfinite(interval.low[shown]).all():
        axes.vlines(x[shown], interval.low[shown], interval.high[shown], color=colour, alpha=0.5)


def _line(axes, x, y, style: Style, ink: str, **options):
    from matplotlib.lines import Line2D

    colour = ink if style.colour == INK else style.colour
    options |= {"color": colour, "marker": style.marker, "linestyle": style.dash}
    return Line2D(x, y, **options) if axes is None else axes.plot(x, y, **options)[0]


def _dress(axes, ink: str) -> None:
    axes.patch.set_visible(False)
    axes.grid(axis="y", color=ink, alpha=0.22, linewidth=0.6)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set(visible=name == "bottom", color=ink, linewidth=0.7)
    axes.tick_params(colors=ink, length=3, width=0.7, which="both")
    axes.tick_params(axis="y", length=0, which="both")


def new_figure(size: tuple[float, float]):
    """An empty figure of so many inches, without a ground of its own."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_visible(False)
    return figure


def _no_ticks():
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _with_numbers(values: xarray.DataArray) -> list[str]:
    return [str(name) for name in values["attack"].values if np.isfinite(values.sel(attack=name)).any()]
