"""SIGKILL at moments drawn at random over the life of a process, again and again, until one finishes."""

import random
import signal
import time

from faults import common

TRIES = 40


def run(tally, alone, tries: int, seed: int) -> None:
    """Each trial kills one run, and one that goes on after it, and has a third finish."""
    draw = random.Random(seed)
    begun = time.monotonic()
    out = alone.fresh()
    with common.child(alone, out) as process:
        assert process.stdout.readline() == "ready\n"
        ready = time.monotonic() - begun
        process.communicate()
    length = time.monotonic() - begun
    for _ in range(tries):
        out, moments = alone.fresh(), [draw.uniform(ready, length) for _ in range(2)]
        what = " and ".join(f"{moment:.2f} s" for moment in moments)
        with tally.trial("SIGKILL at a random moment, twice, then a run that finishes", what, out):
            for moment in moments:
                with common.child(alone, out) as process:
                    time.sleep(moment)
                    process.send_signal(signal.SIGKILL)
                    assert process.wait() in (-signal.SIGKILL, 0)
            alone.finishes(out)
