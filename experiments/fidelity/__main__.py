"""`python -m experiments.fidelity METHOD --reference DIR`: see README.md beside this file."""

import argparse
import importlib
import sys
from pathlib import Path

import jax

from experiments.fidelity.common import TOLERANCE

METHODS = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "__main__", "common")
)


def main() -> int:
    """Compare, print a line a figure, and say by the exit status whether all are within the tolerance."""
    parser = argparse.ArgumentParser(prog="python -m experiments.fidelity")
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--reference", type=Path, required=True, help="folder with the authors' code")
    given = parser.parse_args()
    if not given.reference.is_dir():
        parser.error(f"{given.reference}: no such folder")
    jax.config.update("jax_enable_x64", True)
    comparison = importlib.import_module(f"experiments.fidelity.{given.method}").COMPARISON
    print(f"{given.method}: {comparison.repository} at {comparison.revision}")
    found = comparison.compare(given.reference)
    for what, difference in found.items():
        print(f"  {what}: {difference:.1e}" + ("" if difference <= TOLERANCE else f"  above {TOLERANCE:g}"))
    for departure in comparison.departures:
        print(f"  on purpose: {departure}")
    return int(any(not difference <= TOLERANCE for difference in found.values()))


if __name__ == "__main__":
    sys.exit(main())
