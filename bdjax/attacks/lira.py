"""LIRA: a network learns, together with the classifier, the faint noise that is the trigger (Doan et al., 2021).

`lira_training` trains both in turn, then the classifier alone.
"""

from bdjax.attacks.parts.common import GOAL, STORAGE, TARGET, dirty_label, scalar, stored
from bdjax.attacks.training.batches import BATCHES
from bdjax.attacks.training.generators import held
from bdjax.attacks.training.lira_training import stages, triggered
from bdjax.attacks.training.portions import PORTION
from bdjax.cards import Card, Method, Setting
from bdjax.keys import stream
from bdjax.models.auxiliary.autoencoder import autoencoder
from bdjax.train.recipes import VICTIM
from bdjax.types import Attack, Key, Weights

CARD = Card(
    name="lira",
    title="LIRA",
    citation="Khoa Doan, Yingjie Lao, Weijie Zhao, Ping Li. LIRA: Learnable, Imperceptible and Robust Backdoor "
    "Attacks. ICCV 2021. https://openaccess.thecvf.com/content/ICCV2021/html/"
    "Doan_LIRA_Learnable_Imperceptible_and_Robust_Backdoor_Attacks_ICCV_2021_paper.html",
    year=2021,
    version=1,
    kind="dirty-label, controls training, generated triggers",
    stage="training",
    controls="training",
    needs=("whole",),
    changes="pixels and labels of copies of some rows of every batch, and the augmentation",
    smallest=8,
    settings={
        "epsilon": Setting(0.01, "largest change of a value", "of the range 0 to 1", low=0.0, high=1.0),
        "width": Setting(16, "channels of the generator's first convolution", low=1),
        "halvings": Setting(4, "how often the generator halves the image", low=1),
        "joint_epochs": Setting(50, "passes that train the generator and the classifier together", "epochs", low=1),
        "generator_learning_rate": Setting(1e-4, "of the generator", low=0.0),
        "clean_weight": Setting(
            0.5, "of the loss on clean rows; the rest is that of the triggered ones", low=0.0, high=1.0
        ),
        "portion": PORTION,
        "leaking": Setting(False, "whether the classifier also follows its gradient of the generator's loss"),
        "tuned": Setting(True, "whether the classifier goes on to learn alone"),
        "inclusive": Setting(False, "whether joint_epochs are part of epochs"),
    }
    | {name: setting for name, setting in BATCHES.items() if name != "rounding"}
    | {"storage": STORAGE, "goal": GOAL, "target": TARGET}
    | VICTIM,
    presets={
        "paper": {},
        "benchmark": {
            "epsilon": 0.0025,
            "portion": "all",
            "leaking": True,
            "tuned": False,
            "inclusive": True,
            "augmentation": "batch",
            "interpolation": "nearest",
            "schedule": "constant",
            "storage": "truncate",
        },
    },
    departures=(
        "the released code adds 0.01 to images in units of the dataset's deviation, at most 0.0027 of their range, "
        "which no 8-bit image can hold; benchmark has 0.0025 for every channel",
        "the released code triggers every row of every batch: ratio 1, or portion=all",
        "where it is told to trigger fewer, it runs them by themselves; here normalisation sees the whole batch's copy",
        "the released code has a U-Net for CIFAR-10 and this generator for GTSRB and Tiny ImageNet",
        "the authors tune the classifier for 250 or 500 epochs and divide the rate by 10 four times",
        "the released code keeps the epoch of the first stage that does best on test images, this the last",
        "where authors and benchmark fill with the mean colour of the dataset, this fills with that of the batch",
        "the benchmark crops and turns every batch, this four in five and every second",
        "images that the generator sees are by 0.25 in every channel; the authors' by each channel's own deviation",
        "a batch in which no row is triggered is one of plain training",
        "poisoned rows on record are a fixed set, which detectors judge; in training every batch draws its own",
        "in tuned=false, which is what the benchmark stores, the epochs beyond joint_epochs are not run",
    ),
)


def make(net, shape, classes, width, halvings, storage, goal, target, **training) -> Attack:
    """The attack for images of `shape` and the training that goes with it.

    Raises:
        InvalidInput: the target is no class.
    """
    generator = autoencoder(shape, shape[2], width, halvings)

    def stamp(assets, trigger, image, row):
        del assets, row
        noise = generator.apply(Weights(**trigger["generator"]), image[None])[0]
        return stored(triggered(image, noise[0], trigger["epsilon"]), storage)

    def trigger(key: Key, settings) -> dict:
        weights = generator.init(stream(key, "generator"))
        return {"generator": held(weights), "epsilon": scalar(settings["epsilon"])}

    shared = dirty_label("lira", classes, target=target, goal=goal, sources="any", trigger=trigger)
    train = stages(net, generator, shared["goal"], **training)
    return Attack(stamp=stamp, query=stamp, train=train, **shared)


LIRA = Method(CARD, make)
