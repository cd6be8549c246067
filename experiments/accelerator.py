"""Everything that one accelerator can show in ten minutes, in order of value, and nothing lost when it is cut short.

    python -m experiments.pack CIFAR10.tar.xz images.npz
    python -m experiments.accelerator --out DIR --budget 540 --data images.npz

Each part runs in a process of its own, until its share of the time that is left is over; each of its measurements is a
line of DIR/results.jsonl as soon as it is made. The same command goes on with those that are not there. Size `tiny`
does the same in little, for a CPU. DATA is an .npz or class folders of 32x32 images, as `bdjax.Study` takes them; the
parts that do not need it, `machine`, `steps`, `pytorch`, `switches` and `small`, take random images. What it says of
an accelerator, with machine, date and n: docs/benchmarks/accelerator.md.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from experiments import accelerator_parts
from experiments.accelerator_parts import Measurement, Size

GRACE = 15.0
"""Seconds that a part has to end after it was told to."""

SPARE = 5.0
"""Seconds that are kept for writing."""


def read(path: Path) -> dict[str, dict]:
    """What was measured before, by part and name; a line that was cut short is passed over."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            one = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[f"{one['part']} {one['name']}"] = one
    return found


def missing(part: str, size: Size, out: Path) -> list[Measurement]:
    """The measurements of a part that are not there; those that went wrong are made again."""
    found = read(out / "results.jsonl")
    made = {key for key, one in found.items() if "error" not in one}
    return [one for one in accelerator_parts.PARTS[part](size, out) if f"{part} {one.name}" not in made]


def measure(part: str, environment: tuple[str, ...], size: Size, out: Path) -> None:
    """Make what is missing of a part and wants this environment, in this process."""
    for one in missing(part, size, out):
        if one.environment != environment:
            continue
        begun, line = time.perf_counter(), {"part": part, "name": one.name}
        try:
            line["found"] = one.run()
        except Exception as error:  # the next one may go well
            traceback.print_exc()
            line["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        line["seconds"] = round(time.perf_counter() - begun, 2)
        with (out / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(part, one.name, line["seconds"], "s", line.get("error", ""), flush=True)


def run_part(part: str, environment: tuple[str, ...], given: argparse.Namespace, seconds: float) -> None:
    """The same in a process of its own, which is told to end after so many seconds."""
    command = [sys.executable, "-m", "experiments.accelerator", "--out", str(given.out), "--size", given.size]
    command += ["--only", part, *(["--data", str(given.data)] if given.data else [])]
    command += [f"--environment={text}" for text in environment]
    with subprocess.Popen(command, env=os.environ | dict(text.split("=", 1) for text in environment)) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            print(part, f"is cut short after {seconds:.0f} s", flush=True)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
        except BaseException:  # a signal to this process is one to the part
            process.terminate()
            raise


def run_all(given: argparse.Namespace, size: Size) -> None:
    """Every part in turn: of the time that is left, its share among the parts that are left."""
    end = time.monotonic() + given.budget - SPARE - GRACE
    for index, part in enumerate(given.parts):
        left = sum(accelerator_parts.SHARES[name] for name in given.parts[index:])
        until = time.monotonic() + (end - time.monotonic()) * accelerator_parts.SHARES[part] / left
        for environment in dict.fromkeys(one.environment for one in missing(part, size, given.out)):
            seconds = until - time.monotonic()
            if seconds > 0:
                run_part(part, environment, given, seconds)


def main() -> int:
    """Read the arguments, run the parts, print what was found."""
    parser = argparse.ArgumentParser(prog="python -m experiments.accelerator")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything")
    parser.add_argument("--size", choices=sorted(accelerator_parts.SIZES), default="full")
    parser.add_argument("--parts", nargs="+", choices=tuple(accelerator_parts.PARTS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", choices=tuple(accelerator_parts.PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--environment", action="append", default=[], help=argparse.SUPPRESS)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    given.parts = given.parts or list(accelerator_parts.PARTS)
    given.out.mkdir(parents=True, exist_ok=True)
    size = accelerator_parts.SIZES[given.size]._replace(data=str(given.data or ""))
    if given.only:
        try:
            measure(given.only, tuple(given.environment), size, given.out)
        except KeyboardInterrupt as error:  # what a study makes of SIGTERM
            print(given.only, error, flush=True)
        return 0
    run_all(given, size)
    print(accelerator_parts.summary(read(given.out / "results.jsonl")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
