"""Lips: the bounds that the benchmark's loop over layers finds.

The loop of `analysis/visual_lips.py`, in SCLBD/BackdoorBench at f02e353.
"""

import torch

from bdjax.analysis import lips
from experiments.fidelity import common
from experiments.fidelity.tac import collected, ours_named


def compare(folder):
    """Relative differences over all channels of all layers."""
    figures = {}
    for network in ("preact_resnet18", "resnet18"):
        made = common.pair(network, 4)
        with torch.no_grad():
            table = collected(folder, "analysis/visual_lips.py", made, None)
        theirs = {ours_named(name): one["Lips"].to_numpy(float) for name, one in table.groupby("layer", sort=False)}
        layers = tuple(layer for layer in made.net.layers if layer.name in theirs)
        mine = lips.bounds(made.net, made.weights, layers, False, True)
        figures[f"{network}: {len(theirs)} layers"] = common.relative(mine, theirs)
    return figures


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    (
        "Compared under preset=benchmark: running variances without epsilon, a normalization layer with the "
        "convolution registered last before it.",
    ),
)
