"""Damaged files: a bit flipped, the end cut off, a stretch zeroed or shifted, in every kind of file of a study.

A reader refuses the file in one line or gives the same values. Of every kind some damaged files are also put before a
run, which refuses the folder in one line or makes the file again, so that everything in the folder is as it was.
"""

import random
import shutil
import signal
from pathlib import Path

from faults import common

TRIES = 80  # a kind
RUNS = 8  # a kind: those of its damages that are put before a run


def damaged(content: bytes, how: str, draw: random.Random) -> bytes:
    """The content of a file with one damage, which changes something."""
    at = draw.randrange(len(content))
    if how == "bit flipped":
        return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
    if how == "cut":
        return content[:at]
    length = min(draw.choice((8, 64, 512)), len(content) - at)
    if how == "zeroed":
        return content[:at] + bytes(length) + content[at + length :]
    return content[:at] + content[at + length :] + bytes(length)  # shifted


HOWS = ("bit flipped", "cut", "zeroed", "shifted")


def readers() -> dict[str, tuple[str, object]]:
    """Where files of a kind are, and how they are read."""
    from bdjax.io.store import documents, pictures, results
    from bdjax.io.store.trees import load_named, load_trained

    def shard(path: Path):
        return results.read_shard(path), results.read_shard(path, curves=True)

    def known(read):  # what a later version might add beside it is not looked at
        return lambda path: {name: read(path).get(name) for name in ("base", "cells", "detections", "groups", "driver")}

    found = {"study.json": ("study.json", known(documents.read_study))}
    found["plan.json"] = ("plan.json", known(documents.read_plan))
    found |= {f"{kind} shards": (f"results/{kind}-*.nc", shard) for kind in results.KINDS}
    found["models"] = ("models/*", lambda path: load_trained(path)[0])
    found["assets"] = ("assets/*", lambda path: load_named(path)[0])
    found["samples"] = ("samples/*", pictures.read_sample)
    found["scores"] = ("scores/*", results.read_scores)
    found["suspects"] = ("suspects/*", pictures.read_suspects)
    return found


def run(tally, alone, tries: int, seed: int) -> None:
    """Every kind of file of a finished study, then those of a checkpoint."""
    draw = random.Random(seed)
    for kind, (pattern, read) in readers().items():
        for number in range(tries):
            path = draw.choice(sorted(alone.out.glob(pattern)))
            whole = path.read_bytes()
            how = HOWS[number % len(HOWS)]
            harmed = damaged(whole, how, draw)
            if harmed != whole:
                _read(tally, alone, f"{kind}: refused in one line or the same values", path, read, harmed, how)
                if number < max(1, tries * RUNS // TRIES):
                    _run(tally, alone, f"{kind}: a run refuses it in one line or makes it again", path, harmed, how)
    _checkpoints(tally, alone, max(1, tries // 4), draw)


def _read(tally, alone, kind: str, path: Path, read, harmed: bytes, how: str) -> None:
    from bdjax.errors import InvalidInput

    other = alone.fresh() / path.name
    other.parent.mkdir()
    other.write_bytes(harmed)
    with tally.trial(kind, f"{path.name} {how}", other.parent):
        try:
            found = read(other)
        except InvalidInput as error:
            assert "\n" not in str(error)
        else:
            same(found, read(path))


def same(found, expected) -> None:
    """Two trees of arrays are equal, bit for bit."""
    import jax
    import numpy as np

    assert jax.tree.structure(found) == jax.tree.structure(expected), "another structure"
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def _run(tally, alone, kind: str, path: Path, harmed: bytes, how: str) -> None:
    from bdjax.errors import InvalidInput

    out = shutil.copytree(alone.out, alone.fresh())
    other = out / path.relative_to(alone.out)
    other.write_bytes(harmed)
    if path.suffix == ".safetensors":  # which nobody reads as long as all results are there
        for shard in out.glob("results/[!r]*.nc"):
            shard.unlink()
    with tally.trial(kind, f"{path.name} {how}", out):
        try:
            alone.run(out)
        except InvalidInput as error:
            assert "\n" not in str(error) and path.suffix == ".json"
            return
        for aside in out.glob("*/*.damaged"):
            aside.unlink()
        alone.check(out)


def _checkpoints(tally, alone, tries: int, draw: random.Random) -> None:
    """Of a run that is killed in the middle of training; whatever is damaged, the next run finishes with the same."""
    killed = alone.fresh()
    with common.child(alone, killed) as process:
        assert common.wait_for(process, lambda: list(killed.glob("checkpoints/*/*/about.json")))
        process.send_signal(signal.SIGKILL)
        process.wait()
    files = sorted(path for path in killed.glob("checkpoints/**/*") if path.is_file() and path.stat().st_size)
    for number in range(tries):
        path, how = draw.choice(files), HOWS[number % len(HOWS)]
        if number < len(HOWS):
            path = next(file for file in files if file.name == "about.json")
        out = shutil.copytree(killed, alone.fresh())
        place = out / path.relative_to(killed)
        place.write_bytes(damaged(path.read_bytes(), how, draw))
        with tally.trial("checkpoints: a run goes on or begins again", f"{path.relative_to(killed)} {how}", out):
            alone.run(out)
            for aside in out.glob("checkpoints/*/*.damaged"):
                shutil.rmtree(aside)
            alone.check(out)
