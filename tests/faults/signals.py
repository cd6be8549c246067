"""SIGINT and SIGTERM at moments drawn at random: before the folder is entered, over a finished study, while it trains.

The command ends with 128 + the signal's number and one line, within ten seconds outside a single compilation, or was
done already when the signal came; and a run that follows finishes.
"""

import random
import shutil
import signal
import time
from pathlib import Path

from faults import common

TRIES = 58  # where nothing trains; a third as many at any moment
ANSWERED = 10.0
LATE = 0.5
"""Seconds after which a signal counts as lost if the command then ends as if none had come."""


def run(tally, alone, tries: int, seed: int) -> None:
    """Half of those where nothing trains come while a study is resolved, half while a finished one is shown again."""
    draw = random.Random(seed)
    entered, ended = _lasts(alone, alone.fresh())
    _, shown = _lasts(alone, shutil.copytree(alone.out, alone.fresh()), page=True)
    for trial in range(tries):
        out = alone.fresh()
        if trial % 2:
            shutil.copytree(alone.out, out)
            _sent(tally, alone, "signal over a finished study, with the page", out, draw, shown, page=True)
        else:
            _sent(tally, alone, "signal while a study is resolved", out, draw, entered)
    for _ in range(max(1, tries // 3)):
        _sent(tally, alone, "signal at any moment", alone.fresh(), draw, ended)


def _lasts(alone, out: Path, **options) -> tuple[float, float]:
    """Seconds from where signals are answered to where the folder is entered, and to the end."""
    with common.child(alone, out, **options) as process:
        times = [(process.stdout.readline(), time.monotonic())[1] for _ in ("ready", "running")]
        process.communicate()
    return times[1] - times[0], time.monotonic() - times[0]


def _sent(tally, alone, kind: str, out: Path, draw: random.Random, longest: float, **options) -> None:
    number, moment = draw.choice((signal.SIGINT, signal.SIGTERM)), draw.uniform(0, longest)
    with tally.trial(f"{kind}: answered, then a run that finishes", f"{number.name} after {moment:.2f} s", out):
        with common.child(alone, out, **options) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(moment)
            sent = time.time()
            process.send_signal(number)
            said, err = process.communicate()
            taken = time.time() - sent
            if process.returncode == 128 + number:
                assert taken < ANSWERED, f"answered after {taken:.1f} s"
                assert "stopped by" in common.line(err)
            else:
                assert process.returncode in (0, -number) and "done" in said, (process.returncode, err[-300:])
                late = float(said.rpartition("done ")[2]) - sent
                assert late < LATE, f"lost, done {late:.1f} s later"
        alone.finishes(out)
