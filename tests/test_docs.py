"""What the README shows runs: its Python in one namespace, and its commands where it says that they are tested."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

import bdjax

README = Path(__file__).parent.parent / "README.md"
MARK = "<!-- tested -->"
FENCED = re.compile(r"^ *(?P<fence>`{3,}|~{3,}) *(?P<language>\w*)[^\n]*\n(?P<code>.*?)^ *(?P=fence) *$", re.M | re.S)
REGISTRIES = ("ATTACKS", "SELECTIONS", "DEFENSES", "AUDITS", "DETECTORS", "ANALYSES", "MODELS", "DATASETS")


class Block(NamedTuple):
    """A fenced block of a Markdown text."""

    language: str
    line: int  # of its first line of code, from 1
    code: str
    marked: bool  # whether MARK is the last that is not blank before it


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a text; one that is not closed is an error."""
    assert not re.search("^ *(```|~~~)", FENCED.sub("", text), re.MULTILINE), "a block is not closed"
    return [
        Block(
            found["language"].lower(),
            text[: found.start("code")].count("\n") + 1,
            textwrap.dedent(found["code"]),
            text[: found.start()].rstrip().endswith(MARK),
        )
        for found in FENCED.finditer(text)
    ]


@pytest.fixture
def _aside(monkeypatch, tmp_path):
    """A temporary working folder, and registries that are put back."""
    monkeypatch.chdir(tmp_path)
    held = {name: dict(getattr(bdjax, name)) for name in REGISTRIES}
    yield
    for name, methods in held.items():
        getattr(bdjax, name).clear()
        getattr(bdjax, name).update(methods)


def test_the_readme_names_every_method():
    part = README.read_text().partition("## What is in it")[2].partition("## ")[0]
    named = set(re.findall("`([a-z0-9_]+)`", part))
    for registry in REGISTRIES[:-1]:
        methods = getattr(bdjax, registry).items()
        assert {name for name, method in methods if method.make.__module__.startswith("bdjax.")} <= named


def test_blocks_are_found():
    text = "a\n```python\nx = 1\n\n```\n\n<!-- tested -->\n\n  ~~~~ bash -e\n  echo\n  ```\n  ~~~~\n```\nplain\n```\n"
    assert blocks(text) == [
        Block("python", 3, "x = 1\n\n", False),
        Block("bash", 10, "echo\n```\n", True),
        Block("", 14, "plain\n", False),
    ]
    with pytest.raises(AssertionError, match="not closed"):
        blocks("```python\nx = 1\n")


@pytest.mark.usefixtures("_aside", "usual_driver")
def test_python_of_the_readme_runs():
    found = [block for block in blocks(README.read_text()) if block.language in ("python", "py")]
    assert found
    namespace = {"__name__": "readme"}
    for block in found:
        # Blank lines before it, so that an error names the README's own line.
        exec(compile("\n" * (block.line - 1) + block.code, str(README), "exec"), namespace)


@pytest.mark.usefixtures("_aside")
def test_commands_of_the_readme_run():
    text = README.read_text()
    found = [block for block in blocks(text) if block.marked]
    assert len(found) == text.splitlines().count(MARK), "a mark stands before no block"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for block in found:
        assert block.language in ("bash", "sh"), f"line {block.line}: {block.language} is marked"
        command = ["bash", "-euo", "pipefail", "-c", block.code]
        done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, f"line {block.line}: {done.stderr}"
