"""ABL's isolation: rows that a new network learns first, under a floor of its loss, are those of lowest loss.

Li, Lyu, Koren, Lyu, Li, Ma, Anti-Backdoor Learning: Training Clean Models on Poisoned Data, NeurIPS 2021,
arXiv:2110.11571, section 3.2, the first stage of the defense abl.
"""

import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.detection.parts import isolation
from bdjax.types import Detector, Trained, Weights

CARD = Card(
    name="abl",
    title="ABL isolation",
    citation="Li, Lyu, Koren, Lyu, Li, Ma, Anti-Backdoor Learning: Training Clean Models on Poisoned Data, NeurIPS "
    "2021, arXiv:2110.11571",
    year=2021,
    version=1,
    kind="loss of what is learned first",
    stage="pre-training",
    needs=("train",),
    settings={
        "isolation_epochs": Setting(20, "passes over all rows under the floor, without augmentation", "epochs", low=1),
        "batch": Setting(128, "rows a step; the whole source where that is smaller", "rows", low=1),
        "share": Setting(0.01, "share of rows that are flagged, those of lowest loss", low=0.0, high=1.0),
        **isolation.SETTINGS,
    },
    presets={"paper": {}, "benchmark": {"batch": 256, "isolation_rate": 0.01, "share": 0.1}},
    departures=(
        "The paper floors the loss of each row; the released code floors the mean of a batch, as is the default here.",
        "Batch and weight decay are those of the released code.",
        "The benchmark flags 10% because that is its poison ratio; the method as published takes 1%.",
    ),
)


def make(net, shape, classes, *, isolation_epochs, batch, floor):
    """The loss under a network of its own, negated."""
    del shape, classes

    def leave(_key, state, _given):
        return Trained(Weights(state.moving, state.still))

    stage = isolation.learn(net, lambda given: given.train, floor, leave, epochs=isolation_epochs, batch=batch)

    def score(_key, net, trained, _found, rows, _given):
        return -isolation.losses_of(net, trained.weights, rows)

    def threshold(_found, score, _clean, given):
        place = jnp.argsort(jnp.argsort(-score))  # equal losses in their order
        return place < jnp.floor(given.settings["share"] * score.size)

    return Detector(("rows",), score, None, threshold, (stage,))


ABL = Method(CARD, make)
