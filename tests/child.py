"""A study in a process of its own, to be killed: `python child.py '{"data": DIR, "out": DIR, "study": {...}}'`.

Every step is a call of its own; `checkpoint` are the seconds between checkpoints, `cells` the most at a time; `cluster`
are the port, the number of processes and the place of this one in a `jax.distributed` cluster. What is done is printed:
`advanced`, `trained N`, `ended`. The exit status after a signal is 128 + its number.
"""

import json
import sys
from pathlib import Path

import jax
import tiny

import bdjax
from bdjax.engine import chunks, programs
from bdjax.engine.progress import Silent


class Printed(Silent):
    """Tells each step and each trained model on stdout."""

    def advanced(self, share: float, steps: int) -> None:
        print("advanced", flush=True)

    def trained(self, models: int) -> None:
        print("trained", models, flush=True)


def main(asked: dict) -> int:
    if "cluster" in asked:
        port, count, place = asked["cluster"]
        jax.distributed.initialize(f"127.0.0.1:{port}", count, place)
    chunks.CALL_SECONDS = 0.0
    chunks.CHECKPOINT_SECONDS = asked.get("checkpoint", chunks.CHECKPOINT_SECONDS)
    programs.LARGEST = asked.get("cells", programs.LARGEST)
    try:
        bdjax.run(tiny.study(Path(asked["data"]), **asked["study"]), asked["out"], Printed())
    except chunks.Interrupted as error:
        return 128 + error.number
    print("ended", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
