"""FCT: under a transformation the features of poisoned rows change more, in a network that has just begun.

Chen, Wu, Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022: the metric of
feature consistency towards transformations, equation 1, in a network that learns the training set for a moment and
whose class centers are then pushed apart.
"""

import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.detection.parts import sensitivity
from bdjax.models.parts import heads
from bdjax.types import Detector

CARD = Card(
    name="fct",
    title="FCT",
    citation="Chen, Wu, Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022, "
    "https://openreview.net/forum?id=AsH-Tx2U0Ug",
    year=2022,
    version=1,
    kind="consistency of features under transformations",
    stage="pre-training",
    needs=("suspects",),
    settings={
        "epochs": Setting(2, "epochs of cross-entropy, from a new initialization and without augmentation", low=1),
        "tuning_epochs": Setting(10, "epochs that push the centers of classes apart", "epochs", low=0),
        "batch": Setting(128, "rows a step; the whole set where that is smaller", "rows", low=1),
        "learning_rate": Setting(0.01, "SGD learning rate at the start", low=0.0),
        "momentum": Setting(0.9, "SGD momentum", low=0.0, high=1.0),
        "weight_decay": Setting(5e-4, "coupled L2 on every parameter", low=0.0),
        "period": Setting(100, "half period of the cosine schedule", "epochs", low=1),
        "turn": Setting(180.0, "largest angle of the rotation, either way", "degrees", low=0.0, high=180.0),
        "shift": Setting(0.2, "largest translation, either way, in parts of the image", low=0.0, high=1.0),
        "share": Setting(0.05, "rows that are flagged", "share of all rows", low=0.0, high=1.0),
    },
    presets={"paper": {}, "benchmark": {}},
    departures=(
        "Both views of a row are drawn once; the public versions draw the second again to compare it with a threshold "
        "made of other draws.",
        "Of the views that the public versions offer this is their default, a rotation followed by a translation.",
        "The share of rows that are taken for clean, which the defense built on it uses, is not asked for.",
    ),
)


def make(net, shape, classes, *, epochs, tuning_epochs, batch, period):
    """A short training, and how far a view's features are from the image's own."""
    del shape
    tap = heads.reads(net, "fct")

    stage = sensitivity.learn(
        net,
        tap,
        lambda given: given.suspects,
        classes,
        train.recipe(net, "epoch", period),
        epochs=epochs,
        tuning_epochs=tuning_epochs,
        batch=batch,
    )

    def threshold(_found, score, _clean, given):
        flagged = jnp.floor(score.size * given.settings["share"]).astype(jnp.int32)
        bound = jnp.append(jnp.sort(score), jnp.inf)[score.size - flagged]
        return score >= bound

    return Detector(("rows",), sensitivity.scored(tap), None, threshold, (stage,))


FCT = Method(CARD, make)
