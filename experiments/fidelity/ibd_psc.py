"""IBD-PSC: where amplification begins, scores and decisions beside backdoor-toolbox, its authors' merged code.

Hou et al., ICML 2024. `prob_start`, `scale_var_index` and `_detect` of the class in vtu81/backdoor-toolbox run as they
are; scores, which `_detect` does not return, are read at several bounds on them.
"""

import copy

import numpy as np
import torch

from experiments.fidelity import common

ROWS, VALID = 40, 30


def theirs(code, made, image, clean, label, factor, error):
    """(first count, scores) of the class."""
    self = object.__new__(code.IBD_PSC)
    self.model, self.scale, self.n, self.xi, self.T = made.module, factor, 5, error, 0.9
    self.val_loader = [(common.to_torch(clean), torch.tensor(label).long())]
    self.sorted_indices = list(reversed(range(self.count_BN_layers())))
    self.start_index = self.prob_start(self.scale, self.sorted_indices)
    seen, kept = [], torch.zeros
    torch.zeros = lambda *size: seen.append(kept(*size)) or seen[-1]  # the sum of scores, divided in place
    try:
        self._detect(common.to_torch(image))
    finally:
        torch.zeros = kept
    return self.start_index, seen[0].numpy()


def compare(folder):
    """Relative differences of scores for several errors, and of the counts of layers that they are found at."""
    code = common.pieces(folder, "other_defenses_tool_box/IBD_PSC.py", "IBD_PSC", BackdoorDefense=object, copy=copy)
    image = common.batch(ROWS)[0]
    made = common.keen(common.pair(), image)
    clean = common.batch(VALID, seed=2)[0]
    figures = {}
    with common.without_cuda(), torch.no_grad():
        label = made.module(common.to_torch(clean)).argmax(1).numpy()
        for factor, error in ((1.5, 0.6), (1.03, 0.2), (1.03, 0.4), (1.03, 0.6)):
            count, score = theirs(code, made, image, clean, label, factor, error)
            text = f"ibd_psc:preset=toolbox,factor={factor},error={error}"
            ours = common.detect(text, made, common.source(image), valid=common.source(clean, label))
            figures[f"scores from {count} layers on"] = common.relative(ours["score"], score)
            figures[f"decisions that differ from {count} on"] = np.mean(np.asarray(ours["flagged"]) != (score >= 0.9))
    return figures


COMPARISON = common.Comparison("vtu81/backdoor-toolbox", "9d4d909", compare)
