"""SSBA: one secret hidden in every image by an encoder that gives the whole image (Li et al., 2021, section 4).

The networks and their training are those of the benchmark, after Yu, Skripniuk, Abdelnabi, Fritz, Artificial
Fingerprinting for Generative Models, ICCV 2021.
"""

from bdjax.attacks.fitting.steganography import DEPARTURES, LABELS, NEVER, Pace, coding, steganographic
from bdjax.cards import Card, Method
from bdjax.models.auxiliary.steganography import coder
from bdjax.types import Attack

CARD = Card(
    name="ssba",
    title="SSBA",
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
    settings=coding(bits=32, width=16, steps=1200, fidelity=100.0) | LABELS,
    presets={
        "paper": {},
        "benchmark": {
            "bits": 100,
            "width": 32,
            "encoder_steps": 15_640,
            "encoder_batch": 64,
            "encoder_learning_rate": 1e-4,
            "encoder_schedule": "constant",
            "fidelity": 10.0,
            "hold": 1000,
            "ramp": 3000,
            "storage": "round",
        },
    },
    departures=(
        "the authors hide 100 bits by networks of width 32; with the defaults here, 32 bits and width 16, training "
        "takes minutes on two cores of a CPU; preset=benchmark has the full size and, counted in steps for CIFAR-10, "
        "20 passes",
        *DEPARTURES,
    ),
)

READ = 0.9
"""The share of a batch's bits at which the image begins to matter."""


def make(net, shape, classes, bits, width, hold, ramp, **settings) -> Attack:
    """SSBA for images of `shape`.

    Raises:
        InvalidInput: target or sources are no classes.
    """
    del net
    pace = Pace(NEVER, READ, hold, ramp)
    return steganographic("ssba", classes, coder(shape, bits, width, "image"), pace, bits=bits, **settings)


SSBA = Method(CARD, make)
