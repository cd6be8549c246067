"""What checksums and fencing cost: `python tests/faults/cost.py quickstart`, or `noop` for 1,600 finished cells.

Seconds of CPU time of the main thread inside the functions that are wrapped here, inner ones not counted twice, beside
the process's own user time; so a busy machine changes little. `noop` makes a study whose rows are made up, by the
library's own writers, and runs it again three times.
"""

import functools
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import bdjax
from bdjax.engine import run as engine
from bdjax.io.store import checkpoints, documents, results, trees
from bdjax.io.store.store import Store
from bdjax.study.jobs import plan
from bdjax.study.resolve import resolve
from bdjax.types import Trained, Weights

SPENT, CALLS, INSIDE = Counter(), Counter(), []

WRAPPED = {
    "checksums": [(module, "checksum") for module in (results, trees, checkpoints)]
    + [(results, "_check_bytes"), (results, "_ending"), (documents, "_sealed")],
    "checks of what files hold": [(documents, "check"), (results, "_check_rows"), (results, "_check_curves")],
    "claims and fencing": [(Store, "check_claims"), (Store, "claim"), (Store, "release")],
}


def wrap(what: str, owner, name: str) -> None:
    """Count the time inside a function."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def timed(*args, **kwargs):
        if INSIDE:
            return function(*args, **kwargs)
        INSIDE.append(what)
        begun = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            SPENT[what] += time.thread_time() - begun
            CALLS[what] += 1
            INSIDE.pop()

    setattr(owner, name, timed)


def user() -> float:
    """Seconds of user time of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def measured(what: str, act) -> None:
    """Do it and print what it cost."""
    SPENT.clear(), CALLS.clear()
    before = user()
    act()
    parts = "; ".join(f"{name} {seconds:.3f} s in {CALLS[name]} calls" for name, seconds in SPENT.items())
    print(f"{what}: {user() - before:.1f} s of user time; {parts}", flush=True)


def made_up(folder: Path) -> bdjax.Study:
    """1,600 cells that are done: two attacks, two ratios, 200 seeds and two defenses."""
    study = bdjax.Study(
        attacks=("badnets", "blended"), ratios=(0.05, 0.1), seeds=range(200), defenses=("none", "ft"), driver="map"
    )
    draw = np.random.default_rng(0)
    jobs = plan(resolve(study)).jobs
    with Store(folder) as store:
        for kind, chosen in (("run", "train"), ("score", "score")):
            names = [job.address for job in jobs if job.kind == chosen]
            for start in range(0, len(names), 32):
                rows = {"address": names[start : start + 32]}
                size, curves = len(rows["address"]), None
                if kind == "run":
                    rows |= {"seconds": draw.random(size), "status": np.zeros(size, np.int8)}
                    curves = {"loss": draw.random((size, 15))}
                else:
                    rows |= {name: draw.random(size) for name in ("overlap", "acc", "asr", "ra")}
                results.write_shard(folder, kind, rows, curves)
                for name in rows["address"] if kind == "run" else ():
                    store.save_model(name, Trained(Weights({}, {}), {}), {"kind": "train"})
    return study


def main() -> None:
    """See the module."""
    for what, functions in WRAPPED.items():
        for owner, name in functions:
            wrap(what, owner, name)
    with tempfile.TemporaryDirectory(prefix="bdjax-cost-") as folder:
        if sys.argv[1] == "quickstart":
            from bdjax.cli.quickstart import study

            measured("quickstart", lambda: bdjax.run(study(), Path(folder) / "out"))
            return
        study = made_up(Path(folder))
        for repeat in range(4):
            measured("first run" if not repeat else "run of a finished study", lambda: engine.run(study, Path(folder)))


if __name__ == "__main__":
    main()
