"""STRIP: entropies of BackdoorBench's class over the same overlays.

Gao et al., ACSAC 2019. `STRIP.check` of BackdoorBench runs as it is. All clean images are overlays, so that the order
in which it draws them does not matter; they come less their mean, as normalization would have it.
"""

import random
from types import SimpleNamespace

import numpy as np

from experiments.fidelity import common

ROWS, CLEAN = 24, 12


def compare(folder):
    """Relative differences of entropies of two sets, and share of decisions that differ."""
    made = common.pair()
    made.module.eval()
    scope = {"args": SimpleNamespace(device="cpu"), "random": random}
    code = common.pieces(folder, "detection_pretrain/strip.py", "STRIP", **scope)
    image, clean = common.batch(ROWS)[0], common.batch(CLEAN, seed=2)[0]
    overlays = common.to_torch(clean - clean.mean((0, 1, 2)))  # theirs are normalized images: ours subtract the mean
    theirs = code.STRIP(scope["args"], None, None, made.module, 1.0, CLEAN, 0.1)
    rows = [(one, 0) for one in overlays]
    expected = theirs.check(common.to_torch(image), None, rows).numpy()
    self = theirs.check(common.to_torch(clean), None, rows).numpy()
    source = common.source(clean, np.zeros(CLEAN))
    ours = common.detect(f"strip:overlays={CLEAN},fpr=0.1", made, common.source(image), clean=source, valid=source)
    flagged = expected < np.sort(self)[int(0.1 * CLEAN)]
    return {
        f"entropies of {ROWS} images under {CLEAN} overlays": common.relative(-ours["score"], expected),
        f"decisions that differ, {flagged.sum()} flagged": np.mean(np.asarray(ours["flagged"]) != flagged),
    }


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e353",
    compare,
    ("Overlays are all clean images here; ours draws them for each row, theirs for each batch of 128.",),
)
