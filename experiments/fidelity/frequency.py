"""Frequency saliency: the maps of the benchmark's function, in its 256 levels.

`saliency` of `analysis/visual_utils.py`, in SCLBD/BackdoorBench at f02e353.
"""

import copy

import jax
import numpy as np

from bdjax.analysis import frequency
from experiments.fidelity import common

ROWS = 6


def compare(folder):
    """Relative differences of the maps of random images, rounded down to levels as theirs are."""
    theirs = common.pieces(folder, "analysis/visual_utils.py", "saliency").saliency
    image, _ = common.batch(ROWS)
    figures = {}
    for network in ("preact_resnet18", "resnet18"):
        made = common.keen(common.pair(network, 4), image)
        module = copy.deepcopy(made.module).eval()
        other = np.stack([theirs(one.clone(), module) for one in common.to_torch(image)])
        mine = jax.jit(lambda image, made=made: frequency.saliency(made.net, made.weights, image))(image)
        figures[f"{network}: levels"] = common.relative(np.floor(255 * np.asarray(mine)), other.astype(float))
    return figures


COMPARISON = common.Comparison("SCLBD/BackdoorBench", "f02e3534645f0ee63d6848653062cd6c0d6c400d", compare)
