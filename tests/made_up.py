"""Results that no model gave: made by this script for tests of the report, and marked as such in their attributes."""

import json

import numpy as np
import xarray

CELL = ("attack", "ratio", "seed", "defense")
JUDGED = ("attack", "ratio", "seed", "detector", "on")
NOTE = "made up for a test; no model was trained"


def study(attacks, defenses, ratios=(0.0, 0.05, 0.1), seeds=3, detectors=(), number=0) -> xarray.Dataset:
    """Results of so many cells: defenses differ in what they stop and cost, the third destroys every model.

    attacks, defenses: names, "none" first among the defenses; number: of the random stream.
    """
    rng = np.random.default_rng(number)
    shape = (len(attacks), len(ratios), seeds, len(defenses))
    stop = np.concatenate([[0], rng.uniform(0, 1, len(defenses) - 1)])
    cost = np.concatenate([[0], rng.uniform(0, 0.08, len(defenses) - 1)])
    if len(defenses) > 3:
        stop[3], cost[3] = 1.0, 0.7
    reach = rng.uniform(0.6, 1, (len(attacks), 1, 1, 1)) * (np.array(ratios) > 0)[None, :, None, None]
    asr = (reach * (1 - stop * rng.uniform(0.6, 1, (len(attacks), 1, 1, 1))) + rng.normal(0.02, 0.01, shape)).clip(0, 1)
    acc = (0.93 - cost + rng.normal(0, 0.004, shape)).clip(0, 1)
    der = (np.maximum(0, asr[..., :1] - asr) - np.maximum(0, acc[..., :1] - acc) + 1) / 2
    values = {"acc": acc, "asr": asr, "ra": (acc - asr).clip(0, 1), "der": der, "seconds": rng.uniform(2, 900, shape)}
    data = {name: (CELL, value) for name, value in values.items()}
    data |= {"status": (CELL, np.zeros(shape, np.int8)), "overlap": (CELL, np.full(shape, 0.05))}
    axes = {"attack": list(attacks), "ratio": list(ratios), "seed": range(seeds), "defense": list(defenses)}
    found = xarray.Dataset(data, axes, _attributes())
    return found.merge(detection(found, detectors, rng)) if detectors else found


def detection(found: xarray.Dataset, detectors, rng) -> xarray.Dataset:
    """Figures of detectors on a study's undefended victims: the last one has no threshold and judges no queries."""
    shape = [found.sizes[dim] for dim in JUDGED[:3]] + [len(detectors), 2]
    grid = np.linspace(0, 1, 101)
    skill = rng.uniform(0.05, 0.9, (shape[0], 1, 1, len(detectors), 1)) * rng.uniform(0.8, 1.2, shape)
    roc = grid ** skill[..., None]
    values = {"auroc": 1 / (1 + skill), "ap": 0.8 / (1 + skill), "fpr": rng.uniform(0.01, 0.09, shape)}
    values |= {f"tpr_at_{level}": (level / 100) ** skill for level in (1, 5, 10)} | {"tpr": 0.05**skill}
    poisoned = (found["ratio"].values > 0)[None, :, None, None, None]
    values = {name: np.where(poisoned | (name == "fpr"), value, np.nan) for name, value in values.items()}
    for name in values:
        values[name][..., -1, 1] = np.nan
    for name in ("tpr", "fpr"):
        values[name][..., -1, :] = np.nan
    roc = np.where(poisoned[..., None], roc, np.nan)
    roc[..., -1, 1, :] = np.nan
    data = {name: (JUDGED, value) for name, value in values.items()} | {"roc": ((*JUDGED, "false_alarms"), roc)}
    data["detection_seconds"] = (JUDGED, rng.uniform(1, 60, shape))
    own = {"detector": list(detectors), "on": ["rows", "queries"], "false_alarms": grid}
    return xarray.Dataset(data, {dim: found[dim].values for dim in JUDGED[:3]} | own)


def curves(found: xarray.Dataset, epochs: int = 20) -> xarray.Dataset:
    """Training curves of a study: loss and accuracy of every cell."""
    shape = [found.sizes[dim] for dim in CELL]
    loss = np.exp(-np.arange(epochs) / 5) * np.linspace(1, 2, shape[-1])[:, None] + np.zeros((*shape, epochs))
    data = {"loss": ((*CELL, "epoch"), loss), "accuracy": ((*CELL, "epoch"), 1 - loss / 3)}
    return xarray.Dataset(data, {dim: found[dim].values for dim in CELL})


def samples(attacks, size: int = 32) -> dict:
    """Pictures of each attack: noise, and a white patch in its corner."""
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (8, size, size, 3), np.uint8)
    found = {}
    for k, attack in enumerate(attacks):
        triggered = clean.copy()
        triggered[:, -3 - k % 5 :, -3:] = 255
        found[attack] = (clean, triggered, {})
    return found


def scores(found: xarray.Dataset, count: int = 200) -> dict:
    """Scores of every cell above ratio 0, a tenth of them of poisoned rows, which score higher by one."""
    rng = np.random.default_rng(0)
    truth = (np.arange(count) % 10 == 0).astype(np.int8)
    kept = {}
    for attack in found["attack"].values:
        for detector in found["detector"].values:
            score = rng.normal(truth * 1.5, 1)
            place = (str(attack), float(found["ratio"].max()), 0, str(detector), "rows")
            kept[place] = {"score": score, "truth": truth, "flagged": score > 2}
    return kept


def suspects(found: xarray.Dataset, count: int = 12) -> dict:
    """The most suspect rows of every attack and detector: every other one is poisoned."""
    images, triggered, _ = samples(["any"])["any"]
    shown = np.concatenate([images, triggered])[np.arange(count) % 16]
    poisoned = np.arange(count) % 2 == 0
    names = [(str(a), str(d), "rows") for a in found["attack"].values for d in found["detector"].values]
    return {name: (shown, poisoned, np.linspace(3, 1, count)) for name in names}


def _attributes() -> dict[str, str]:
    config = {"dataset": "digits", "model": "small_cnn", "recipe": "", "note": NOTE}
    return {"dataset": "digits", "model": "small_cnn", "device": NOTE, "config": json.dumps(config)}
