"""`python tests/faults NAME [--tries N] [--seed N]` runs one block of trials and prints how many of them passed."""

import argparse
import importlib
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import common

BLOCKS = (
    "commands",
    "data",
    "weights",
    "folders",
    "files",
    "operations",
    "kills",
    "signals",
    "writers",
    "shares",
    "disks",
)


def main() -> int:
    """Run a block."""
    parser = argparse.ArgumentParser(prog="python tests/faults", description=__doc__)
    parser.add_argument("block", choices=BLOCKS)
    parser.add_argument("--tries", type=int, default=0, help="about how many trials; 0 for the block's own number")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    common.prepare()
    logging.getLogger("bdjax").setLevel(logging.ERROR)  # what is set aside
    with tempfile.TemporaryDirectory(prefix="bdjax-faults-") as folder:
        tally = common.Tally(print)
        block = importlib.import_module(f"faults.{asked.block}")
        try:
            block.run(tally, common.Alone(Path(folder)), asked.tries or block.TRIES, asked.seed)
        finally:  # what was counted before Ctrl-C, too
            print(tally.table())
    return 0 if tally.passed == tally.tried else 1


if __name__ == "__main__":
    sys.exit(main())
