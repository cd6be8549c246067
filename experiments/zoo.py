"""A zoo of small backdoored and purified models, in the layout of model hubs, to try tools on without training.

    python -m experiments.zoo runs/zoo

60 models of digits: `small_cnn`, three seeds without poison and under each of four attacks, undefended and purified
by three defenses. They go to experiments/zoo as `bdjax export` writes them, without PyTorch's pickles, and the list
with their figures to docs/zoo.md. Some three minutes on two cores.
"""

import argparse
import json
import sys
from pathlib import Path

import bdjax
from bdjax.cli import status
from bdjax.cli.conduct import conduct
from bdjax.engine.exports import export_models
from bdjax.study.stored import find

ROOT = Path(__file__).parent
LIST = ROOT.parent / "docs" / "zoo.md"

HEAD = """# The zoo

60 small models to try a tool on: `small_cnn` on digits, made by [experiments/zoo.py](../experiments/zoo.py), in
[experiments/zoo](../experiments/zoo), each a folder as [`bdjax export`](import_export.md) writes them.
Triggers are those of the study's seed; `bdjax.load_model("experiments/zoo/NAME")` gives network and weights.

| name | ACC % | ASR % |
| --- | ---: | ---: |
"""


def study() -> bdjax.Study:
    """Twelve backdoored and three clean victims, and what three defenses make of them."""
    return bdjax.Study(
        dataset="digits",
        model="small_cnn",
        attacks=("badnets", "blended", "sig", "low_frequency"),
        ratios=("badnets=0", "badnets=0.1", "sig=0.05", 0.1),
        seeds=range(3),
        defenses=("none", "ft_sam", "sau", "npd"),
        driver="map",
    )


def main() -> None:
    """Run the study, export its models, write the list."""
    parser = argparse.ArgumentParser(prog="python -m experiments.zoo")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    conduct(study(), given.out)
    lines = []
    for folder in export_models(find(given.out), ROOT / "zoo"):
        (folder / "model.pt").unlink(missing_ok=True)
        figures = json.loads((folder / "config.json").read_text())["figures"]
        acc, asr = (f"{100 * figures[name]:.1f}" if name in figures else "–" for name in ("acc", "asr"))
        lines.append(f"| `{folder.relative_to(ROOT / 'zoo')}` | {acc} | {asr} |\n")
    LIST.write_text(HEAD + "".join(sorted(lines)))


if __name__ == "__main__":
    sys.exit(status(main))
