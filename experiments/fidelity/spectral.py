"""Spectral signatures: scores and cut of BackdoorBench's loop over classes, on the features that it reads.

Tran, Li, Madry, NeurIPS 2018. The loop stands in the middle of a script that loads files, so its NumPy is repeated
here; the features are those of the authors' kind of hook in PyTorch.
"""

import numpy as np
import torch

from experiments.fidelity import common

ROWS = 60


def compare(folder):
    """Relative difference of scores, uncentered as theirs, and share of decisions that differ."""
    text = (folder / "detection_pretrain/spectral.py").read_text()
    for line in ("np.linalg.svd(centered_cov", "full_mean = np.mean(full_cov", "np.percentile(scores"):
        if line not in text:
            raise SystemExit(f"{folder}: no {line!r} in the script that is compared; give the revision that is named")
    made = common.pair()
    made.module.eval()
    image, label = common.batch(ROWS)
    label = label % 3
    seen = []
    hook = made.module.layer4[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        made.module(common.to_torch(image))
    hook.remove()
    feature = seen[0].permute(0, 2, 3, 1).reshape(ROWS, -1).numpy()
    score, flagged = np.zeros(ROWS), np.zeros(ROWS, bool)
    for number in range(3):
        rows = np.flatnonzero(label == number)
        centered = feature[rows] - feature[rows].mean(0, keepdims=True)
        direction = np.linalg.svd(centered, full_matrices=False)[2][:1]
        score[rows] = np.linalg.norm(direction @ feature[rows].T, axis=0)
        flagged[rows] = score[rows] > np.percentile(score[rows], 85)
    ours = common.detect("spectral:preset=benchmark,tap=layer4_1.add", made, common.source(image, label))
    return {
        "scores of three classes": common.relative(ours["score"], score),
        f"decisions that differ, {flagged.sum()} of {ROWS} flagged": np.mean(np.asarray(ours["flagged"]) != flagged),
    }


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench", "f02e353", compare, ("The loop is repeated: the script does not offer it as a function.",)
)
