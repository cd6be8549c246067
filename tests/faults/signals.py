"""SIGINT and SIGTERM at moments drawn at random: before the folder is entered, while programs compile, while it runs.

The command ends with 128 + the signal's number and one line, within ten seconds outside a single compilation, or is
done already; and a run that follows finishes.
"""

import random
import signal
import time

from faults import common

TRIES = 20
ANSWERED = 10.0


def run(tally, alone, tries: int, seed: int) -> None:
    """Half of the trials send the signal where nothing trains yet."""
    draw = random.Random(seed)
    out = alone.fresh()
    with common.child(alone, out) as process:
        times = [(process.stdout.readline(), time.monotonic())[1] for _ in ("ready", "running")]
        process.communicate()
        times.append(time.monotonic())
    for trial in range(tries):
        number, early = draw.choice((signal.SIGINT, signal.SIGTERM)), trial % 2 == 0
        moment = draw.uniform(0, times[1] - times[0]) if early else draw.uniform(0, times[2] - times[0])
        kind = "resolving" if early else "anything"
        out = alone.fresh()
        what = f"{number.name} after {moment:.2f} s"
        with tally.trial(f"signal during {kind}: answered, then a run that finishes", what, out):
            with common.child(alone, out) as process:
                assert process.stdout.readline() == "ready\n"
                time.sleep(moment)
                process.send_signal(number)
                sent = time.monotonic()
                err = process.communicate()[1]
                assert process.returncode in (0, 128 + number), (process.returncode, err[-300:])
                if process.returncode:
                    taken = time.monotonic() - sent
                    assert taken < ANSWERED, f"answered after {taken:.1f} s"
                    assert "stopped by" in common.line(err)
            alone.finishes(out)
