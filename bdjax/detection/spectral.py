"""Spectral signatures: how far a training row's features reach along the direction in which its class varies most.

Tran, Li, Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018, arXiv:1811.00636, algorithm 1.
"""

from bdjax.cards import Card, Method, Setting
from bdjax.detection.parts import signatures
from bdjax.models.parts import heads, taps
from bdjax.types import Detector

CARD = Card(
    name="spectral",
    title="Spectral Signatures",
    citation="Tran, Li, Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018, arXiv:1811.00636",
    year=2018,
    version=1,
    kind="separation in feature space",
    stage="pre-training",
    needs=("suspects", "victim"),
    settings={
        "percentile": Setting(85.0, "rows of a class that score above it are flagged", "percent", low=0.0, high=100.0),
        "centered": Setting(True, "whether the features that are scored are centered, too"),
        "tap": Setting("", "layer whose output is scored; empty: what the last linear layer reads"),
    },
    presets={"paper": {}, "benchmark": {"centered": False}},
    departures=(
        "The paper flags one and a half times the number of poisoned rows in the target class; a defender knows "
        "neither, and 15% of every class are flagged, as in the benchmark.",
        "The paper's text centers the features that are scored; its code and the benchmark do not: centered=false.",
        "The benchmark scores the output of the last block, before pooling: tap=layer4_1.add.",
    ),
)


def make(net, shape, classes, *, centered, tap):
    """One singular vector a class, and the projections on it."""
    del shape
    tap = taps.checked(net, tap or heads.reads(net, "spectral"), "spectral")

    def fit(_key, net, trained, given):
        feature, label = signatures.features(net, trained.weights, given.suspects, tap)
        return {"score": signatures.reach(feature, label, classes, centered), "label": label}

    def score(_key, _net, _trained, found, rows, _given):
        return found["score"][rows.row]

    def threshold(found, score, _clean, given):
        return signatures.above_percentile(score, found["label"], classes, given.settings["percentile"])

    return Detector(("rows",), score, fit, threshold)


SPECTRAL = Method(CARD, make)
