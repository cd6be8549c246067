"""What the speed recipe gives up: ACC and ASR beside the field's recipe, on the network that it was made for.

    python -m experiments.speed runs/speed --size cpu --folder FOLDER
    python -m experiments.speed runs/speed --size gpu --folder FOLDER

Victims at ratios 0 and 0.1 under several recipes, no defense: the speed recipe, and the field's (SGD, cosine, batch
128) for as many epochs, for four times as many, and, with `gpu`, for its 100. FOLDER holds CIFAR-10 as train/<class>/*
and test/<class>/*. Size `cpu` takes the first 1,000 and 100 images a class, a network of an eighth of the width, and
blended alone; size `gpu` is the record's own network and all images, and has not been run. Machine, time, figures and
n: experiments/README.md.
"""

import argparse
import sys
from pathlib import Path

import bdjax
from bdjax.cli import status
from bdjax.cli.conduct import conduct
from bdjax.report import table
from bdjax.report.wording import whole
from experiments.subset import subset

FIELD = {f"field-{epochs}": f"learning_rate=0.1,epochs={epochs}" for epochs in (10, 40)}
RECIPES = {
    "cpu": {"speed": "preset=speed,batch=256"} | FIELD,
    "gpu": {"speed": "preset=speed"} | FIELD | {"field-100": ""},
}
"""By name; with 10,000 images a batch of 1,024 would leave 90 steps, so `cpu` takes a quarter of it."""

MODELS = {"cpu": "airbench:width=8", "gpu": "airbench:precision=bfloat16"}
ATTACKS = {"cpu": ("blended",), "gpu": ("badnets", "blended")}


def study(folder: str, size: str, recipe: str) -> bdjax.Study:
    """Victims under one recipe, all seeds and ratios in one program."""
    return bdjax.Study(
        dataset=folder,
        model=MODELS[size],
        attacks=ATTACKS[size],
        ratios=(0.0, 0.1),
        seeds=range(3),
        recipe=recipe,
        flip=True,
    )


def rows(name: str, folder: Path) -> str:
    """The lines of one recipe, as Markdown: ACC and ASR in percent with intervals over seeds."""
    lines = []
    for row in table(bdjax.load(folder), ("acc", "asr", "seconds")):
        values = " | ".join(whole(row.measures[measure]) for measure in ("acc", "asr"))
        seconds = row.measures["seconds"].mean
        lines.append(f"| {name} | {row.attack} | {row.ratio:g} | {row.count} | {values} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Read the arguments, take fewer images where the size asks for it, run every recipe, print one table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.speed")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=tuple(RECIPES), default="cpu")
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    folder = subset(given.folder, given.out / "images", 1000, 100) if given.size == "cpu" else given.folder
    for name, recipe in RECIPES[given.size].items():
        conduct(study(str(folder), given.size, recipe), given.out / given.size / name)
    print("| recipe | attack | ratio | n | ACC | ASR | seconds a victim |\n" + "| --- " * 7 + "|")
    for name in RECIPES[given.size]:
        print(rows(name, given.out / given.size / name))


if __name__ == "__main__":
    sys.exit(status(main))
