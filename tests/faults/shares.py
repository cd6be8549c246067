"""`--share K/N`: shares that are killed and run again, in any order, some twice, come to the same table."""

import random
import signal
import time

from faults import common

TRIES = 8  # of two to four shares; half as many of sixteen

SIXTEEN = {"seeds": list(range(16))}
"""A study with enough cells for sixteen shares."""


def run(tally, alone, tries: int, seed: int) -> None:
    """Each trial kills some shares at random moments, then runs all of them in any order, some of them twice."""
    draw = random.Random(seed)
    for trial in range(tries):
        _shares(tally, alone, draw, count=2 + trial % 3, killed=1, twice=1)
    if tries > 1:
        larger = common.Alone(alone.home / "sixteen", **SIXTEEN)
        for _ in range(tries // 2):
            _shares(tally, larger, draw, count=16, killed=3, twice=4)


def _shares(tally, alone, draw: random.Random, count: int, killed: int, twice: int) -> None:
    out, order = alone.fresh(), draw.sample(range(1, count + 1), count)
    order += draw.sample(order, twice)
    kind = "sixteen shares: three killed, then all, four twice" if count == 16 else "two to four shares: one killed"
    with tally.trial(kind, f"{order} of {count}", out):
        for number in order[:killed]:
            with common.child(alone, out, share=(number, count)) as process:
                process.stdout.readline()
                time.sleep(draw.uniform(0, 8))
                process.send_signal(signal.SIGKILL)
                process.wait()
        for number in order:
            alone.run(out, share=(number, count))
        alone.check(out)
