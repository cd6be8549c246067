"""Pictures that a study keeps for its page: of each attack (DIR/samples) and of each detector (DIR/suspects)."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bdjax.errors import Damaged
from bdjax.io.store.documents import NUMBER, check
from bdjax.io.store.remote import local
from bdjax.io.store.results import read_index
from bdjax.io.store.store import address
from bdjax.io.store.trees import check_arrays, load_named


class Sample(NamedTuple):
    """What is kept of one attack."""

    clean: np.ndarray  # uint8 (m, height, width, channels)
    triggered: np.ndarray  # the same images with the trigger
    figures: dict[str, float]  # of trained parts; {} where there are none


def read_sample(path: Path) -> tuple[str, int, Sample]:
    """An attack, the poisoned rows of the cell that its pictures are of, and what is kept of it.

    Raises:
        Damaged: the file is not what was written.
    """
    tree, about = load_named(path)
    check_arrays(path, tree, {"clean": (np.uint8, 4), "triggered": (np.uint8, 4)})
    try:
        figures = json.loads(about["figures"])
        check(figures, {str: NUMBER}, "figures")
        if tree["clean"].shape != tree["triggered"].shape or address(about["attack"]) != path.stem:
            raise ValueError("clean and triggered images, or name and attack, do not go together")
        return about["attack"], int(about["count"]), Sample(tree["clean"], tree["triggered"], figures)
    except (KeyError, ValueError, RecursionError) as error:
        raise Damaged(f"{str(path)!r}: no pictures of an attack ({error}); remove it and make it again") from error


def load_samples(folder: str | Path) -> dict[str, Sample]:
    """What a study's folder has, by attack.

    Raises:
        InvalidInput: a file is damaged.
    """
    read = (read_sample(path) for path in sorted((Path(folder) / "samples").glob("[!.]*.safetensors")))
    return {attack: sample for attack, _, sample in read}


class Suspects(NamedTuple):
    """The most suspect images of one cell, most suspect first."""

    image: np.ndarray  # uint8 (m, height, width, channels)
    poisoned: np.ndarray  # bool (m,)
    score: np.ndarray  # float (m,)


def read_suspects(path: Path) -> Suspects:
    """The most suspect images of one cell.

    Raises:
        Damaged: the file is not what was written.
    """
    tree, _ = load_named(path)
    check_arrays(path, tree, {"image": (np.uint8, 4), "poisoned": (np.bool_, 1), "score": (np.floating, 1)})
    return Suspects(*(tree[name] for name in Suspects._fields))


def load_suspects(folder: str | Path) -> dict[tuple[str, str, str], Suspects]:
    """The most suspect images that each detector found, by (attack, detector, on); of the most poisoned cell.

    Raises:
        InvalidInput: no study is there, or a file is damaged.
    """
    folder = local(folder)
    asked = read_index(folder)["detections"]
    kept = {path.stem for path in (folder / "suspects").glob("[!.]*.safetensors")}
    shown = sorted((one for one in asked if one["address"] in kept), key=lambda one: (one["ratio"], -one["seed"]))
    last = {(one["attack"], one["detector"], one["on"]): one["address"] for one in shown}
    return {place: read_suspects(folder / "suspects" / f"{name}.safetensors") for place, name in last.items()}
