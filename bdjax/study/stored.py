"""What a study's folder has: its cells by coordinates, the networks that they need, and single models."""

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bdjax.errors import InvalidInput
from bdjax.io.files import slug
from bdjax.io.foreign import model_folder
from bdjax.io.store import remote, results
from bdjax.io.store.store import Store
from bdjax.study import Study, resolve
from bdjax.study.work import Work
from bdjax.types import Net, Weights

COORDINATES = ("attack", "ratio", "defense", "seed")
"""What tells the cells of a study apart, in the order in which names of models have them."""

DEPTH = 2 + len(COORDINATES)
"""Parts of a model's name: dataset, network and coordinates."""


class Found(NamedTuple):
    """Some cells of a study."""

    store: Store
    index: dict[str, Any]  # of study.json
    cells: list[dict[str, Any]]  # of it


def find(folder: str | Path, **wanted: Any) -> Found:
    """The cells of a study that have these coordinates; one that is None may be any.

    Args:
        folder: the study's `out`, a folder or a place in an object store.
        wanted: attack, ratio, defense, seed.

    Raises:
        InvalidInput: no study is there, or no such cell; it says what there is.
    """
    store = Store.at(folder)  # only read, so it is not entered and nothing is claimed
    store.refresh()
    index = results.read_index(store.folder)
    cells = index["cells"]
    for name in COORDINATES:
        value, before = wanted.get(name), cells
        if value is None:
            continue
        cells = [cell for cell in cells if cell[name] == value]
        if not cells:
            there = ", ".join(dict.fromkeys(_shown(cell[name]) for cell in before))
            raise InvalidInput(f"{store.folder}: no {name} {_shown(value)}; choose from {there}")
    return Found(store, index, cells)


def _shown(value: Any) -> str:
    return format(value, ".12g") if isinstance(value, float) else str(value)


def resolved(found: Found, **changes: Any) -> Work:
    """The study with the attacks, ratios, seeds and defenses of some of its cells, and `changes` to its other fields.

    Raises:
        InvalidInput: its data or its network are other ones now.
    """
    fields, folder = json.loads(found.index["attributes"]["config"]), found.store.folder
    if not fields["clean_ratio"]:  # its images are in folders of somebody's own
        raise InvalidInput(
            f"{folder}: of bdjax purify, whose models are the folders in {folder / 'purified'}; give one"
        )
    # Victims that are given stand in the place of attacks, and have no ratio to give.
    for name in ("seed", "defense") if fields.get("victims") else COORDINATES:
        fields[f"{name}s"] = tuple(dict.fromkeys(cell[name] for cell in found.cells))
    work = resolve.resolve(Study(**fields | changes))
    if work.base != found.index["base"]:
        raise InvalidInput(f"{found.store.folder}: made with other data or another network; run the study again first")
    return work


def model_name(index: Mapping[str, Any], cell: Mapping[str, Any]) -> PurePosixPath:
    """What the model of a cell is called: dataset/network/attack/ratio/defense/seed, such as
    `digits/small_cnn/badnets/0.1/sau/3`, each part fit for a file name.
    """
    parts = (index["attributes"]["dataset"], index["attributes"]["model"], *(cell[name] for name in COORDINATES))
    return PurePosixPath(*(slug(_shown(part)) for part in parts))


def read_weights(store: Store, cell: Mapping[str, Any]) -> Weights:
    """The weights of a cell, as numpy arrays.

    Raises:
        InvalidInput: they are missing or damaged.
    """
    if not store.has_model(cell["model"]):
        what = f"lacks the model of {cell['defense']} at seed {cell['seed']}"
        raise InvalidInput(f"{store.folder}: {what}; run the study again")
    return store.load_model(cell["model"]).weights


def load_model(
    folder: str | Path,
    attack: str | None = None,
    ratio: float | None = None,
    seed: int | None = None,
    defense: str = "none",
) -> tuple[Net, Weights]:
    """One stored model: the network, as its defense left it, and its weights.

    Args:
        folder: a study's `out`; or a model folder of `bdjax export`; or a folder of studies or model folders followed
            by a model's name, as "runs/digits/small_cnn/badnets/0.1/sau/3". The other arguments go with a study alone.
        attack, ratio, seed: coordinates in the study's results; None where it has only one.
        defense: another one.

    Returns:
        net, weights: `net.apply(weights, image)[0]` are logits (b, classes) of images float (b, height, width,
        channels) in [0, 1].

    Raises:
        InvalidInput: there is no such model, or several; it says what there is.
    """
    if not (isinstance(folder, str | Path) and str(folder)):
        raise InvalidInput(f"load_model: {folder!r:.80}; give the path of a study's folder or of a model folder")
    if os.path.isfile(Path(folder) / model_folder.CONFIG_FILE):
        if (attack, ratio, seed, defense) != (None, None, None, "none"):
            raise InvalidInput(f"{folder}: a model folder, of one model; give it alone")
        net, weights, _ = model_folder.read(Path(folder))
        return net, weights
    if not remote.of(folder) and not Path(folder).exists():
        found = _named(Path(folder))
    else:
        found = find(folder, attack=attack, ratio=ratio, seed=seed, defense=defense)
    for name in COORDINATES:
        values = list(dict.fromkeys(_shown(cell[name]) for cell in found.cells))
        if len(values) > 1:
            raise InvalidInput(f"{found.store.folder}: several models; give {name}=, one of {', '.join(values)}")
    weights = read_weights(found.store, found.cells[0])
    net = resolved(found, detectors=(), audits=()).net_of(found.cells[0]["defense"])
    return net, jax.tree.map(jnp.asarray, weights)


def _named(path: Path) -> Found:
    """The cell that a path names: a folder with studies in it, then a model's name."""
    above, name = path.parents[DEPTH - 1] if len(path.parts) > DEPTH else Path(), path.parts[-DEPTH:]
    for folder in sorted({study.parent for study in (*above.glob("study.json"), *above.glob("*/study.json"))}):
        found = find(folder)
        for cell in found.cells:
            if model_name(found.index, cell).parts == name:
                return found._replace(cells=[cell])
    raise InvalidInput(
        f"{path}: no study and no model folder; a model of a study in {above} is called "
        "dataset/network/attack/ratio/defense/seed"
    )
