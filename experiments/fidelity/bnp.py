"""BNP and EP: the channels that the authors' functions and the benchmark's prune at many thresholds.

Zheng et al., NeurIPS 2022; their code is `defense.py` in RJ-T/NIPS2022_EP_BNP at af5150d. The benchmark's functions are
repeated on its formulas in `defense/bnp.py` and `defense/ep.py`, for the modules that collect what a layer reads do not
start: hooks collect it here.
"""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.types import Given
from experiments.fidelity import common

ROWS, THRESHOLDS = 64, (0.5, 1.0, 2.0)


def ours(text, made, image):
    """The parameters after pruning, at each threshold."""
    spec = lookup(text, bdjax.DEFENSES, "defense")
    (stage,) = bdjax.DEFENSES[spec.name].make(made.net, (32, 32, 3), common.CLASSES, **spec.static)
    rows = common.source(image, np.zeros(len(image), np.int32))

    def pruned(u):
        given = Given(spec.traced | {"u": u}, None, train=rows, clean=rows, victim=made.weights)
        return stage.step(jax.random.key(0), stage.init(None, given, None), None, given)[0].params

    pruned = jax.jit(pruned)
    return [jax.tree.map(jnp.array, pruned(u)) for u in THRESHOLDS]


def theirs(folder, which, made, image, benchmark):
    """The same of theirs: a copy of the network whose normalizations are the authors' modules."""
    classes = ("BatchNorm2d_gau", "BatchNorm2d_ent")
    module, found = made.module, []
    loader = [(common.to_torch(image), torch.zeros(len(image)))]

    def network(_name, _classes, norm=torch.nn.BatchNorm2d):
        model = copy.deepcopy(module)
        for name, layer in list(model.named_modules()):
            if isinstance(layer, torch.nn.BatchNorm2d):
                parent, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(parent), leaf, norm(layer.num_features))
        return model

    code = common.pieces(folder, "defense.py", *classes, "batch_entropy_2", which, get_model=network, print=_silent)
    args = type("Args", (), {"model": "", "device": "cpu"})
    for u in THRESHOLDS:
        with common.without_cuda():
            model = getattr(code, which)(module.state_dict(), u, loader, args, common.CLASSES)
        params = common.weights(made.net, model).params
        if benchmark:
            params = _without_biases(params)
        found.append(params)
    return found


def _silent(*_):
    pass


def _without_biases(params):
    """Biases 0 where scales are."""

    def change(node):
        if "scale" in node:
            return node | {"bias": jnp.where(node["scale"] == 0, 0.0, node["bias"])}
        return {name: change(child) if isinstance(child, dict) else child for name, child in node.items()}

    return change(params)


def spread(made, image):
    """The network with running statistics near those of the images, so that some channels stand out and some do not."""
    made.module.train()
    draw = np.random.RandomState(3)
    with torch.no_grad():
        for _ in range(50):
            made.module(common.to_torch(image + 0.1 * draw.standard_normal(image.shape)))
    made.module.eval()
    return made._replace(weights=common.weights(made.net, made.module))


def compare(folder):
    """Relative differences of the parameters over all thresholds at once, and of how many channels went."""
    figures = {}
    for network in ("preact_resnet18", "resnet18"):
        image = common.poisoned(ROWS)[0]
        made = spread(common.pair(network, 4), image)
        cases = {
            "bnp": ("BNP", "bnp", False),
            "ep": ("EP", "ep:augment=false", False),
            "biases: bnp": ("BNP", "bnp:biases=true", True),
        }
        for name, (which, text, benchmark) in cases.items():
            mine, other = ours(text, made, image), theirs(folder, which, made, image, benchmark)
            counts = [sum(int(np.sum(leaf == 0)) for leaf in jax.tree.leaves(each)) for each in (mine, other)]
            figures[f"{network}, {name}: parameters at {len(THRESHOLDS)} thresholds"] = common.relative(mine, other)
            figures[f"{network}, {name}: {counts[1]} set to 0 in all"] = abs(counts[0] - counts[1]) / max(counts[1], 1)
    return figures


COMPARISON = common.Comparison(
    "RJ-T/NIPS2022_EP_BNP",
    "af5150da52fe55aa0e265352576c435e1d9a39ab",
    compare,
    (
        "Rows are drawn by our key; the released code takes the first batch of a shuffled loader. All rows are one "
        "batch here, so that both see the same.",
        "The benchmark's modules do not start: `biases`, `log_weight` and `rows_from` are checked by hand.",
    ),
)
