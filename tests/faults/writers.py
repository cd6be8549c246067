"""Several writers in one folder: side by side, one of them stopped, beside signs of the dead, and without locks."""

import contextlib
import os
import random
import shutil
import signal
import time
from functools import partial

from faults import common

TRIES = 44

AGES = (3600.0, -86400.0, 0.0, -3.0)
"""Seconds since the sign of a dead writer was renewed; those below 0 are of a clock that is ahead."""


def run(tally, alone, tries: int, seed: int) -> None:
    """Trials of all eleven kinds in turn."""
    draw = random.Random(seed)
    kinds = [partial(_beside, 2, False), _stopped, *(partial(_ghosts, age) for age in AGES)]
    kinds += [
        partial(_beside, count, unlocked) for count in (2, 3, 4) for unlocked in (True, False) if count + unlocked > 2
    ]
    for trial in range(tries):
        kinds[trial % len(kinds)](tally, alone, draw)


def _beside(count: int, unlocked: bool, tally, alone, draw: random.Random) -> None:
    """Two, three or four at once, with locks or where locks do nothing."""
    kind = f"{count} writers side by side" + (", no locks" if unlocked else "")
    out = alone.fresh()
    with tally.trial(kind, "", out), contextlib.ExitStack() as stack:
        writers = []
        for _ in range(count):
            writers.append(stack.enter_context(common.child(alone, out, cells=1, no_locks=unlocked)))
            time.sleep(draw.uniform(0, 0.5))
        for writer in writers:
            err = writer.communicate(timeout=300)[1]
            assert writer.returncode == 0, err[-300:]
        alone.check(out)


def _stopped(tally, alone, draw: random.Random) -> None:
    """One is stopped while it runs until it counts as dead; another goes on in its place; then it wakes up."""
    out = alone.fresh()
    kind = "a writer stopped by SIGSTOP until another took its work, then woken"
    with tally.trial(kind, "", out), contextlib.ExitStack() as stack:
        first = stack.enter_context(common.child(alone, out, cells=1, silence=2.0))
        common.wait_for(first, lambda: list(out.glob("claims/*.claim")))
        time.sleep(draw.uniform(0, 2))
        first.send_signal(signal.SIGSTOP)
        other = stack.enter_context(common.child(alone, out, cells=1, silence=2.0))
        time.sleep(draw.uniform(5, 20))  # or for nothing, where the first holds the lock of the folder
        first.send_signal(signal.SIGCONT)
        for writer in (first, other):
            err = writer.communicate(timeout=300)[1]
            assert writer.returncode == 0, err[-300:]
        alone.check(out)


def _ghosts(age: float, tally, alone, draw: random.Random) -> None:
    """A writer of another host, long dead, dead just now, or with a clock ahead, has all there is to claim."""
    from bdjax.study.jobs import plan
    from bdjax.study.resolve import resolve

    out = alone.fresh()
    (out / "claims").mkdir(parents=True)
    for job in plan(resolve(common.study(alone.data))).jobs:
        if draw.random() < 0.7:
            (out / "claims" / f"{job.address}.claim").write_text("ghost")
    sign = out / "claims" / "ghost.writer"
    sign.write_text("1 elsewhere")
    os.utime(sign, (time.time() - age,) * 2)
    with tally.trial(
        "claims of a writer that is dead" + (", its clock ahead" if age < 0 else ""), f"sign {age:+.0f} s old", out
    ):
        alone.run(out, silence=2.0)
        alone.check(out)
    shutil.rmtree(out, ignore_errors=True)
