"""SCALE-UP: scores and decisions beside BackdoorBox, and the authors' eleven factors.

Guo et al., ICLR 2023. `SCALE_UP._detect` and `init_spc_norm` of BackdoorBox run as they are; the authors' own script is
one loop over a stored file, whose formula is repeated here on its noise-free images.
"""

import numpy as np
import torch

from experiments.fidelity import common

ROWS, VALID = 40, 20


def compare(folder):
    """Relative differences of scores, mean and deviation over clean rows, and share of decisions that differ."""
    made = common.keen(common.pair(), common.batch(ROWS)[0] / 2)
    code = common.pieces(folder, "core/defenses/SCALE_UP.py", "SCALE_UP", Base=object, test=None)
    image, label = common.batch(ROWS), common.batch(VALID, seed=2)
    image, (clean, label) = 0.5 * image[0], (0.3 * label[0], label[1])  # so that factors do not make all white
    with common.without_cuda(), torch.no_grad():
        theirs = object.__new__(code.SCALE_UP)
        theirs.model, theirs.scale_set, theirs.T = made.module, [3, 5, 7, 9, 11], 0.5
        theirs.valset = torch.utils.data.TensorDataset(common.to_torch(clean), torch.tensor(label).long())
        theirs.init_spc_norm(theirs.valset)
        flagged = theirs._detect(common.to_torch(image)).numpy()
        theirs.valset = None
        free = theirs._detect(common.to_torch(image)).numpy()
        own = np.stack([made.module(torch.clamp(h * common.to_torch(image), 0, 1)).argmax(1) for h in range(1, 12)], 1)
    given = {"valid": common.source(clean, label)}
    ours = common.detect("scale_up", made, common.source(image), **given)
    ours_free = common.detect("scale_up:standardized=false", made, common.source(image), **given)
    authors = common.detect("scale_up:preset=authors_code,noise=0", made, common.source(image), **given)
    ours_clean = common.detect("scale_up", made, common.source(clean, label), **given)["score"]
    return {
        "mean and deviation over clean rows": common.relative(
            (np.mean(ours_clean), np.std(ours_clean, ddof=1)), (theirs.mean, theirs.std)
        ),
        f"decisions that differ, standardized, {flagged.sum()} of {ROWS} flagged": np.mean(ours["flagged"] != flagged),
        f"decisions that differ, data-free, {free.sum()} flagged": np.mean(ours_free["flagged"] != free),
        "scores under the authors' factors": common.relative(authors["score"], np.mean(own == own[:, :1], 1)),
    }


COMPARISON = common.Comparison(
    "THUYimingLi/BackdoorBox",
    "af3afd1",
    compare,
    ("The authors' script (JunfengGo/SCALE-UP a2c6d06) cannot be called: its formula is repeated, without its noise.",),
)
