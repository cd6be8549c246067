"""TED: ranks of clean rows and queries beside the authors' notebook, and outlier scores beside PyOD, which it calls.

Mo et al., IEEE S&P 2024. `getDefenseRegion` and `getLayerRegionDistance` of tedbackdoordefense/ted run as they are on
activations that PyTorch's hooks find; they list a class at a time, so that ranks are put back in the rows' order.
"""

import sys
from unittest import mock

import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.detection.ted import watched
from bdjax.keys import root
from bdjax.types import Given, Trained
from experiments.fidelity import common

CLEAN, ROWS = 60, 25


def activations(made, image):
    """Name of our tap -> what PyTorch gives there, flattened, and predictions."""
    found, hooks = {}, []

    def watch(name, module, change):
        hooks.append(
            module.register_forward_hook(lambda _module, _inputs, output: found.update({name: change(output)}))
        )

    for name, module in made.module.named_modules():
        ours = name.replace(".bn", ".relu").replace(".0.", "_0.", 1).replace(".1.", "_1.", 1)
        if ours in watched(made.net):
            watch(ours, module, torch.relu if ".relu" in ours else torch.clone)
    with torch.no_grad():
        label = made.module(common.to_torch(image)).argmax(1)
    for hook in hooks:
        hook.remove()
    return {name: found[name].flatten(1) for name in watched(made.net)}, label


def theirs(code, scope, clean, clean_label, asked, asked_label):
    """Ranks (rows, layers) of clean rows and of queries."""
    regions = {}
    for layer in clean:
        for label in torch.unique(clean_label):
            code.getDefenseRegion(clean_label, clean[layer], label.item(), layer, regions)
        code.getLayerRegionDistance(asked_label, asked[layer], "asked", clean_label, clean[layer], layer, regions)

    def ordered(label, lists):
        order = np.concatenate([np.flatnonzero(label.numpy() == one) for one in np.unique(label)])
        figures = np.empty((len(label), len(lists)))
        figures[order] = np.array(lists).T
        return figures

    own = [np.concatenate([regions[layer][one] for one in np.unique(clean_label)]) for layer in clean]
    return ordered(clean_label, own), ordered(asked_label, [regions[layer]["asked"] for layer in clean])


def compare(folder):
    """Relative differences of scores, of queries and of clean rows."""
    sys.modules.setdefault("numba", mock.MagicMock())  # PyOD compiles other detectors with it
    from pyod.models.pca import PCA

    image, clean = common.batch(ROWS)[0], common.batch(CLEAN, seed=2)[0]
    made = common.keen(common.pair(), clean)
    label = activations(made, clean)[1].numpy()
    clean = clean[np.bincount(label, minlength=common.CLASSES)[label] > 1]  # theirs leaves out a row without another
    found, label = activations(made, clean)
    image = image[np.isin(activations(made, image)[1].numpy(), label.numpy())]
    asked, asked_label = activations(made, image)
    scope = {"Test_C": common.CLASSES, "candidate_": {}, "pairwise_euclidean_distance": torch.cdist}
    names = "gather_activation_into_class", "get_dis_sort", "getDefenseRegion", "getLayerRegionDistance"
    code = common.pieces(folder, "TED.ipynb", *names, **scope)
    kept, torch.Tensor.to = torch.Tensor.to, lambda self, *_args, **_named: self
    try:
        own, queries = theirs(code, scope, found, label, asked, asked_label)
    finally:
        torch.Tensor.to = kept
    judge = PCA(contamination=0.1, n_components="mle").fit(own)
    spec = lookup("ted:preset=authors_code,contamination=0.1", bdjax.DETECTORS, "detector")
    detector = bdjax.DETECTORS["ted"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static)
    given = Given(spec.traced, None, clean=common.source(clean, label.numpy()))
    fitted = detector.fit(root(0), made.net, Trained(made.weights), given)
    rows = common.source(image).read(jnp.arange(len(image)))
    score = detector.score(root(0), made.net, Trained(made.weights), fitted, rows, given)
    return {
        f"scores of queries by {judge.n_components_} components": common.relative(
            score, judge.decision_function(queries)
        ),
        "scores of clean rows, sorted": common.relative(np.sort(fitted["score"]), np.sort(judge.decision_scores_)),
    }


COMPARISON = common.Comparison(
    "tedbackdoordefense/ted",
    "fa193a6",
    compare,
    (
        "Our default sums squared projections by variance; PyOD's sum of distances is outlier=distances.",
        "PyOD's threshold lies between two clean scores, ours on one of them.",
    ),
)
