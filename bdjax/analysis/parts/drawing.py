"""What the figures of analyses share: width, text and color maps that read without color vision and in print."""

import functools
from collections.abc import Callable

WIDTH = 7.0
"""Inches: the width of a page's text."""

SEQUENTIAL = "Blues"
"""For numbers from 0 on; its lightness alone tells them apart."""


def styled(draw: Callable) -> Callable:
    """The function, drawing under the report's settings of matplotlib, which is imported when it is called."""

    @functools.wraps(draw)
    def drawn(*arguments, **options):
        from bdjax.report import figures

        return figures.with_settings(draw)(*arguments, **options)

    return drawn


def blank(height: float, width: float = WIDTH):
    """An empty matplotlib Figure on white, in inches."""
    from bdjax.report import figures

    figure = figures.new_figure((width, height))
    figure.patch.set(visible=True, facecolor="white")
    return figure


def title(axes, text: str) -> None:
    """A panel's title; a dollar sign is one."""
    axes.set_title(text, fontsize=9, parse_math=False)


def number(axes, values) -> None:
    """Whole numbers on the cells of an `imshow` of percentages (rows, columns); none where they round to 0."""
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if value >= 0.5:
                color = "white" if value > 55 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, fontsize=6.5)


def picture(axes, image, **look) -> None:
    """An image (height, width) or (height, width, 1 or 3) in [0, 1], without ticks."""
    gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    axes.imshow(image, **(gray | look))
    axes.set(xticks=[], yticks=[])


def style(place: int) -> dict:
    """Color and dash of the line with that number, from 0."""
    from bdjax.report import figures

    return {
        "color": figures.COLOURS[place % len(figures.COLOURS)],
        "linestyle": figures.DASHES[place % len(figures.DASHES)],
    }
