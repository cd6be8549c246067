"""Does it matter which images are poisoned? Random, filtering-and-updating and learnable selection at small ratios.

    python -m experiments.selections runs/selections

Handwritten digits, two attacks at ratios where random rows implant them in part, five seeds. The searches are as long
as their papers' in rounds and shorter in passes (CHANGED), for digits are learnt in a tenth of the passes of natural
images. They leave out rows of the target class, so random rows do too (sources=others). Machine, time, figures and n:
experiments/README.md.
"""

import sys
from pathlib import Path

import bdjax
from bdjax.cli import status
from bdjax.cli.conduct import conduct
from bdjax.io.store.results import OK
from bdjax.report.statistics import estimates
from bdjax.report.wording import points, whole

CHANGED = {
    "random": "random",
    "fus": "fus:rounds=10,epochs=10,batch=64,learning_rate=0.1,first_drop=5,second_drop=8",
    "lps": "lps:rounds=15,epochs=2,batch=64,learning_rate=0.1,first_drop=15,second_drop=24",
}


def study(selection: str) -> bdjax.Study:
    """The study under one selection."""
    return bdjax.Study(
        dataset="digits",
        model="small_cnn:width=6",
        attacks=("badnets:sources=others", "blended:alpha=0.1,sources=others"),
        ratios=("badnets=0.02", "blended=0.005"),
        seeds=range(5),
        selection=CHANGED[selection],
        driver="map",
    )


def table(folder: Path) -> str:
    """ASR under every selection, and its difference to random rows, paired by seed, as Markdown."""
    found = {name: bdjax.load(folder / name).sel(defense="none") for name in CHANGED}
    asr = {name: one.asr.where(one.status == OK).transpose("attack", "ratio", "seed") for name, one in found.items()}
    lines = ["| attack | ratio | selection | n | ASR | minus random, points |", "| --- " * 6 + "|"]
    for a, attack in enumerate(asr["random"].attack.values):
        for r, ratio in enumerate(asr["random"].ratio.values):
            for name, values in asr.items():
                own = estimates(values.values)[a, r]
                paired = estimates((values - asr["random"]).values)[a, r]
                if own.count:
                    cells = (attack, f"{ratio:g}", name, own.count, whole(own), whole(paired, points))
                    lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run every selection's study, print one table."""
    for selection in CHANGED:
        conduct(study(selection), Path(sys.argv[1]) / selection)
    print(table(Path(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(status(main))
