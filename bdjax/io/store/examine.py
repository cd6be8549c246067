"""Looking through a study's folder: what is damaged, what failed, what belongs to no cell, and what was left over."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bdjax.errors import InvalidInput, Unreadable
from bdjax.io.files import DAMAGED
from bdjax.io.store import checkpoints, documents, results
from bdjax.io.store.pictures import read_sample, read_suspects
from bdjax.io.store.store import TEMPORARY, address
from bdjax.io.store.trees import load_named, load_trained

TREES: dict[str, Callable] = {
    "models": load_trained,
    "assets": load_named,
    "samples": read_sample,
    "scores": results.read_scores,
    "suspects": read_suspects,
}
"""Folders of safetensors files, and how each is read."""


class Finding(NamedTuple):
    """Something in a folder that a study lacks, does not need or cannot use."""

    kind: str  # damaged, unreadable, failed, orphaned, left over
    path: Path
    about: str


def examine(folder: Path) -> Iterator[Finding]:
    """All findings in a study's folder; every checksum in it is tried.

    Raises:
        InvalidInput: no study is there, or its study.json cannot be read.
    """
    index = results.read_index(folder)
    yield from _read(folder / "plan.json", documents.read_plan)
    for kind in results.KINDS:
        for path in results.shards(folder, kind):
            yield from _read(path, lambda path: [results.read_shard(path, curves) for curves in (False, True)])
    for name, load in TREES.items():
        for path in sorted((folder / name).glob("[!.]*.safetensors")):
            yield from _read(path, load)
    for path in sorted((folder / "checkpoints").glob("*/*/about.json")):
        if path.parent.suffix != DAMAGED:
            yield from _read(path.parent, checkpoints.check)
    for path in sorted((folder / "times").glob("[!.]*.json")):
        yield from _read(path, lambda path: documents.read_json(path, documents.NOTE))
    for line in results.failures(folder):
        yield Finding("failed", folder / "failures", line)
    yield from _orphans(folder, index)
    for path in sorted(folder.glob("**/*")):
        if path.suffix == DAMAGED:
            yield Finding("left over", path, "set aside; remove it once it was looked at")
        elif TEMPORARY.search(path.name) and path.is_file():
            yield Finding("left over", path, "the file of a write that was cut short; the next run removes it")


def _read(path: Path, read: Callable) -> Iterator[Finding]:
    try:
        read(path)
    except InvalidInput as error:
        yield Finding("unreadable" if isinstance(error, Unreadable) else "damaged", path, str(error))


def _orphans(folder: Path, index: dict) -> Iterator[Finding]:
    """Models, pictures and scores that no cell of the study has; clean models that only audits read are none."""
    detections = {one["address"] for one in index["detections"]}
    asked = {"scores": detections, "suspects": detections}
    asked["samples"] = {address(cell["attack"]) for cell in index["cells"]}
    for name, stems in asked.items():
        for path in sorted((folder / name).glob("[!.]*.safetensors")):
            if path.stem not in stems:
                yield Finding("orphaned", path, f"{name} of what no cell of the study has any more")
    known = {cell["model"] for cell in index["cells"]} | {one["model"] for one in index["detections"]}
    for path in sorted((folder / "models").glob("[!.]*.safetensors")):
        if path.stem in known:
            continue
        try:
            about = load_trained(path)[1]
        except InvalidInput:
            continue
        if about.get("kind") == "train" and about.get("defense"):
            yield Finding("orphaned", path, f"a model of {about['defense']} that no cell of the study has any more")
