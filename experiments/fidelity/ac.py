"""Activation clustering: components, distances and decisions beside BackdoorBench's `ac.cleanser`.

Chen et al., 2018. `cleanser` runs as it is on what the linear layer of our PyTorch network reads. Its k-means is given
fifty runs that end where nothing moves, as ours are, for one run from an unseeded start is not a result. Components
begin from the same seed and are five, for which FastICA converges in every class: where it runs out of rounds, rounding
decides what it gives.
"""

import logging
from types import SimpleNamespace

import jax
import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from bdjax.keys import stream
from experiments.fidelity import common

ROWS, CLASSES, DIMS, RUNS = 400, 4, 5, 50


def compare(folder):
    """Relative difference of scores in flagged classes, and share of decisions that differ."""
    made = common.pair()
    image, label = common.poisoned(ROWS, CLASSES)
    key = stream(stream(stream(jax.random.key(0), "init"), "fit"), "components")
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    fitted = []

    class Watched(KMeans):
        def __init__(self, n_clusters):
            super().__init__(n_clusters, n_init=RUNS, tol=0, random_state=0)

        def fit(self, place):
            fitted.append((place, super().fit(place).cluster_centers_))
            return self

    def features(_name, _model, _loader):
        return torch.tensor(common.hooked(made, "linear", image)[0])

    scope = {"defense": object, "KMeans": Watched, "silhouette_score": silhouette_score, "get_features": features}
    scope |= {"xy_iter": lambda *_, **__: [0], "DataLoader": lambda *_, **__: None, "logging": logging}
    code = common.pieces(folder, "detection_pretrain/ac.py", "ac", **scope)
    theirs = object.__new__(code.ac)
    theirs.args = SimpleNamespace(nb_dims=DIMS, nb_clusters=2, random_seed=seed, batch_size=ROWS, model="")
    logging.disable(logging.CRITICAL)  # one of its messages has an argument too many
    flagged = np.zeros(ROWS, bool)
    flagged[theirs.cleanser(None, label, None, None, CLASSES, theirs.args)] = True
    expected = np.zeros(ROWS)
    for number, (place, centers) in enumerate(fitted):
        near = np.linalg.norm(place[:, None] - centers, axis=2)
        small = np.argmin(np.bincount(np.argmin(near, 1)))
        if np.mean(np.argmin(near, 1) == small) < 0.35:
            gap = np.linalg.norm(centers[0] - centers[1])
            expected[label == number] = (near[:, 1 - small] ** 2 - near[:, small] ** 2) / (2 * gap)
    ours = common.detect(f"ac:dims={DIMS},restarts={RUNS}", made, common.source(image, label))
    return {
        "signed distances to the plane between clusters": common.relative(ours["score"], expected),
        f"decisions that differ, {flagged.sum()} of {ROWS} flagged": np.mean(np.asarray(ours["flagged"]) != flagged),
    }


COMPARISON = common.Comparison("SCLBD/BackdoorBench", "f02e353", compare)
