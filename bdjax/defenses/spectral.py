"""Spectral signatures: train, drop the rows that reach furthest along their class's main direction, train anew.

Tran, Li, Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018, arXiv:1811.00636, algorithm 1. Poisoned rows of
a class lie apart from its clean ones in the features of a network that learned the backdoor, and the top right singular
vector of the class's centred features points there.
"""

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.defenses.parts.pruning import once
from bdjax.detection.parts import signatures
from bdjax.models.parts import heads
from bdjax.train import recipes

CARD = Card(
    name="spectral",
    title="Spectral Signatures",
    citation="Tran, Li, Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018, arXiv:1811.00636",
    year=2018,
    version=1,
    kind="removal of training rows",
    stage="pre-training",
    needs=("train", "victim"),
    changes="the training set: rows are removed, and a new network is trained on the others",
    settings=recipes.RECIPE
    | {
        "percentile": Setting(85.0, "rows of a class that score above it are removed", "percent", low=0.0, high=100.0),
        "centered": Setting(True, "whether the features that are scored are centred, too"),
        "tap": Setting("", "the layer whose output is scored; empty: what the last linear layer reads"),
    },
    presets={"paper": {}, "benchmark": {"batch": 256, "period": 100, "centered": False}},
    departures=(
        "The paper removes one and a half times the number of poisoned rows from the target class; a defender knows "
        "neither, and 15% of every class are removed, as in the benchmark.",
        "Features are those that the last linear layer reads, of images as they are; the benchmark takes the output of "
        "the last block, before pooling, under a random augmentation.",
        "The paper's text centres the features that are scored; its code and the benchmark do not: centered=false.",
    ),
)


def make(net, shape, classes, *, centered, tap, **recipe):
    """Removal of suspect rows, then training from a new initialisation on the others."""
    del shape
    tap = tap or heads.reads(net, "spectral")

    def keep(victim, given):
        feature, label = signatures.features(net, victim, given.train, tap)
        score = signatures.reach(feature, label, classes, centered)
        return {"keep": ~signatures.above_percentile(score, label, classes, given.settings["percentile"])}

    def order(key, _epoch, given, _still):
        return train.chosen(key, given.carry["keep"], recipe["batch"])

    retrain = train.supervised(net, lambda given: given.train, fresh=True, order=order, **recipe)
    return once(lambda key, given, victim: (victim, {}), keep), retrain


SPECTRAL = Method(CARD, make)
