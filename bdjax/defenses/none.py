"""Plain training: what a victim does who knows nothing, and the row that every defense is measured against.

The recipe is the one that the field trains its reference models with: SGD, momentum, coupled weight decay, cosine
annealing advanced once an epoch, crop and flip. Wu et al., BackdoorBench, NeurIPS 2022 (datasets and benchmarks).
"""

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.keys import stream
from bdjax.train import recipes

CARD = Card(
    name="none",
    title="Plain training",
    citation="Wu et al., BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, NeurIPS 2022, arXiv:2206.12654",
    year=2022,
    version=1,
    kind="training",
    stage="training",
    needs=("train",),
    changes="nothing: this is the undefended model",
    settings=recipes.VICTIM
    | {
        "drop_last": Setting(True, "leave out the rows that do not fill a batch"),
        "smoothing": Setting(0.0, "share of a label that goes to the other classes, evenly", low=0.0, high=1.0),
        "mirror": Setting(
            "random", "each image by chance, or in every second pass; where at all", choices=("random", "alternating")
        ),
        "shift": Setting(0, "largest shift of the crop; 0: the dataset's own", "pixels", low=0),
        "border": Setting("black", "what a crop shows beyond the image", choices=("black", "reflected")),
    },
    presets={
        "paper": {},
        "benchmark": {"period": 100},
        "speed": recipes.SPEED | {"smoothing": 0.18, "mirror": "alternating", "shift": 2, "border": "reflected"},
        "short": recipes.SHORT | {"smoothing": 0.1},
    },
    departures=(
        "preset speed is the recipe of Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv:2404.00498, with "
        "10 epochs for 9.9; half of the rows, every second one, begin mirrored, where the release draws them; its "
        "smoothing of 0.2 over all ten classes is 0.18 over the nine others",
        "preset short is this library's own, for PreActResNet18; what was chosen, and on what: experiments/README.md",
    ),
)


def make(net, shape, classes, *, mirror, shift, border, **recipe):
    """Plain training from a new initialisation on the training set as it is."""
    del shape, classes
    crop = ({"shift": shift} if shift else {}) | ({} if border == "black" else {"border": border})

    def augment(key, rows, epoch, given):
        turned = {"turned": (rows.row + epoch) % 2 == 1} if mirror == "alternating" else {}
        return rows.replace(image=given.augment(stream(key, "augment"), rows.image, **crop, **turned))

    return (train.supervised(net, lambda given: given.train, fresh=True, augment=augment, **recipe),)


NONE = Method(CARD, make)
