"""REFINE as BackdoorBox has it: the U-Net after steps of Adam at all three learning rates, in its own loop over epochs.

Chen et al., ICLR 2025; the code is `core/defenses/REFINE.py` with `core/models/unet.py`.
"""

import time

import numpy as np
import torch

from experiments.fidelity import common
from experiments.fidelity.refine import Sometimes, figures, ours, read, settings, unbiased

EPOCHS, LENGTH = (0, 1, 2, 3, 4), 5


class Base:
    """In place of the class that seeds everything."""

    def __init__(self, seed, deterministic):
        np.random.seed(seed)


def compare(folder):
    """Relative differences after five steps, two of them at a tenth of the rate and two at a hundredth."""
    made, image, label, unseen = settings()
    blocks = common.pieces(folder, "core/models/unet.py", "DoubleConv", "Down", "Up", "OutConv", "UNetLittle")
    losses = common.pieces(folder, "core/utils/supconloss.py", "SupConLoss")
    code = common.pieces(folder, "core/defenses/REFINE.py", "REFINE", Base=Base, SupConLoss=losses.SupConLoss)
    epochs = common.loop(folder, "core/defenses/REFINE.py", "train_unet", "range(schedule['epochs'])")
    torch.manual_seed(3)
    unet = unbiased(blocks)
    start = read(unet)
    with common.without_cuda():
        defense = code.REFINE(unet, made.module, num_classes=common.CLASSES)
        schedule = {"lr": 0.01, "gamma": 0.1, "schedule": [1, 3], "epochs": LENGTH}
        never = {f"{name}_interval": 10**6 for name in ("log_iteration", "test_epoch", "save_epoch")}
        epochs(
            {
                "self": defense,
                "schedule": schedule | never,
                "device": torch.device("cpu"),
                "train_loader": Sometimes(image, label, EPOCHS),
                "optimizer": torch.optim.Adam(unet.train().parameters(), 0.01, (0.9, 0.999), 1e-8, 0, False),
                "loss_func": torch.nn.BCELoss(reduction="mean"),
                "supconloss_func": losses.SupConLoss(),
                "iteration": 0,
                "last_time": time.time(),
            }
        )
        unet.eval()
        text = "preset=benchmark,first_drop=1,second_drop=3"
        mine = ours(made, start, defense.arr_shuffle, image, label, text, EPOCHS)
        return figures(made, unseen, start, mine, read(unet), defense.forward)


COMPARISON = common.Comparison(
    "THUYimingLi/BackdoorBox",
    "af3afd1c0b172cbf4b0f8c030a9afa0fecc13fc1",
    compare,
    ("Convolutions that are normalized have no bias; theirs begins at 0, where normalization keeps it.",),
)
