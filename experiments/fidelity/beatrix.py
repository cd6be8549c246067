"""Beatrix: deviations, thresholds and decisions beside the authors' code and BackdoorBench's, which lacks the power.

Ma et al., NDSS 2023. `Feature_Correlations` and `threshold_determine` of either run as they are, on the input of the
last stage as the authors read it, for each class that clean rows are predicted as.
"""

import jax
import numpy as np
import torch

from experiments.fidelity import common

ROWS, CLEAN = 120, 300
FILES = {"benchmark": "detection_pretrain/beatrix.py", "paper": "defenses/Beatrix/Beatrix.py"}


def compare(folder):
    """Relative differences of thresholds and scores, and share of decisions that differ."""
    preset = "benchmark" if (folder / FILES["benchmark"]).is_file() else "paper"
    made = common.pair(width=2)
    code = common.pieces(folder, FILES[preset], "Feature_Correlations", "threshold_determine")
    (image, label), (clean, clean_label) = common.poisoned(ROWS), common.poisoned(CLEAN, share=0, seed=2)
    image, clean = (one * np.random.RandomState(3).lognormal(0, 2, (len(one), 1, 1, 1)) for one in (image, clean))
    with torch.no_grad():  # so that a random network predicts more than one class
        made.module.linear.bias -= torch.tensor(common.hooked(made, "linear", clean)[1].mean(0))
    made = made._replace(weights=common.weights(made.net, made.module))
    order = np.asarray(jax.random.permutation(jax.random.key(0), CLEAN))  # of `sources.shuffled`
    activation, known = (torch.tensor(common.hooked(made, "layer4", one)[0]) for one in (image, clean))
    predicted, of_known = (common.hooked(made, "linear", one)[1].argmax(1) for one in (image, clean))
    theirs = code.Feature_Correlations(POWER_list=range(1, 9), mode="mad")
    scale = 8 * activation.shape[1] ** 2 / 2  # ours leaves out what divides deviations and thresholds alike
    score, limits = np.zeros(ROWS), {}
    for number in range(common.CLASSES):
        rows = order[of_known[order] == number][:30]
        if len(rows) >= 5:
            limits[number] = code.threshold_determine(known[rows], theirs)[0]
            theirs.train(in_data=[known[rows]])
            own = np.flatnonzero(predicted == number)
            score[own] = theirs.get_deviations_([activation[own]])[:, 0] / max(limits[number], 1e-12 / scale)
    asked = f"beatrix:preset={preset},tap=layer3_1.add", made, common.source(image, label)
    ours = common.detect(*asked, clean=common.source(clean, clean_label))
    found = common.fitted(*asked, clean=common.source(clean, clean_label))["threshold"]
    own = [found[number] / scale for number in limits]
    return {
        f"thresholds of {len(limits)} classes": common.relative(own, list(limits.values())),
        "scores": common.relative(ours["score"], score),
        f"decisions that differ, {np.sum(score > 1)} of {ROWS} flagged": np.mean(
            np.asarray(ours["flagged"]) != (score > 1)
        ),
    }


COMPARISON = common.Comparison(
    "wanlunsec/Beatrix",
    "685827e, and SCLBD/BackdoorBench at f02e353",
    compare,
    ("Clean rows are drawn without repetition.",),
)
