"""SPECTRE: scores, variances and decisions beside BackdoorBench's filter, which is a translation of the authors' Julia.

Hayase et al., ICML 2021. `rcov_auto_quantum_filter` runs as it is, but for an option of SciPy that is gone; the scores
are those that it hands to its choice of the largest.
"""

import contextlib
import io

import numpy as np
import scipy.linalg
from sklearn.decomposition import PCA

from experiments.fidelity import common

ROWS, CLASSES, SHARE = 600, 2, 0.04


def compare(folder):
    """Relative differences of scores and variances of two classes, and share of decisions that differ."""
    made = common.pair(width=8)
    image, label = common.poisoned(ROWS, CLASSES, share=0.06)
    feature = common.hooked(made, "linear", image)[0]
    utils = common.module(folder, "detection_pretrain/spectre_utils.py")
    utils.solve = lambda a, b, sym_pos: scipy.linalg.solve(a, b, assume_a="pos")
    asked = []

    def watched(values, count):
        asked.append(-values)
        return utils.k_lowest_ind(values, count)

    scope = {"PCA": PCA, "cov_estimation_iterate": utils.cov_estimation_iterate, "k_lowest_ind": watched}
    scope |= {"sqrtm": scipy.linalg.sqrtm, "norm": np.linalg.norm, "svd": np.linalg.svd}
    code = common.pieces(
        folder, "detection_pretrain/spectre.py", "rcov_quantum_filter", "rcov_auto_quantum_filter", **scope
    )
    flagged, score, variance = np.zeros(ROWS, bool), np.zeros(ROWS), []
    for number in range(CLASSES):
        rows = np.flatnonzero(label == number)
        asked.clear()
        with contextlib.redirect_stdout(io.StringIO()):
            kept, value = code.rcov_auto_quantum_filter(feature[rows], int(SHARE * ROWS), [])
        flagged[rows], count = ~kept, np.sum(~kept)
        best = [one for one in asked if set(np.argsort(-one)[:count]) == set(np.flatnonzero(~kept))]
        score[rows] = best[0]
        variance.append(value)
    ours = common.fitted(f"spectre:preset=benchmark,share={SHARE}", made, common.source(image, label))
    return {
        "scores of two classes": common.relative(ours["score"], score),
        "variances of two classes": common.relative(ours["variance"][:CLASSES], np.array(variance)),
        f"decisions that differ, {flagged.sum()} of {ROWS} flagged": np.mean(np.asarray(ours["flagged"]) != flagged),
    }


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e353",
    compare,
    ("The script itself cannot run: it calls its feature extractor without a layer.",),
)
