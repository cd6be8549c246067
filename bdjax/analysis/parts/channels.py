"""Numbers a channel of a network: which layers they belong to, and a dataset and a figure of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from bdjax.analysis.parts import drawing
from bdjax.analysis.parts.stored import Stored
from bdjax.errors import InvalidInput
from bdjax.types import Layer

KINDS = ("conv", "norm", "linear")
"""The kinds of layers whose channels are looked at."""


def layers(study: Stored, method: str) -> tuple[Layer, ...]:
    """The convolutions, normalizations and linear layers of the study's network, in forward order.

    Raises:
        InvalidInput: a defense has replaced one of them.
    """
    found = tuple(layer for layer in study.net.layers if layer.kind in KINDS)
    for defense, models in study.models.items():
        there = {layer.name for layer in models.group.net.layers}
        missing = [layer.name for layer in found if layer.name not in there]
        if missing:
            kept = [name for name, one in study.models.items() if one.group.net is study.net]
            raise InvalidInput(f"{method}: {defense} changes layer {missing[0]}; choose from {', '.join(kept)}")
    return found


def dataset(
    study: Stored,
    values: Mapping[str, np.ndarray],
    name: str,
    attributes: Mapping[str, Any],
    about: Mapping[str, str],
    label: tuple[Any, ...] | None = None,
) -> xr.Dataset:
    """A dataset of one variable over all channels of all layers.

    Args:
        study: whose seeds and defenses they are.
        values: name of a layer -> float (seed, defense, channels), or (seed, defense, channels, label).
        name: of the variable.
        attributes: of the dataset.
        about: of the variable, `long_name` and `units`.
        label: the coordinate of the last axis, if there is one.

    Returns:
        Dims (seed, defense, channel), where it has them label; coordinates layer and index of every channel.
    """
    dims = ("seed", "defense", "channel") + (("label",) if label is not None else ())
    sizes = {layer: value.shape[2] for layer, value in values.items()}
    coordinates = {
        "seed": list(study.seeds),
        "defense": list(study.models),
        "layer": ("channel", np.repeat(list(sizes), list(sizes.values()))),
        "index": ("channel", np.concatenate([np.arange(size) for size in sizes.values()])),
    }
    if label is not None:
        coordinates["label"] = list(label)
    joined = np.concatenate([np.asarray(value, float) for value in values.values()], axis=2)
    return xr.Dataset({name: (dims, joined, dict(about))}, coordinates, dict(attributes))


@drawing.styled
def bricks(values: xr.DataArray, label: str, by_layer: bool, top: float = 0.0):
    """Every layer as a column of its channels, one panel a defense: a matplotlib Figure.

    Args:
        values: dims (defense, channel), at least 0, with the coordinates of `dataset`.
        label: of the color bar.
        by_layer: whether each layer is divided by its largest value over defenses, so that all layers show.
        top: else the end of the color bar; 0 for the largest value.
    """
    defenses, layer = values["defense"].values, values["layer"].values
    names = list(dict.fromkeys(layer.tolist()))
    tops = dict.fromkeys(names, top or float(values.max()) or 1.0)
    if by_layer:
        tops = {name: float(values.values[:, layer == name].max()) or 1.0 for name in names}
    figure = drawing.blank(0.9 + 1.9 * len(defenses))
    panels = figure.subplots(len(defenses), 1, squeeze=False, sharex=True)[:, 0]
    for panel, defense in zip(panels, defenses, strict=True):
        for place, name in enumerate(names):
            column = values.sel(defense=defense).values[layer == name, None] / tops[name]
            extent = (place - 0.42, place + 0.42, 0, 100)
            look = {"cmap": drawing.SEQUENTIAL, "vmin": 0, "vmax": 1, "interpolation": "nearest"}
            shown = panel.imshow(column, extent=extent, origin="lower", aspect="auto", **look)
        panel.set(xlim=(-0.6, len(names) - 0.4), ylim=(0, 100), ylabel="channel, % of layer")
        panel.set_facecolor("0.85")
        drawing.title(panel, str(defense))
    panels[-1].set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    panels[-1].set_xlabel("layer, from input to output")
    bar = figure.colorbar(shown, ax=list(panels), pad=0.01, aspect=30)
    share = np.linspace(0, 1, 5)
    if by_layer:
        bar.set_label(f"{label},\n% of the layer's largest")
        bar.set_ticks(share, labels=[f"{100 * each:.0f}" for each in share])
    else:
        bar.set_label(label)
        bar.set_ticks(share, labels=[f"{tops[names[0]] * each:.3g}" for each in share])
    return figure
