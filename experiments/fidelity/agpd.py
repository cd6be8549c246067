"""AGPD: dispersions of sixteen layers, layer, rounds and decisions beside BackdoorBench's functions.

Yuan et al., ICLR 2025. The functions of `agpd_utils` run as they are; the script's own loop over classes and rounds
stands in the middle of one that loads files and is repeated. Clean rows are the same for all layers, as in ours.
"""

import heapq
import warnings

import numpy as np
import torch
from scipy.spatial.distance import jensenshannon, pdist

from experiments.fidelity import common

ROWS, CLEAN, TAU = 300, 60, 0.05
LAYERS = [f"layer{stage}.{block}.conv{number}" for stage in (1, 2, 3, 4) for block in (0, 1) for number in (1, 2)]
NAMES = ("get_gradient", "get_all_gradient", "compute_change", "compute_distance", "get_unsimilar_sample_idx", "mad")


def absorb(code, feature, reference):
    """The rows flagged of one class, by their rounds."""
    first = code.get_unsimilar_sample_idx(feature, reference, np.empty(0, int), 1)
    known, rounds, distances, before, bins = list(first), [list(first)], [], None, np.linspace(0, 1, 100)
    before = code.stage1_new(feature, reference, known, -1, "cosin", len(feature))[
        1
    ]  # all rates, none of them absorbed
    while True:
        new, left, _ = code.stage1_new(feature, reference, known, TAU, "cosin", len(feature))
        if not len(new):
            return np.concatenate(rounds[: code.find_small_and_smooth_window_start(distances)]).astype(int)
        rounds.append(new)
        known = known + list(new)
        one, two = (np.histogram(each, bins=bins, density=True)[0] for each in (before, left))
        distances.append(jensenshannon(one, two) if len(before) and len(left) else 1)
        before = left


def compare(folder):
    """Relative difference of dispersions, share of targets and of decisions that differ."""
    warnings.simplefilter("ignore")  # of hooks that PyTorch advises against
    made = common.pair()
    made.module.eval()
    names = (*NAMES, "stage1_new", "find_small_and_smooth_window_start")
    code = common.pieces(folder, "detection_pretrain/agpd_utils.py", *names, heapq=heapq, pdist=pdist)
    (image, label), (clean, clean_label) = common.poisoned(ROWS), common.poisoned(CLEAN, share=0, seed=2)
    right = common.hooked(made, "linear", clean)[1].argmax(1) == clean_label
    gaps, features, references = [], [], []
    for layer in LAYERS:

        def described(image, label, layer=layer):
            rows = [(common.to_torch(image), torch.tensor(label).long())]
            return code.get_all_gradient(rows, "cpu", "preactresnet18", made.module, False, layer, common.CLASSES)

        own, known = described(image, label), described(clean, clean_label)
        counted = [(clean_label == number) & right for number in range(common.CLASSES)]
        counted = [mask if mask.any() else clean_label == number for number, mask in enumerate(counted)]
        references.append([known[mask].mean(0) for mask in counted])
        features.append([own[label == number] for number in range(common.CLASSES)])
        gap = []
        for feature, reference in zip(features[-1], references[-1], strict=True):
            first = code.get_unsimilar_sample_idx(feature, reference, np.empty(0, int), 1)
            gap.append(code.compute_change(feature, reference, first) / np.sqrt(len(feature)))
        gaps.append(np.array(gap))
    anomaly = np.array([code.mad(gap) for gap in gaps])
    if anomaly.max() >= np.exp(2):
        layer = np.argmax(anomaly.max(1))
        targets = np.flatnonzero(anomaly[layer] > np.exp(2))
    else:
        layer = 12 + np.argmax([np.sum(gap > 0.3) for gap in gaps[12:15]])
        targets = np.flatnonzero(gaps[layer] > 0.3)
    flagged = np.zeros(ROWS, bool)
    for number in targets:
        flagged[np.flatnonzero(label == number)[absorb(code, features[layer][number], references[layer][number])]] = (
            True
        )
    asked = f"agpd:preset=benchmark,tau={TAU}", made, common.source(image, label)
    ours = common.fitted(*asked, clean=common.source(clean, clean_label))
    return {
        "dispersions of ten classes in sixteen layers": common.relative(ours["gaps"], np.array(gaps)),
        f"layer, {LAYERS[layer]}": abs(int(ours["layer"]) - layer),
        f"decisions that differ, {flagged.sum()} of {ROWS} flagged in {len(targets)} classes": np.mean(
            (np.asarray(ours["score"]) > 0) != flagged
        ),
    }


COMPARISON = common.Comparison("SCLBD/BackdoorBench", "f02e353", compare)
