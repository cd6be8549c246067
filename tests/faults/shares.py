"""`--share K/N`: shares that are killed and run again, in any order, some twice, come to the same table."""

import random
import signal
import time

from faults import common

TRIES = 8


def run(tally, alone, tries: int, seed: int) -> None:
    """Each trial kills one share at a random moment, then runs all of them in any order, one of them twice."""
    draw = random.Random(seed)
    for trial in range(tries):
        count = 2 + trial % 3
        out, order = alone.fresh(), draw.sample(range(1, count + 1), count)
        order.append(draw.choice(order))
        with tally.trial("shares killed and run again", f"{order} of {count}", out):
            with common.child(alone, out, share=(order[0], count)) as process:
                process.stdout.readline()
                time.sleep(draw.uniform(0, 8))
                process.send_signal(signal.SIGKILL)
                process.wait()
            for number in order:
                common.run(alone.data, out, share=(number, count))
            alone.check(out)
