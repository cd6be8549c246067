"""ISSBA: one secret hidden in every image by StegaStamp, whose encoder adds to the image (Li et al., 2021, section 4).

The same paper as `ssba`, closer to the authors' code, with the schedule of BackdoorBox.
"""

from bdjax.attacks.fitting.steganography import DEPARTURES, LABELS, NEVER, Pace, coding, steganographic
from bdjax.cards import Card, Method, Setting
from bdjax.models.auxiliary.steganography import coder
from bdjax.types import Attack

CARD = Card(
    name="issba",
    title="ISSBA",
    citation="Yuezun Li, Yiming Li, Baoyuan Wu, Longkang Li, Ran He, Siwei Lyu. Invisible Backdoor Attack with "
    "Sample-Specific Triggers. ICCV 2021. https://arxiv.org/abs/2012.03816",
    year=2021,
    version=1,
    kind="dirty-label, sample-specific",
    stage="pre-training",
    controls="data",
    changes="pixels and labels of poisoned rows",
    smallest=16,
    bar={"bit_accuracy": 0.95, "psnr": 28.0},
    settings=coding(bits=20, width=16, steps=800, fidelity=50.0)
    | {
        "secret_steps": Setting(
            0, "steps on bits alone before `hold`; 0: until 0.9 of a batch's are read", "steps", low=0
        )
    }
    | LABELS,
    presets={
        "paper": {},
        "benchmark": {
            "width": 32,
            "encoder_steps": 37_500,
            "encoder_learning_rate": 1e-4,
            "encoder_schedule": "constant",
            "secret_steps": 3750,
            "hold": 0,
            "ramp": 1,
            "storage": "round",
        },
    },
    departures=(
        "the authors hide 100 bits and BackdoorBox 20, by networks of width 32; with the defaults here, 20 bits and "
        "width 16, training takes minutes on two cores of a CPU; preset=benchmark has BackdoorBox's size and, counted "
        "in steps for CIFAR-10, its 20 passes, though test images, which it has among them, are not trained on here",
        "their loss also has a perceptual distance, which needs a network trained elsewhere, and a critic's opinion; "
        "here the mean squared change alone, with a larger weight",
        "by default the change of the image begins to count when bits are read, and little by little; after a fixed 2 "
        "of 20 passes and at once, as in BackdoorBox, training this short can lose the bits again",
        "BackdoorBox keeps stamped images as floats and composes batches of 6 poisoned and 122 clean rows",
        *DEPARTURES,
    ),
)

READ = 0.9
"""The share of a batch's bits at which the image begins to matter, where no number of steps is given."""


def make(net, shape, classes, bits, width, secret_steps, hold, ramp, **settings) -> Attack:
    """ISSBA for images of `shape`.

    Raises:
        InvalidInput: target or sources are no classes.
    """
    del net
    start, accuracy = (secret_steps - 1, 1.0) if secret_steps else (NEVER, READ)
    pace = Pace(start, accuracy, hold, ramp)
    return steganographic("issba", classes, coder(shape, bits, width, "change"), pace, bits=bits, **settings)


ISSBA = Method(CARD, make)
