"""Which detector finds which backdoor, how surely, and how often is one found where there is none?

    python -m experiments.detectors runs/detectors --size digits
    python -m experiments.detectors runs/detectors --size cpu --folder FOLDER
    python -m experiments.detectors runs/models --size models

Every detector of poisoned training rows and of triggered queries, put to undefended victims with and without poison.
Size `digits` takes all rows of digits and the attacks that implant there; size `cpu` 2,000 suspects of all of CIFAR-10
in FOLDER (train/<class>/* and test/<class>/*), a network of 24,346 parameters and three attacks; size `models` asks the
audits of whole models about 20 clean and 40 backdoored ones. `--detectors` takes some of the detectors, so that a study
can be done in parts; what is changed for small sets (CHANGED) is printed. Machine, time, figures and n:
experiments/README.md.
"""

import argparse
import sys
from pathlib import Path

import bdjax
from bdjax.cli import status
from bdjax.cli.conduct import conduct
from experiments.changes import changes

SURROGATE = "surrogate_epochs=30,surrogate_batch=64,surrogate_learning_rate=0.1"
ATTACKS = {
    "digits": (
        "adaptive_blend",
        "adaptive_patch",
        "badnets",
        "blended",
        "blind",
        "issba",
        f"low_frequency:{SURROGATE}",
        "poison_ink",
        "ssba",
        "tact",
        f"trojannn:{SURROGATE}",
    ),
    "cpu": ("blended", "low_frequency", "adaptive_blend"),
    "models": ("badnets", "blended"),
}
COMMON = {
    "digits": {"dataset": "digits", "ratios": (0.0, 0.1, "tact=0.0", "tact=0.08"), "seeds": range(3), "driver": "map"},
    "cpu": {
        "model": "small_cnn:width=16,stem_stride=2",
        "recipe": "epochs=10,learning_rate=0.1",
        "ratios": (0.0, 0.05),
        "seeds": range(3),
        "suspects": 2000,
        "driver": "map",
    },
    "models": {
        "dataset": "digits",
        "ratios": (0.0, 0.1),
        "seeds": range(20),
        "audits": ("nc:preset=benchmark,batch=8", "mm_bd", "ban:epochs=300"),
    },
}
CHANGED: dict[str, dict[str, str]] = {"digits": {}, "cpu": {}, "models": {}}
"""What a size changes of detectors' own settings.

The audits of `models` take as many steps as their authors do: of 70 clean rows a pass of their batches is one step.
"""


def study(folder: str, size: str, names) -> bdjax.Study:
    """Victims of the attacks of a size and the detectors `names`; folder: of the images, where the size needs one."""
    changed = CHANGED[size]
    texts = tuple(f"{name}:{changed[name]}" if name in changed else name for name in names)
    fields = {"attacks": ATTACKS[size], "detectors": texts if size != "models" else ()}
    return bdjax.Study(**fields | COMMON[size] | ({"dataset": folder} if folder else {}))


def main() -> None:
    """Read the arguments, say what is cut, run."""
    parser = argparse.ArgumentParser(prog="python -m experiments.detectors")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=sorted(ATTACKS), default="digits")
    parser.add_argument("--folder", default="")
    parser.add_argument("--detectors", nargs="*", default=sorted(bdjax.DETECTORS))
    given = parser.parse_args()
    asked = study(given.folder, given.size, given.detectors)
    if CHANGED[given.size]:
        print(changes(CHANGED[given.size], bdjax.DETECTORS, "detector"))
    conduct(asked, given.out)


if __name__ == "__main__":
    sys.exit(status(main))
