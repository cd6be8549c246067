"""Does every attack implant its backdoor on real images, and who would see it?

    python -m experiments.attacks runs/attacks --size digits
    python -m experiments.attacks runs/attacks --size cpu --folder FOLDER

Victims of every attack at four poison ratios, no defense, and how visible each trigger is on the test images.

Size `digits` takes two cores some twenty minutes. Size `cpu` is for two cores as well: the first 1,000 and 100 images a
class of CIFAR-10 in FOLDER (train/<class>/* and test/<class>/*) and a network of 24,346 parameters. Both change what
attackers train besides the victim (CHANGED, which is printed). A second process with the same command shares the work.
Size `gpu` is PreActResNet18 on all of CIFAR-10 with the methods' own settings; it has not been run. The page's contact
sheet shows clean and triggered images and their difference. Machine, time, figures and n: experiments/README.md.
"""

import argparse
import sys
from pathlib import Path

import bdjax
from bdjax import report
from bdjax.cards import split
from bdjax.cli import status
from bdjax.cli.conduct import conduct
from bdjax.io.store.pictures import load_samples
from bdjax.metrics.stealth import stealth
from bdjax.report.wording import whole
from experiments.changes import changes
from experiments.subset import subset

RATIOS = dict.fromkeys(("digits", "cpu", "gpu"), (0.0, 0.01, 0.05, 0.1)) | dict.fromkeys(("long", "gtsrb"), (0.1,))
MOST = dict.fromkeys(("sig", "label_consistent", "ctrl", "refool", "tuap", "tact"), 0.08)
"""The largest ratio of attacks that poison one class alone, which is a tenth of the images."""

SURROGATE = "surrogate_epochs=30,surrogate_batch=64,surrogate_learning_rate=0.1"
CHANGED = {
    "digits": {
        **dict.fromkeys(("low_frequency", "label_consistent", "trojannn", "tuap"), SURROGATE),
        "wanet": "strength=1",
        "input_aware": "width=16,halvings=2",
        "lira": "joint_epochs=20",
    },
    "cpu": {"input_aware": "width=16", "lira": "joint_epochs=20"},
    "gtsrb": {},
    "gpu": {},
}
CHANGED["long"] = CHANGED["digits"] | {"refool": "preset=benchmark"}
"""What a size changes of attacks' own settings; on 16 pixels wanet's displacement, in half pixels, among them."""

COMMON = {
    "digits": {"dataset": "digits", "driver": "map"},
    "long": {"dataset": "digits", "model": "small_cnn:width=32", "recipe": "epochs=100", "driver": "map"},
    "cpu": {
        "model": "small_cnn:width=16,stem_stride=2",
        "recipe": "epochs=40,batch=64,learning_rate=0.1",
        "driver": "map",
    },
    "gtsrb": {
        "model": "small_cnn:width=32,stem_stride=2",
        "recipe": "epochs=24,batch=64,learning_rate=0.1,schedule=step",
        "driver": "map",
    },
    "gpu": {"model": "preact_resnet18"},
}


def study(folder: str, size: str, names) -> bdjax.Study:
    """Victims of the attacks `names`; folder: of the images, where the size needs one."""
    levels = RATIOS[size]
    ratios = [f"{name}={ratio}" for name, most in MOST.items() for ratio in (*levels[:-1], most) if name in names]
    changed = CHANGED[size]
    attacks = tuple(f"{name}:{changed[name]}" if name in changed else name for name in names)
    fields = {"dataset": folder} | COMMON[size]
    return bdjax.Study(attacks=attacks, ratios=(*levels, *ratios), seeds=range(3), **fields)


def success(results) -> str:
    """ACC, ASR, RA and cross accuracy of every attack and ratio in percent with intervals over seeds, as Markdown."""
    lines = ["| attack | ratio | n | ACC | ASR | RA | cross accuracy | seconds a victim |", "| --- " * 8 + "|"]
    measures = ("acc", "asr", "ra", "cross")
    if "cross" not in results:  # none of these attacks has such a thing
        results = results.assign(cross=results.acc * float("nan"))
    for row in report.table(results, (*measures, "seconds")):
        values = " | ".join(whole(row.measures[name]) for name in measures)
        seconds = row.measures["seconds"].mean
        lines.append(f"| {split(row.attack)[0]} | {row.ratio:g} | {row.count} | {values} | {seconds:.0f} |")
    return "\n".join(lines)


def visibility(folder: Path, results) -> str:
    """How visible each trigger is on test images, and what trained parts reach on held-out ones, as Markdown."""
    names = ("attack", "n", "PSNR, dB", "SSIM", "perceptual distance", "largest change, levels", "trained part")
    lines = ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
    held = load_samples(folder)
    for name in sorted(held, key=lambda text: list(bdjax.ATTACKS).index(split(text)[0])):
        sample = held[name]
        found, bar = stealth(sample.clean, sample.triggered), bdjax.ATTACKS[split(name)[0]].card.bar
        values = f"{found['psnr']:.1f} | {found['ssim']:.3f} | {found['perceptual']:.3f} | {found['largest']:.0f}"
        figures = sample.figures | report.crossed(results, name)
        trained = (_figure(*figure, bar) for figure in figures.items())
        lines.append(f"| {split(name)[0]} | {len(sample.clean)} | {values} | {', '.join(trained)} |")
    return "\n".join(lines)


def _figure(name: str, value: float, bar) -> str:
    text = f"{name.replace('_', ' ')} {value:.3g}"
    return f"{text}, **below {bar[name]:g}**" if name in bar and value < bar[name] else text


def main() -> None:
    """Read the arguments, take fewer images where the size asks for it, and run."""
    parser = argparse.ArgumentParser(prog="python -m experiments.attacks")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=tuple(COMMON), default="digits")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--attacks", nargs="+", default=list(bdjax.ATTACKS), choices=list(bdjax.ATTACKS))
    given = parser.parse_args()
    if (given.folder is None) != ("dataset" in COMMON[given.size]):
        parser.error("--folder is for sizes cpu, gtsrb and gpu, and needed there")
    folder = subset(given.folder, given.out / "images", 1000, 100) if given.size == "cpu" else given.folder
    out = given.out / given.size
    conduct(study(str(folder), given.size, given.attacks), out)
    results = bdjax.load(out)
    print(success(results))
    print(visibility(out, results))
    if CHANGED[given.size]:
        print("Settings that are not the methods' own:\n" + changes(CHANGED[given.size], bdjax.ATTACKS, "attack"))


if __name__ == "__main__":
    sys.exit(status(main))
