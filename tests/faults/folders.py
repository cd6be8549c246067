"""Study folders that somebody changed: JSON that means something else, and other things in the place of files.

The JSON has checksums that fit. Whatever was done, `report`, `doctor` and a further run each end with status 0, or with
1 or 2 and one line, within a minute; lines before the last may say what was set aside. Nothing outside is written to.
"""

import copy
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults import common

TRIES = 150  # changes of JSON; of what is put in the place of files, all

OTHERS = (None, True, 5, -1, 1.5, 10**30, float("nan"), "x", "", "\ud800", [], {}, [[]], [5], {"x": 5}, ...)
"""What takes the place of a value of JSON; of `...` it and its name are removed."""

PLACES = (
    *(
        "study.json",
        "plan.json",
        "models",
        "assets",
        "results",
        "scores",
        "samples",
        "suspects",
        "claims",
        "claims/lock",
    ),
    *("checkpoints", "times", "failures", "models/*", "assets/*", "scores/*", "samples/*", "suspects/*"),
    *("results/run-*.nc", "results/score-*.nc", "results/audit-*.nc", "results/detect-*.nc"),
)
"""Files and folders that something else takes the place of."""

THINGS = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a text": lambda path: path.write_text("a text"),
    "nothing": lambda path: None,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a file": lambda path: path.symlink_to(path.parents[1] / "mine"),
    "a link to what cannot be read": lambda path: path.symlink_to("/proc/self/mem"),
}


def run(tally, alone, tries: int, seed: int) -> None:
    """Changed JSON, then other things."""
    draw = random.Random(seed)
    for name in ("study.json", "plan.json"):
        content = json.loads((alone.out / name).read_text())
        content.pop("sha256")
        for _ in range(max(1, tries // 2)):
            where, other = draw.choice(list(_ways(content, draw))), draw.choice(OTHERS)
            _changed(tally, alone, name, content, where, other)
    cases = [(place, thing) for place in PLACES for thing in THINGS]
    for place, thing in draw.sample(cases, min(2 * tries, len(cases))):
        _other(tally, alone, place, thing, draw)


def _ways(value: Any, draw: random.Random, way: tuple = ()) -> Iterator[tuple]:
    """The ways to all values, of lists and of dicts with many names to one of them."""
    if way:
        yield way
    if isinstance(value, list) and value:
        index = draw.randrange(len(value))
        yield from _ways(value[index], draw, (*way, index))
    elif isinstance(value, dict):
        for name in value if len(value) < 20 else [draw.choice(list(value))]:
            yield from _ways(value[name], draw, (*way, name))


def _changed(tally, alone, name: str, content: dict, where: tuple, other: Any) -> None:
    from bdjax.io.store.documents import text_of

    content = copy.deepcopy(content)
    place = content
    for step in where[:-1]:
        place = place[step]
    if other is ...:
        del place[where[-1]]
    else:
        place[where[-1]] = other
    out = shutil.copytree(alone.out, alone.fresh())
    (out / name).write_text(text_of(content), errors="surrogatepass")
    what = f"{'.'.join(map(str, where))} is {other!r:.30}"
    with tally.trial(f"{name} changed, its checksum fits: no traceback", what, out):
        _asked(alone, out)


def _other(tally, alone, place: str, thing: str, draw: random.Random) -> None:
    home = alone.fresh()
    out = home / "a" / "out"
    shutil.copytree(alone.out, out)
    mine = home / "a" / "mine"
    mine.write_text("precious")
    path = draw.choice(sorted(out.glob(place)) or [out / place])
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    THINGS[thing](path)
    if path.suffix == ".safetensors":  # which nobody reads as long as all results are there
        for shard in out.glob("results/[!r]*.nc"):
            shard.unlink()
    with tally.trial("other things in the place of files and folders: no traceback", f"{path.name}: {thing}", home):
        _asked(alone, out)
        assert mine.read_text() == "precious"


def _asked(alone, out: Path) -> None:
    """Ask for the page, have the folder examined, and run the study again."""
    from bdjax import cli

    for name in ("report", "doctor", "run"):
        if name == "run":
            status, _, err = common.heard(lambda: cli.status(lambda: alone.run(out)))
        else:
            status, _, err = common.answer([name, str(out)], out.parent)
        lines = err.splitlines()
        assert status in (0, 1, 2) and all(line.startswith("bdjax: ") for line in lines), (name, status, err[-300:])
        assert status == 0 or lines, f"{name}: status {status} without a word"
