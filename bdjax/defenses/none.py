"""Plain training: what a victim does who knows nothing, and the row that every defense is measured against.

The recipe is the one that the field trains its reference models with: SGD, momentum, coupled weight decay, cosine
annealing advanced once an epoch, crop and flip. Wu et al., BackdoorBench, NeurIPS 2022 (datasets and benchmarks).
"""

from bdjax import train
from bdjax.cards import Card, Method

CARD = Card(
    name="none",
    title="Plain training",
    citation="Wu et al., BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, NeurIPS 2022, arXiv:2206.12654",
    year=2022,
    version=1,
    kind="training",
    stage="in-training",
    needs=("train",),
    changes="nothing: this is the undefended model",
    settings=train.RECIPE | {"drop_last": train.Setting(True, "leave out the rows that do not fill a batch")},
    presets={"paper": {}, "benchmark": {"period": 100}},
)


def make(net, shape, classes, **recipe):
    """Plain training from a new initialisation on the training set as it is."""
    del shape, classes
    return (train.supervised(net, lambda given: given.train, fresh=True, **recipe),)


NONE = Method(CARD, make)
