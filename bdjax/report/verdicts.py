"""What a row may not be praised for: a model that was destroyed, or a backdoor that was never touched.

A low attack success rate is easily had: a model that answers at random does not answer what the attacker wants. So
every defense is held against the undefended victims of the same seeds.
"""

from typing import NamedTuple

import numpy as np
import xarray

from bdjax.report.statistics import Estimate, estimates, usable

UNDEFENDED = "none"
BOUND = 0.05
"""Loss of clean accuracy, as a fraction of all test images, that a defense may cost and still be compared by ASR."""
HALF = 0.5
"""Of the victim's accuracy, below which a defense destroyed the model; and the ASR below which there is no backdoor."""
TOUCHED = 0.05
"""Fall of the attack success rate below which a defense did nothing."""

DESTROYED, COSTLY, INEFFECTIVE, WEAK = "destroyed the model", "costs accuracy", "ineffective", "no backdoor"


class Judged(NamedTuple):
    """A study's cells beside the undefended victims: object arrays (attack, ratio, defense)."""

    lost: np.ndarray  # Estimate: ACC of the undefended victim minus that of the defended model, paired by seed
    stopped: np.ndarray  # Estimate: the same of ASR
    verdicts: np.ndarray  # tuple of those of this module's words that hold


def rules(bound: float = BOUND) -> dict[str, str]:
    """Verdict -> when it is given, in a sentence. Means are over seeds, paired with the undefended victims."""
    return {
        DESTROYED: f"on average keeps less than {HALF:.0%} of the undefended victim's clean accuracy",
        COSTLY: f"on average loses more than {100 * bound:g} points of clean accuracy",
        INEFFECTIVE: f"on average lowers the attack success rate by less than {100 * TOUCHED:g} points",
        WEAK: f"undefended victims have an attack success rate below {HALF:.0%}: there is little to defend against",
    }


def judge(results: xarray.Dataset, bound: float = BOUND) -> Judged:
    """Hold every defense against `none`; without it among the defenses nothing is known and nothing is said."""
    acc, asr = (usable(results, name).transpose("attack", "ratio", "defense", "seed") for name in ("acc", "asr"))
    names = [str(name) for name in results["defense"].values]
    place = names.index(UNDEFENDED) if UNDEFENDED in names else None
    before = [np.full_like(one[:, :, :1], np.nan) if place is None else one.values[:, :, [place]] for one in (acc, asr)]
    lost, stopped = (estimates(old - new.values) for old, new in zip(before, (acc, asr), strict=True))
    kept = estimates(acc.values / before[0])
    success = estimates(before[1])
    verdicts = np.empty(lost.shape, object)
    for a, r, d in np.ndindex(lost.shape):
        poisoned = results["ratio"].values[r] > 0
        one = (kept[a, r, d].mean, lost[a, r, d].mean, stopped[a, r, d].mean, success[a, r, 0].mean)
        verdicts[a, r, d] = _undefended(poisoned, success[a, r, 0]) if d == place else _verdicts(poisoned, *one, bound)
    return Judged(lost, stopped, verdicts)


def _undefended(poisoned: bool, success: Estimate) -> tuple[str, ...]:
    return (WEAK,) if poisoned and success.mean < HALF else ()


def _verdicts(
    poisoned: bool, kept: float, lost: float, stopped: float, success: float, bound: float
) -> tuple[str, ...]:
    """NaN, where nothing is known, satisfies no rule."""
    cost = [DESTROYED] if kept < HALF else [COSTLY] if lost > bound else []
    return (*cost, INEFFECTIVE) if poisoned and success >= HALF and stopped < TOUCHED else tuple(cost)
