"""What study.json says of a study: its cells, what makes each of them, and where the numbers come from."""

import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import jax

from bdjax.errors import InvalidInput
from bdjax.io.store.documents import read_study
from bdjax.io.store.store import Store
from bdjax.study.jobs import Plan
from bdjax.study.study import config
from bdjax.study.work import Work

SHARED = ("recipe", "selection", "clean", "clean_ratio", "valid_ratio", "suspects")
"""Settings of a study that all cells of a folder share, the network and the data aside."""


def enter(store: Store, work: Work, planned: Plan) -> None:
    """Write what is asked for into study.json, beside what was asked for before.

    Raises:
        InvalidInput: the folder is of other data, another network, or other settings that all of its cells share.
    """

    used = {kind: {card.name: asdict(card) for card in cards} for kind, cards in work.cards().items()}

    def change(held: dict | None) -> dict:
        if held:
            check(store, work, held)
        key = ("attack", "ratio", "seed", "defense")
        cells = {tuple(cell[name] for name in key): cell for cell in (held or {"cells": []})["cells"]}
        for cell in planned.cells:
            place = tuple(cell[name] for name in key)
            before = cells.get(place, {})
            kept = before["audits"] if before.get("model") == cell["model"] else {}
            cells[place] = cell | {"audits": kept | cell["audits"]}
        where = ("attack", "ratio", "seed", "detector", "on")
        asked = [*(held or {"detections": []})["detections"], *planned.detections]
        detections = {tuple(one[name] for name in where): one for one in asked}
        about = {
            text: {"oracle": method.oracle, "version": method.card.version} for text, method in work.defenses.items()
        }
        return {
            "base": work.base,
            "attributes": _attributes(work),
            "defenses": (held or {"defenses": {}})["defenses"] | about,
            "cards": {kind: (held or {"cards": {}})["cards"].get(kind, {}) | cards for kind, cards in used.items()},
            "cells": list(cells.values()),
            "detections": list(detections.values()),
        }

    store.update_json("study.json", read_study, change)


def check(store: Store, work: Work, there: dict[str, Any]) -> None:
    """Refuse to put cells beside those of a folder's study.json where tables would average over what differs.

    Raises:
        InvalidInput: the folder is of other data, another network, or other settings that all of its cells share.
    """
    if there["base"] != work.base:
        names = work.base | there["base"]
        other = next(name for name in names if there["base"].get(name) != work.base.get(name))
        given, before = work.base.get(other), there["base"].get(other)
        text = f"{store.folder} holds a study of {other} {before}, not {given}; give another --out"
        raise InvalidInput(text.replace("\n", " "))
    held, asked = json.loads(there["attributes"]["config"]), json.loads(config(work.study))
    for name in SHARED:
        if (name != "suspects" or (held["detectors"] and asked["detectors"])) and held[name] != asked[name]:
            given, before = (f"{name.replace('_', ' ')} {one[name]!r}" for one in (asked, held))
            raise InvalidInput(f"{store.folder} holds a study of {before}, not {given}; give another --out")


def _attributes(work: Work) -> dict[str, str]:
    packages = ("bdjax", "jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.local_devices()[0]
    return {
        "config": config(work.study),
        "versions": json.dumps({name: version(name) for name in packages} | {"python": platform.python_version()}),
        "device": f"{jax.local_device_count()} x {device.device_kind}"
        + (f" ({device.platform})" if device.device_kind != device.platform else ""),
        "dataset": work.dataset.name,
        "dataset_version": work.dataset.version,
        "dataset_digest": work.dataset.digest,
        "model": work.study.model,
        "date": datetime.now(UTC).date().isoformat(),
    }
