"""CLP: what the authors' function prunes at many thresholds, of networks that normalise before and after convolutions.

Zheng et al., ECCV 2022; their code is `CLP` in rkteddy/channel-Lipschitzness-based-pruning at 5209c83, of which
`CLP_prune` in `defense/clp.py` of BackdoorBench is a copy.
"""

import copy

import jax
import numpy as np

import bdjax
from bdjax.cards import lookup
from bdjax.types import Given
from experiments.fidelity import common

WIDTH = 4
THRESHOLDS = np.linspace(0.0, 4.0, 11)


def ours(made):
    """The parameters after pruning, at each threshold."""
    spec = lookup("clp:preset=benchmark", bdjax.DEFENSES, "defense")
    (stage,) = bdjax.DEFENSES["clp"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static)

    def pruned(u):
        given = Given(spec.traced | {"u": u}, None, victim=made.weights)
        return stage.step(jax.random.key(0), stage.init(None, given, None), None, given)[0].params

    pruned = jax.jit(pruned)
    return [pruned(u) for u in THRESHOLDS]


def theirs(code, made):
    """The same of theirs."""
    prune = getattr(code, "CLP_prune", None) or code.CLP
    found = []
    for u in THRESHOLDS:
        module = copy.deepcopy(made.module).requires_grad_(False)
        prune(module, u)
        found.append(common.weights(made.net, module).params)
    return found


def compare(folder):
    """Relative differences of scales and biases, over all thresholds at once, and of how many channels went."""
    code = common.module(folder, "defense/clp.py" if (folder / "defense").is_dir() else "defense.py")
    figures = {}
    for name in ("preact_resnet18", "resnet18"):
        made = common.pair(name, WIDTH)
        mine, other = ours(made), theirs(code, made)
        figures[f"{name}: parameters at {len(THRESHOLDS)} thresholds"] = common.relative(mine, other)
        counts = [sum(int(np.sum(leaf == 0)) for leaf in jax.tree.leaves(each)) for each in (mine, other)]
        figures[f"{name}: {counts[1]} parameters set to 0 in all"] = abs(counts[0] - counts[1]) / counts[1]
    return figures


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    (
        "Compared under preset=benchmark. Our default adds the epsilon of normalisation to running variances, and in a "
        "pre-activation network takes a sum for the output of the block's second convolution, not of its shortcut.",
    ),
)
