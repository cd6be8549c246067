"""Commands that ask for what cannot be: every option and setting, TOML, plugins, files that have no end.

Each is refused with status 2 and one line that names the culprit, within a minute, and nothing is left in the working
folder. What tyro cannot parse keeps tyro's box of several lines.
"""

import os
import random
import subprocess
import sys
import unittest.mock
from pathlib import Path

import tiny

from faults import command_lines as lines
from faults import common, files

TRIES = 10**6  # all cases
DAMAGED = 200  # of those that are drawn

COMMAND = "import pwd, sys; from bdjax.cli import main; pwd.getpwuid = lambda user: {}[user]; sys.exit(main())"
"""The command of a user whom this machine does not know, as in a container."""


def run(tally, alone, tries: int, seed: int) -> None:
    """Of every kind so many cases, drawn at random where there are more."""
    draw, asked = random.Random(seed), ["run", "--dataset", tiny.dataset(alone.data), "--out", "out"]

    def some(cases) -> list:
        cases = list(cases)
        return draw.sample(cases, min(tries, len(cases)))

    for option, value in some((option, value) for option, values in lines.OPTIONS.items() for value in values):
        _refused(tally, alone, "options of run", _options(asked, option, value))
    for option in some(name for name in lines.OPTIONS if name not in ("study", "flip")):
        twice = ["run", f"--{option}", "1", f"--{option}", "2"]
        _refused(tally, alone, "options of run, given twice", twice, f"--{option} is given twice")
    for text in some(lines.OTHERS):
        _refused(tally, alone, "other commands and their options", _split(text))
    for text in some(lines.UNPARSED):
        _unparsed(tally, alone, _split(text))
    for option, name, text in some(lines.settings()):
        _refused(tally, alone, "settings of every method", [*asked, f"--{option}", text], name)
    for name, value in some(lines.FIELDS):
        _toml(tally, alone, f"{name} = {value}", name.removesuffix("s"))
    for text in some(lines.BROKEN):
        _toml(tally, alone, text, "study.toml: ")
    for number in range(min(tries, DAMAGED)):
        _damaged(tally, alone, files.damaged(lines.STUDY.encode(), files.HOWS[number % len(files.HOWS)], draw))
    for text in some(lines.PLUGINS):
        _plugin(tally, alone, text, ["list", "attacks"])
    for kind, make in some((kind, make) for kind in lines.LIKE for make in lines.MAKES):
        like, option = lines.LIKE[kind]
        text = lines.REGISTERED.format(kind=kind, like=like, make=make)
        _plugin(tally, alone, text, [*asked, f"--{option}", "odd"])
    for what, (arguments, options) in some(_processes(asked).items())[: max(2, tries // 4)]:
        _process(tally, alone, what, arguments, options)


def place(folder: Path) -> Path:
    """A working folder with files that are not what a command hopes for."""
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    for name in ("file", "text.npz"):
        (folder / name).write_text("no text that means anything")
    (folder / "large").write_bytes(b"#" * 2_000_000)
    return folder


def _options(asked: list[str], option: str, value: str) -> list[str]:
    """The arguments that give an option this value, in a study that would be small otherwise."""
    if option == "study":
        return ["run", value, "--out", "out"]
    if option == "out":
        return [*asked[:-1], value]
    if option == "dataset":
        return ["run", "--dataset", value, "--out", "out"]
    if option == "flip":
        return [*asked, "--flip", value]
    if option == "suspects":
        asked = [*asked, "--detectors", "strip"]
    if value.startswith("-"):
        return [*asked, f"--{option}={value}"]
    empty = [] if option != "plugin" else [""]
    values = (value.split(" ") if value else empty) if option in lines.SEVERAL else [value]
    return [*asked, f"--{option}", *values]


def _split(text: str) -> list[str]:
    return [part.strip("'") for part in text.split(" ")]


def _untouched(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def _refused(tally, alone, kind: str, arguments: list[str], culprit: str = "") -> None:
    folder = place(alone.fresh())
    with tally.trial(kind, " ".join(arguments)[:150], folder):
        before = _untouched(folder)
        status, out, err = common.answer(arguments, folder)
        assert status == 2, (status, err[-200:])
        assert culprit in common.line(err), err
        assert not out, f"printed {out[:80]}"
        assert _untouched(folder) == before, f"left {_untouched(folder) - before}"


def _unparsed(tally, alone, arguments: list[str]) -> None:
    folder = place(alone.fresh())
    with tally.trial("what tyro cannot parse: status 2 and its box", " ".join(arguments), folder):
        before = _untouched(folder)
        status, _, err = common.answer(arguments, folder)
        assert status == 2 and "Traceback" not in err and err.strip(), (status, err[-200:])
        assert _untouched(folder) == before


def _toml(tally, alone, text: str, culprit: str) -> None:
    folder = place(alone.fresh())
    with tally.trial("fields of a study in TOML", text[:80], folder):
        (folder / "study.toml").write_text(text)
        before = _untouched(folder)
        status, _, err = common.answer(["run", "study.toml", "--out", "out"], folder)
        assert status == 2 and culprit in common.line(err), (status, err[-200:])
        assert _untouched(folder) == before


def _damaged(tally, alone, content: bytes) -> None:
    """It may be a study still, which is resolved and not run."""
    from bdjax.cli import conduct
    from bdjax.study.resolve import resolve

    folder = alone.fresh()
    folder.mkdir()
    with tally.trial("TOML with a damage: refused in one line or a study", content[:60], folder):
        (folder / "study.toml").write_bytes(content)
        with unittest.mock.patch.object(conduct, "conduct", lambda study, out, share: resolve(study)):
            status, _, err = common.answer(["run", "study.toml", "--out", "out"], folder)
        assert status in (0, 2) and (not err if status == 0 else common.line(err)), (status, err[-200:])


def _plugin(tally, alone, text: str, arguments: list[str]) -> None:
    from bdjax.study import plugins

    folder = alone.fresh()
    folder.mkdir()
    name = f"plug_{folder.name}"
    (folder / f"{name}.py").write_text(f"import bdjax\nimport bdjax.cards\n{text}\n")
    held = {kind: dict(registry) for kind, registry in plugins._registries().items()}
    path, quiet = list(sys.path), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    with tally.trial("plugins", text.splitlines()[-1], folder):
        try:
            before = _untouched(folder)
            status, _, err = common.answer([*arguments, "--plugin", name], folder)
            assert status == 2 and f"plugin '{name}'" in common.line(err), (status, err[-200:])
            assert _untouched(folder) == before
        finally:
            for kind, registry in plugins._registries().items():
                registry.clear()
                registry.update(held[kind])
            sys.path[:], sys.dont_write_bytecode = path, quiet
            sys.modules.pop(name, None)


def _processes(asked: list[str]) -> dict[str, tuple[list[str], dict]]:
    """What is said of the surroundings, or would take the whole process down: arguments and how the process is made."""
    homeless = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    homeless.pop("JAX_COMPILATION_CACHE_DIR", None)
    return {
        "a pipe as TOML": (["run", "pipe"], {}),
        "a device as TOML": (["run", "/dev/zero"], {}),
        "a device as a picture": ([*asked, "--attacks", "blended:picture=/dev/zero"], {}),
        "an output folder in /proc": ([*asked[:-1], "/proc/nope"], {}),
        "an empty output folder": ([*asked[:-1], ""], {}),
        "a bench of 10**12 cells": (["bench", "--cells", "1000000000000"], {}),
        "bytes that are no text": (["run", "--dataset", b"\xff\xfe", "--out", "out"], {}),
        "a cache that cannot be made": (["doctor"], {"env": homeless | {"XDG_CACHE_HOME": "/proc/nope"}}),
        "no home and no name": (["doctor"], {"env": homeless}),
    }


def _process(tally, alone, what: str, arguments: list, options: dict) -> None:
    folder = place(alone.fresh())
    command = [sys.executable, "-c", COMMAND, *arguments]
    with tally.trial("in a process of its own", what, folder):
        before = _untouched(folder)
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=common.ANSWERED, **options)
        assert found.returncode == 2, (found.returncode, found.stderr[-300:])
        assert common.line(found.stderr)
        assert _untouched(folder) == before
