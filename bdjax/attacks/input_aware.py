"""Input-aware dynamic backdoor: every image gets a trigger of its own, which works on no other (Nguyen, Tran, 2020).

Two generators see the image: one makes a pattern, the other a mask that says where the pattern replaces the image.
`input_aware_training` trains them.
"""

from bdjax.attacks.parts import partners
from bdjax.attacks.parts.common import GOAL, STORAGE, TARGET, dirty_label, saved, stored
from bdjax.attacks.training.batches import BATCHES
from bdjax.attacks.training.generators import Generators, held
from bdjax.attacks.training.input_aware_training import stages
from bdjax.cards import Card, Method, Setting
from bdjax.data.poison import roles
from bdjax.keys import stream
from bdjax.models.auxiliary.hourglass import hourglass
from bdjax.train.recipes import VICTIM
from bdjax.types import Array, Attack, Key, Poison, everything

CARD = Card(
    name="input_aware",
    title="Input-aware dynamic backdoor attack",
    citation="Tuan Anh Nguyen, Tuan Anh Tran. Input-Aware Dynamic Backdoor Attack. NeurIPS 2020. "
    "https://arxiv.org/abs/2010.08138",
    year=2020,
    version=2,
    kind="dirty-label, controls training, generated triggers",
    stage="training",
    controls="training",
    needs=("whole",),
    changes="pixels and labels of some rows of every batch",
    smallest=8,
    bar={"cross/acc": 0.93},  # the least of the authors' data sets: 88.16 of 94.65 on CIFAR-10
    settings={
        "width": Setting(32, "channels of the generators' first blocks", low=1),
        "halvings": Setting(3, "how often the generators halve the image", low=1),
        "mask_epochs": Setting(25, "passes that train the mask's generator, before the classifier's", "epochs", low=1),
        "mask_learning_rate": Setting(
            0.01, "of that training, at the start; a tenth after two fifths, a hundredth after four", low=0.0
        ),
        "density": Setting(0.032, "of the mask, above which it is pushed down", low=0.0, high=1.0),
        "sparsity": Setting(100.0, "weight of what the mask is above its density", low=0.0),
        "pattern_learning_rate": Setting(0.01, "of the pattern's generator", low=0.0),
        "diversity": Setting(1.0, "weight of the diversity of masks, and of patterns", low=0.0),
        "rounding": BATCHES["rounding"],
        "squashing": Setting("once", "hyperbolic tangents after a generator", choices=("once", "twice")),
        "repeated": Setting(False, "whether the mask's statistics count the first images of each pair twice"),
        "accumulated": Setting(False, "whether the pattern's generator follows the sum of all gradients so far"),
        "inclusive": Setting(False, "whether mask_epochs are part of epochs"),
        "storage": STORAGE,
        "goal": GOAL,
        "target": TARGET,
    }
    | VICTIM,
    presets={
        "paper": {},
        "benchmark": {
            "rounding": "floor",
            "squashing": "twice",
            "repeated": True,
            "accumulated": True,
            "inclusive": True,
            "schedule": "constant",
            "storage": "truncate",
        },
    },
    departures=(
        "the authors' code also sums gradients, counts images twice and has mask_epochs within epochs",
        "the authors have 600 epochs and divide the classifier's rate by 10 after 100, 200, 300 and 400, the pattern "
        "generator's a hundred later each",
        "images that the generators see, and distances between images, are by 0.25 in every channel; the authors' by "
        "each channel's own deviation",
        "the authors turn and shift images further than the dataset's augmentation does",
        "the generators' convolutions have no bias, which normalisation takes away again",
        "at most half of the rows of a batch are poisoned, since each has another one that is a cover sample",
        "poisoned and cover rows on record are a fixed set; in training every batch draws its own",
    ),
)


def make(net, shape, classes, width, halvings, squashing, storage, goal, target, **training) -> Attack:
    """The attack for images of `shape` and the training that goes with it.

    Raises:
        InvalidInput: the target is no class.
    """
    pattern, mask = hourglass(shape, shape[2], width, halvings), hourglass(shape, 1, width, halvings)
    generators = Generators(pattern, mask, squashing)

    def triggered(trigger, image: Array, other: Array) -> Array:
        made, where = generators.pattern_of(trigger, other[None])[0], generators.mask_of(trigger, other[None])[0]
        return stored(image + (made - image) * where, storage)

    def stamp(assets, trigger, image, row):
        del assets, row
        return triggered(trigger, image, image)

    def cover(assets, trigger, image, row):
        return triggered(trigger, image, partners.partner(assets, trigger["key"], row).astype(image.dtype))

    def cross(assets, trigger, image, row, other):
        del assets, row
        return triggered(trigger, image, other)

    def trigger(key: Key, settings) -> dict:
        del settings
        parts = {name: held(made.init(stream(key, name))) for name, made in (("pattern", pattern), ("mask", mask))}
        return parts | {"key": saved(stream(key, "partner"))}

    shared = dirty_label("input_aware", classes, target=target, goal=goal, sources="any", trigger=trigger)

    def init(key, assets, settings, label, priority, count) -> Poison:
        poison = shared["init"](key, assets, settings, label, priority, count)
        return poison.replace(role=roles(priority, everything(label), count, count))

    train = stages(net, generators, shared["goal"], **training)
    parts = shared | {"init": init, "prepare": partners.prepare}
    return Attack(stamp=stamp, query=stamp, cover=cover, cross=cross, train=train, **parts)


INPUT_AWARE = Method(CARD, make)
