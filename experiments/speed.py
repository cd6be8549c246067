"""What fast recipes give up: ACC and ASR beside the field's recipe, on the same network.

    python -m experiments.speed runs/speed --network airbench --size cpu --folder FOLDER
    python -m experiments.speed runs/speed --network preact_resnet18 --size gpu --folder FOLDER

Victims at ratios 0 and 0.1 under several recipes, no defense. On `airbench`: the speed recipe, and the field's (SGD,
cosine, batch 128) for as many epochs, for four times as many, and, with `gpu`, for its 100. On `preact_resnet18`: the
short recipe and the field's. FOLDER holds CIFAR-10 as train/<class>/* and test/<class>/*. Size `cpu` takes the first
1,000 and 100 images a class, a network of an eighth of the width, and blended alone; size `gpu` is the whole network
and all images, and has not been run. Machine, time, figures and n: experiments/README.md.
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
SHORT = {"short": "preset=short", "field-100": ""}
RECIPES = {
    "airbench": {
        "cpu": {"speed": "preset=speed,batch=256"} | FIELD,
        "gpu": {"speed": "preset=speed"} | FIELD | {"field-100": ""},
    },
    "preact_resnet18": {"cpu": SHORT, "gpu": SHORT},
}
"""By network, size and name; with 10,000 images a batch of 1,024 would leave 90 steps, so `cpu` has a quarter."""

MODELS = {"cpu": "width=8", "gpu": "precision=bfloat16"}
ATTACKS = {"cpu": ("blended",), "gpu": ("badnets", "blended")}


def study(folder: str, network: str, size: str, recipe: str) -> bdjax.Study:
    """Victims under one recipe, all seeds and ratios in one program."""
    return bdjax.Study(
        dataset=folder,
        model=f"{network}:{MODELS[size]}",
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
    parser.add_argument("--network", choices=tuple(RECIPES), default="airbench")
    parser.add_argument("--size", choices=tuple(MODELS), default="cpu")
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    folder = subset(given.folder, given.out / "images", 1000, 100) if given.size == "cpu" else given.folder
    recipes, out = RECIPES[given.network][given.size], given.out / given.network / given.size
    for name, recipe in recipes.items():
        conduct(study(str(folder), given.network, given.size, recipe), out / name)
    print("| recipe | attack | ratio | n | ACC | ASR | seconds a victim |\n" + "| --- " * 7 + "|")
    for name in recipes:
        print(rows(name, out / name))


if __name__ == "__main__":
    sys.exit(status(main))
