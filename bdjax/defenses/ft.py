"""FT: fine-tune all weights on the defender's clean rows, with augmentation and BatchNorm in training mode.

Liu, Dolan-Gavitt, Garg, Fine-Pruning, RAID 2018, section 4 (fine-tuning as a defense); the settings are those of
Zhu et al., ICCV 2023, section 4.1, and of BackdoorBench: SGD, rate 0.01, batch 256, 100 epochs.
"""

from bdjax import train
from bdjax.cards import Card, Method, Setting

SETTINGS = train.RECIPE | {
    "batch": Setting(256, "rows a step; the whole clean set where that is smaller", "rows", low=1),
    "smoothing": Setting(0.0, "label smoothing: this share is spread over the other classes", low=0.0, high=0.999),
}

CARD = Card(
    name="ft",
    title="Fine-tuning",
    citation="Liu, Dolan-Gavitt, Garg, Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks, "
    "RAID 2018, arXiv:1805.12185",
    year=2018,
    version=1,
    kind="fine-tuning",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all weights",
    settings=SETTINGS,
    presets={"paper": {}, "benchmark": {"period": 100}},
    departures=("The reference benchmark runs it in half precision; this computes in single precision.",),
)


def make(net, shape, classes, **recipe):
    """Fine-tuning of all weights on the clean rows."""
    del shape, classes
    return (train.supervised(net, lambda given: given.clean, **recipe),)


FT = Method(CARD, make)
