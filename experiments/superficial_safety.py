"""Does a low attack success rate after purification mean that the backdoor is gone? After Min et al., NeurIPS 2024.

    python -m experiments.superficial_safety FOLDER runs/superficial_safety --size cpu

Victims of several attacks are purified by every defense, then put to the audits: retuned on a few clean rows with five
poisoned ones, reactivated by a learnt perturbation, joined to the backdoored model by a path. The same is done to
models that never saw the trigger (ratio 0), which tells what the audit itself brings in. FOLDER holds CIFAR-10 as
train/<class>/* and test/<class>/*.

Size `cpu` is for two cores: the first 1,000 and 100 images a class, a small network, other numbers of iterations
(CHANGED, which is printed), and beside it one column of PreActResNet18 of width 16 with one seed. A second process with
the same command shares the work, which for so small a network is faster than two threads. Size `gpu` is the paper's
scale with the methods' own settings; it has not been run. Machine, time, figures and n: experiments/README.md.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import bdjax
from bdjax import report
from bdjax.cards import split
from bdjax.cli import status
from bdjax.cli.conduct import conduct
from bdjax.report.wording import NOTHING, whole
from experiments.changes import changes
from experiments.subset import subset

RIVALS = ("ft", "ft_sam", "nad", "fine_pruning", "clp", "anp", "i_bau", "sau", "npd", "fst", "tsbd", "bti_dbf", "pam")
DEFENSES = ("none", *RIVALS, "exact_purification")
ATTEMPTS = ("retuning", "reactivation")
PATHS = ("connectivity",)

CHANGED = {
    "nad": "teacher_epochs=50,epochs=50,drop_every=10",
    "i_bau": "rounds=25",
    "fst": "epochs=50",
    "sau": "epochs=20",
    "anp": "iterations=300",
    "tsbd": "unlearning_epochs=100",
    "bti_dbf": "rounds=2,width=8,pretraining_epochs=10,mask_epochs=10,generator_epochs=10,unlearning_epochs=10",
    "pam": "rounds=2,width=8,pretraining_epochs=10,mask_epochs=10,generator_epochs=10,unlearning_epochs=10",
    "reactivation": "generator_epochs=10,width=256",
    "connectivity": "points=6,epochs=10",
}
"""Iterations on two cores, where they are not the method's own.

Long ones are cut. Those of at most ten passes over the clean rows get five times as many: of 500 rows a pass has a
fifth of the steps that it has of 2,500, which is what the defender has of all of CIFAR-10.
"""

MAIN = "small_cnn:width=16,stem_stride=2"
COLUMN = "preact_resnet18:width=16"


def changed(names) -> tuple[str, ...]:
    """The methods as `cpu` runs them."""
    return tuple(f"{name}:{CHANGED[name]}" if name in CHANGED else name for name in names)


def studies(folder: str, size: str) -> list[tuple[str, bdjax.Study]]:
    """Parts of the output folder, and the studies that fill them, in order; paths only where there was poison."""
    if size == "gpu":
        common = {"dataset": folder, "seeds": range(3), "defenses": DEFENSES, "recipe": "learning_rate=0.1"}
        attacks = ("badnets", "blended", "sig", "low_frequency", "label_consistent")
        found = []
        for model in ("resnet18", "preact_resnet18"):
            for ratios, audits in (((0.0, 0.05), ATTEMPTS), ((0.05,), PATHS)):
                study = bdjax.Study(model=model, attacks=attacks, ratios=ratios, audits=audits, **common)
                found.append((model, study))
        return found
    main = bdjax.Study(
        dataset=folder,
        model=MAIN,
        attacks=("badnets", "blended", "low_frequency"),
        ratios=(0.0, 0.1),
        seeds=range(3),
        defenses=changed(DEFENSES),
        audits=changed(ATTEMPTS),
        recipe="epochs=40,batch=64,learning_rate=0.1",
        driver="map",
    )
    column = bdjax.Study(
        dataset=folder,
        model=COLUMN,
        attacks=("badnets", "blended"),
        ratios=(0.1,),
        seeds=range(1),
        defenses=("none", "ft:epochs=20", "ft_sam:epochs=20", "fst:epochs=20", *changed(("pam",))),
        audits=changed(("retuning",)),
        recipe="epochs=10,batch=64,learning_rate=0.1",
        driver="map",
    )
    paths = replace(main, ratios=(0.1,), audits=changed(PATHS))
    return [("small_cnn", main), ("preact_resnet18", column), ("small_cnn", paths)]


COLUMNS = {
    "ACC": ("acc", False),
    "O-ASR": ("asr", False),
    "P-ASR": ("retuning_asr", False),
    "P-ASR control": ("retuning_asr", True),
    "reactivated": ("reactivation_asr", False),
    "reactivated control": ("reactivation_asr", True),
    "DER": ("der", False),
    "path above half": ("connectivity_straight_backdoored_share", False),
}
"""Column -> measure, and whether it is that of the models that never saw the trigger, purified alike."""


def table(results, defenses) -> str:
    """A row an attack and defense at the largest ratio, in percent with intervals over seeds, as Markdown."""
    results = results.sel(defense=list(defenses))
    columns = {name: place for name, place in COLUMNS.items() if place[0] in results}
    rows = report.table(results, tuple({measure for measure, _ in columns.values()}))
    found = {(row.attack, row.defense, row.ratio): row.measures for row in rows}
    top = results.ratio.values.max()

    def value(row, measure: str, control: bool) -> str:
        measures = found.get((row.attack, row.defense, 0.0 if control else top))
        return whole(measures[measure]) if measures else NOTHING

    lines = ["| attack | defense | n | " + " | ".join(columns) + " |", "| --- " * (3 + len(columns)) + "|"]
    for row in rows:
        if row.ratio == top:
            values = " | ".join(value(row, *place) for place in columns.values())
            lines.append(f"| {row.attack} | {split(row.defense)[0]} | {row.count} | {values} |")
    return "\n".join(lines)


def main() -> None:
    """Read the arguments, take fewer images where the size asks for it, and run."""
    parser = argparse.ArgumentParser(prog="python -m experiments.superficial_safety")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=("cpu", "gpu"), default="cpu")
    given = parser.parse_args()
    folder = subset(given.folder, given.out / "images", train=1000, test=100) if given.size == "cpu" else given.folder
    asked = studies(str(folder), given.size)
    for part, study in asked:
        conduct(study, given.out / part)
    for part, study in dict(asked).items():
        print(f"{part}:\n" + table(bdjax.load(given.out / part), study.defenses))
    if given.size == "cpu":
        print("Iterations that are not the methods' own:\n" + changes(CHANGED, bdjax.DEFENSES | bdjax.AUDITS, "method"))


if __name__ == "__main__":
    sys.exit(status(main))
