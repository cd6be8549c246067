"""Ask model-level detectors whether a model is backdoored, and say no more than they know."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import xarray as xr

from bdjax.cards import split
from bdjax.engine import purify
from bdjax.engine.progress import Progress
from bdjax.types import Array, Data, Net, PyTree

DETECTORS = ("nc", "mm_bd", "ban")
"""Audits that need nothing but the model and clean images."""

STATISTIC = {"nc": ("largest", "anomaly index"), "mm_bd": ("p", "p"), "ban": ("largest", "share of one class")}
"""Of each, the figure that it decides by, and what that is called."""

ALARMS = {
    ("small_cnn", "nc"): (5, 20),
    ("small_cnn", "mm_bd"): (13, 20),
    ("small_cnn", "ban"): (9, 20),
}
"""(network, detector) -> how many of so many clean models it flagged: experiments/README.md, digits, 2026-11-28."""


class Finding(NamedTuple):
    """What one detector says of one model."""

    detector: str
    flagged: bool | None  # whether it calls the model backdoored; None where it could not decide
    score: float  # the figure that it decides by
    label: int  # the class that it suspects most
    words: str


def inspect(
    net: Net | Callable[[Any, Array], Array],
    weights: PyTree,
    clean: Data,
    *,
    detectors: Iterable[str] = DETECTORS,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> dict[str, Finding]:
    """Ask detectors of backdoored models about one; no trigger is needed.

    Args:
        net, weights, clean: as of `bdjax.purify`.
        detectors: of DETECTORS, each `name` or `name:setting=value,...`.
        seed: of the detectors.
        progress: as of `bdjax.run`.

    Returns:
        What each detector says, by its text. A detector that flags nothing has found nothing, which is no proof; how
        often it flags clean models of the same network is said where that was measured.

    Raises:
        InvalidInput: what is given does not fit together, or a detector cannot be put to this network.
    """
    asked = tuple(detectors)
    with purify.resolved(net, weights, clean, audits=asked, seed=seed) as ready:
        found = ready.run(progress)
    return {text: finding(found.isel(attack=0, ratio=0, seed=0, defense=0), text, "") for text in asked}


def finding(cell: xr.Dataset, detector: str, network: str, classes: tuple[str, ...] = ()) -> Finding:
    """What a detector says of one cell of results.

    network: how the network was asked for, for the rate of false alarms. classes: names; () for numbers.
    """
    name = split(detector)[0]
    figure, called = STATISTIC[name]
    held = name if f"{name}_detected" in cell else detector
    detected, score = (float(cell[f"{held}_{part}"]) for part in ("detected", figure))
    label = int(cell[f"{held}_class"]) if math.isfinite(float(cell[f"{held}_class"])) else -1
    suspect = classes[label] if classes and label >= 0 else f"number {label}"
    if not math.isfinite(detected):
        return Finding(detector, None, score, label, f"cannot decide: its test does not apply ({called} {score:.3g})")
    verdict = f"flags the model, class {suspect}" if detected else "finds nothing"
    alarms = ALARMS.get((network, detector))
    known = (
        f"it flagged {alarms[0]} of {alarms[1]} clean models of this network on digits"
        if alarms
        else "its false alarms on clean models of this network were not measured"
    )
    return Finding(detector, bool(detected), score, label, f"{verdict} ({called} {score:.3g}); {known}")
