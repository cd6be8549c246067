"""Every defense that the study of superficial safety does not have, on real images: accuracy, attack success, retuned.

    python -m experiments.defenses FOLDER runs/defenses --part post
    python -m experiments.defenses FOLDER runs/defenses --part cleansing
    python -m experiments.defenses FOLDER runs/defenses --part training
    python -m experiments.defenses FOLDER runs/defenses --part strongest

The victims are those of experiments.superficial_safety, size `cpu`: FOLDER holds CIFAR-10 as train/<class>/* and
test/<class>/*, of which the first 1,000 and 100 images a class are taken. `--defenses` takes some of a part's, so that
none takes longer than an hour of two cores; `--attacks` takes others than the part's. What is cut is printed. Machine,
time, figures, n: experiments/README.md.
"""

import argparse
import sys
from pathlib import Path

import bdjax
from bdjax.cli import status
from bdjax.cli.conduct import conduct
from experiments.changes import changes
from experiments.subset import subset
from experiments.superficial_safety import MAIN, table

CHANGED = {
    "ims": "initial_rounds=40,rounds=60",
    "moth": "epochs=100,learning_rate=0.01,portion=0.5,warmup_steps=100,pair_steps=50,short_steps=20",
    "refine": "width=8",
    "dbd": "contrastive_epochs=40,epochs=20,steps=100,ramp=20",
    "asd": "class_epochs=20,loss_epochs=10,epochs=10,steps=50,ramp=40",
    "d_st": "contrastive_epochs=100",
}
"""Settings that are not the methods' own, for two cores or for 500 clean rows; the reasons are in the README."""

PARTS = {
    "post": (
        *("rnp", "nc", "bnp", "ep", "super_ft", "d3", "nft"),
        *("unit", "mm_bm", "awm", "mcr", "ims", "moth", "tsc", "refine"),
    ),
    "cleansing": ("ac", "spectral", "scan", "spectre", "abl", "pdb"),
    "training": ("dbd", "d_st", "d_br", "nab", "asd", "cbd"),
    "strongest": ("tsc", "awm", "super_ft", "d3", "nft", "unit"),
}
"""Defenses by what they are run against."""

ATTACKS = {"training": ("blended",), "strongest": ("badnets", "sig", "wanet")}
RATIOS = {"training": (0.1,)}


def study(folder: str, part: str, names, attacks=()) -> bdjax.Study:
    """The study of the defenses `names` of a part, on the images in `folder`; attacks: () for the part's own."""
    return bdjax.Study(
        dataset=folder,
        model=MAIN,
        attacks=tuple(attacks) or ATTACKS.get(part, ("blended", "low_frequency")),
        ratios=RATIOS.get(part, (0.0, 0.1)),
        seeds=range(3),
        defenses=("none", *(f"{name}:{CHANGED[name]}" if name in CHANGED else name for name in names)),
        audits=("retuning",) if part in ("post", "strongest") else (),
        recipe="epochs=40,batch=64,learning_rate=0.1",
        driver="map",
    )


def main() -> None:
    """Read the arguments, take fewer images, say what is changed, run."""
    parser = argparse.ArgumentParser(prog="python -m experiments.defenses")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", choices=sorted(PARTS), default="post")
    parser.add_argument("--defenses", nargs="*")
    parser.add_argument("--attacks", nargs="*", default=())
    given = parser.parse_args()
    names = PARTS[given.part] if given.defenses is None else tuple(given.defenses)
    images = str(subset(given.folder, given.out / "images", train=1000, test=100))
    asked = study(images, given.part, names, given.attacks)
    changed = {name: CHANGED[name] for name in names if name in CHANGED}
    if changed:
        print(changes(changed, bdjax.DEFENSES, "defense"))
    conduct(asked, given.out / "study")
    print(table(bdjax.load(given.out / "study"), asked.defenses))


if __name__ == "__main__":
    sys.exit(status(main))
