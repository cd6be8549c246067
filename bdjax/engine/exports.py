"""Models and poisoned sets out of a study, for other tools."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cells import functions, lift
from bdjax.data.images import to_uint8
from bdjax.engine.stored import Models, opened
from bdjax.errors import InvalidInput
from bdjax.io.datasets import normalization
from bdjax.io.datasets.poisoned_sets import save_set
from bdjax.io.foreign import model_folder, records
from bdjax.io.foreign.torch_weights import in_order, to_torch
from bdjax.io.store import results
from bdjax.study import given
from bdjax.study.stored import Found, find, model_name, read_weights, resolved
from bdjax.study.work import Work
from bdjax.types import COVER, POISONED, Source

ROWS = 256
"""Images that are stamped at a time."""


def export_models(found: Found, to: Path) -> Iterator[Path]:
    """Write every model of some cells of a study to a model folder of its own, to/MODEL_NAME, and give that.

    Raises:
        InvalidInput: none of them is there, or the study's data or network are other ones now.
    """
    cells = [cell for cell in found.cells if found.store.has_model(cell["model"])]
    if not cells:
        raise InvalidInput(f"{found.store.folder}: none of the models that are asked for is there; run the study again")
    work, figures = resolved(found, detectors=(), audits=()), results.load(found.store.folder)
    for cell in cells:
        weights = jax.tree.map(jnp.asarray, read_weights(found.store, cell))
        net = work.net_of(cell["defense"])
        place = figures.sel({name: cell[name] for name in ("attack", "ratio", "defense", "seed")})
        rates = {name: float(place[name]) for name in ("acc", "asr", "ra")}
        known = {name: value for name, value in rates.items() if np.isfinite(value)}
        config = _config(work, cell) | {"figures": {"n": 1, **known}}
        config |= {"defense": cell["defense"]} if net.plain is not None else {}
        yield model_folder.write(to / model_name(found.index, cell), net, weights, config)


def _config(work: Work, cell: Mapping[str, Any]) -> dict[str, Any]:
    data = work.dataset
    mean, std = work.base.get("normalization", (data.mean, data.std))
    return {
        "architecture": work.study.model,
        "classes": list(data.classes),
        "image": dict(zip(("height", "width", "channels"), data.shape, strict=True)),
        **{"mean": list(mean), "std": list(std)},
        "dataset": {"name": data.name, "digest": data.digest},
        "cell": {"victim" if work.victims else "attack": cell["attack"]}
        | {name: cell[name] for name in ("ratio", "defense", "seed") if cell[name] != given.UNKNOWN},
    }


def export_poison(found: Found, to: Path, form: str) -> Iterator[tuple[Path, str]]:
    """Write the poisoned set of every attack, ratio and seed among some cells; give where, and what to know of it.

    Images are rounded to 8 bits. Cover samples, which the format of a set has no place for, are left as they are clean.

    Args:
        found: the cells.
        to: set and pictures go beside the model of the undefended victim; a record to `to`/record.
        form: npz, png or record.

    Raises:
        InvalidInput: no cell has poison, a model that it depends on is missing, or the form cannot hold it.
    """
    last = sorted(found.cells, key=lambda cell: cell["defense"] == "none")  # of any defense where that is not there
    chosen = {(cell["attack"], cell["ratio"]): cell for cell in last if cell["ratio"] > 0}
    if not chosen:
        raise InvalidInput(f"{found.store.folder}: no cell that is asked for has poison; give another --ratio")
    work = resolved(found, detectors=(), audits=())
    write = {"npz": _write_npz, "png": _write_png, "record": _write_record}[form]
    for (attack, ratio), cell in chosen.items():
        cells = [one for one in found.cells if (one["attack"], one["ratio"]) == (attack, ratio)]
        seeds = tuple(dict.fromkeys(one["seed"] for one in cells))
        (models,) = opened(found.store.folder, attack, ratio, (cell["defense"],), seeds).models.values()
        for place, seed in enumerate(seeds):
            arrays, covers = _arrays(models, place)
            victim = {**cell, "seed": seed, "defense": "none"}
            lacks = f"without its {covers} cover samples, which are left clean" if covers else ""
            yield write(found, work, to, victim, arrays), lacks or (_misfit(work) if form == "record" else "")


def _misfit(work: Work) -> str:
    """Why the benchmark would see another model, or nothing, in a record of a study; "" where it would not."""
    name = work.dataset.name
    if name not in records.NORMALIZATIONS:
        return f"BackdoorBench's loader knows no data set {name}, only {', '.join(records.NORMALIZATIONS)}"
    theirs = normalization.parse(records.NORMALIZATIONS[name], work.dataset.shape[2])
    own = work.base.get("normalization", (work.dataset.mean, work.dataset.std))
    if np.allclose(theirs, own, atol=2e-3):
        return ""
    text = (
        f"BackdoorBench normalizes {name} in its own way, and the victim was not trained so; its figures differ there"
    )
    return f"{text}; run the study with --normalization {records.NORMALIZATIONS[name]}"


def _arrays(models: Models, place: int) -> tuple[dict[str, np.ndarray], int]:
    """The arrays of the poisoned set of one seed (see `poisoned_sets`), and its number of cover samples."""
    cell, shared, attack = lift.pick(models.cells, place), models.shared, models.group.scene.attack
    given = functions.make_given(models.group.scene, ("train", "queries"), cell, shared)
    role = np.asarray(cell.poison.role)
    rows = np.flatnonzero(role == POISONED)
    arrays = {f"train_{name}": np.array(getattr(shared.train, name)) for name in ("image", "label")}
    arrays |= {f"test_{name}": np.array(getattr(shared.test, name)) for name in ("image", "label")}
    arrays["train_image"][rows] = _read(given.train, rows)
    arrays |= {"poison_row": rows, "poison_label": np.asarray(cell.poison.label)[rows]}
    goal = np.asarray(attack.goal(shared.test.label)).astype(np.int32)
    arrays |= {"query_image": arrays["test_image"].copy(), "query_label": goal}
    moved = np.flatnonzero(goal != arrays["test_label"])
    arrays["query_image"][moved] = _read(given.queries, moved)
    return arrays, int((role == COVER).sum())


def _read(source: Source, rows: np.ndarray) -> np.ndarray:
    """Images of some rows, uint8."""
    read = jax.jit(lambda row: to_uint8(source.read(row).image))
    padded = np.pad(rows, (0, -rows.size % ROWS), mode="edge").astype(np.int32).reshape(-1, ROWS)
    return np.concatenate([np.asarray(read(part)) for part in padded])[: rows.size]


def _write_npz(found: Found, work: Work, to: Path, victim: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    path = to / model_name(found.index, victim) / "set.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_set(path, arrays)
    return path


def _write_png(found: Found, work: Work, to: Path, victim: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    """Class folders: `train` as the victim sees it, `test` clean, and `triggered` by the true class."""
    from PIL import Image

    folder = to / model_name(found.index, victim) / "poisoned"
    seen = arrays["train_label"].copy()
    seen[arrays["poison_row"]] = arrays["poison_label"]
    moved = arrays["query_label"] != arrays["test_label"]
    parts = {
        "train": (arrays["train_image"], seen, np.ones(seen.size, bool)),
        "test": (arrays["test_image"], arrays["test_label"], np.ones(moved.size, bool)),
        "triggered": (arrays["query_image"], arrays["test_label"], moved),
    }
    digits = len(str(work.dataset.count - 1))
    for part, (image, label, kept) in parts.items():
        for number in np.unique(label):
            (folder / part / f"{number:0{digits}d}").mkdir(parents=True, exist_ok=True)
        for row in np.flatnonzero(kept):
            pixels = image[row, ..., 0] if image.shape[-1] == 1 else image[row]
            Image.fromarray(pixels).save(folder / part / f"{label[row]:0{digits}d}" / f"{row:07d}.png")
    lines = [
        "row,true_label,label",
        *(f"{row},{arrays['train_label'][row]},{seen[row]}" for row in arrays["poison_row"]),
    ]
    (folder / "poisoned_rows.csv").write_text("\n".join(lines) + "\n")
    return folder


def _write_record(found: Found, work: Work, to: Path, victim: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    theirs = {name: one for one, name in records.NETWORKS.items()}
    values = {**work.model.static, **work.model.traced}
    usual = {name: setting.default for name, setting in work.cards()["models"][0].settings.items()}
    if work.model.name not in theirs or any(values[name] != usual[name] for name in usual if name != "precision"):
        known = ", ".join(theirs)
        raise InvalidInput(
            f"{work.study.model}: BackdoorBench has no such network; it has {known} at their usual settings"
        )
    where = {name: victim[name] for name in ("attack", "ratio", "defense", "seed")}
    (cell,) = find(found.store.folder, **where).cells
    row, true = arrays["poison_row"], arrays["train_label"]
    moved = np.flatnonzero(arrays["query_label"] != arrays["test_label"])
    content = records.Content(
        theirs[work.model.name],
        work.dataset.name,
        work.dataset.count,
        in_order(to_torch(read_weights(found.store, cell), work.net), work.net),
        rows=true.size,
        tests=arrays["test_label"].size,
        train=(row, arrays["poison_label"], true[row], arrays["train_image"][row]),
        test=(moved, arrays["query_label"][moved], arrays["test_label"][moved], arrays["query_image"][moved]),
    )
    return records.write(to, "_".join(model_name(found.index, victim).parts), content)
