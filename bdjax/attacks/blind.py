"""Blind backdoors: the loss that a model is trained with also asks for the backdoor (Bagdasaryan, Shmatikov, 2021).

The attacker changes neither data nor weights: the loss computation makes triggered copies of every batch by itself and
weighs their loss against that of the clean rows, so that both are learned. `blind_training` is that computation.
"""

import jax.numpy as jnp
import numpy as np

from bdjax.attacks.parts import patches
from bdjax.attacks.parts.common import GOAL, TARGET, dirty_label
from bdjax.attacks.training.balance import NORMALIZATION
from bdjax.attacks.training.blind_training import training
from bdjax.attacks.training.portions import PORTION
from bdjax.cards import Card, Method, Setting
from bdjax.train.recipes import VICTIM
from bdjax.types import Array, Attack

CARD = Card(
    name="blind",
    title="Blind backdoor",
    citation="Eugene Bagdasaryan, Vitaly Shmatikov. Blind Backdoors in Deep Learning Models. USENIX Security 2021. "
    "https://arxiv.org/abs/2005.03823",
    year=2021,
    version=1,
    kind="dirty-label, controls training, static",
    stage="training",
    controls="training",
    needs=("whole",),
    changes="the loss: it counts triggered copies of every batch too",
    smallest=16,
    settings={
        "threshold": Setting(1.0, "mean loss on clean rows below which the attack is on", low=0.0),
        "window": Setting(
            0, "steps that this mean is over and that pass before the attack; 0: those of an epoch", "steps", low=0
        ),
        "balance": Setting(
            "mgda", "weights of both losses: by multiple gradient descent, or fixed", choices=("mgda", "fixed")
        ),
        "normalization": NORMALIZATION,
        "backdoor_weight": Setting(0.9, "of the loss on triggered copies, where weights are fixed", low=0.0),
        "clean_weight": Setting(1.0, "of the loss on clean rows, where weights are fixed", low=0.0),
        "portion": PORTION,
        "goal": GOAL,
        "target": TARGET,
    }
    | VICTIM,
    presets={"paper": {}, "benchmark": {"portion": "all", "balance": "fixed", "window": 1000}},
    departures=(
        "the authors' released code is followed, as the paper itself was not at hand",
        "the authors trigger a fixed share of every batch's copy, all of it for CIFAR-10: ratio 1, or portion=all",
        "the released code has the mean over 1,000 steps, 1.3 passes over CIFAR-10 in batches of 64; the default, an "
        "epoch, is about as much for data of any size",
        "weights of fixed losses are the benchmark's; the released code leaves them to its user",
        "the authors train 200 epochs from a rate of 0.1, in batches of 64",
        "in images that are not of 32 pixels the pattern and its place are scaled; the authors' are not",
        "the benchmark normalises the pattern by the statistics of CIFAR-10 on every dataset, this by the dataset's",
        "the losses that evade Neural Cleanse and SentiNet are left out",
        "poisoned rows on record are a fixed set, which detectors judge; in training every batch draws its own",
    ),
)

PATTERN = ("101", " 1 ", "  0", " 1 ", "101")
"""White and black pixels of the trigger, from the released code; what is neither stays as it is."""

TOP, LEFT = 3, 23


def trigger_patch(shape: tuple[int, int, int]) -> patches.Patch:
    """The pattern in images of `shape`, near their top right corner."""
    cells = np.array([list(line) for line in PATTERN])
    white, covered = (cells == "1").astype(float), (cells != " ").astype(float)
    return patches.place(np.repeat(white[:, :, None], 3, axis=2), covered, TOP, LEFT, shape)


def make(net, shape, classes, goal, target, **static) -> Attack:
    """The attack for images of `shape` and the training that goes with it.

    Raises:
        InvalidInput: the target is no class.
    """
    picture, mask = trigger_patch(shape)

    def triggered(image: Array) -> Array:
        return jnp.where(mask > 0, picture.astype(image.dtype), image)

    def stamp(assets, trigger, image, row):
        del assets, trigger, row
        return triggered(image)

    shared = dirty_label("blind", classes, target=target, goal=goal, sources="any")
    train = (training(net, triggered, shared["goal"], **static),)
    return Attack(stamp=stamp, query=stamp, train=train, **shared)


BLIND = Method(CARD, make)
