"""How strong to prune: as the authors fix it, or chosen on the defender's own held-out rows or on the test set.

Pruning defenses come with a threshold that decides between clean accuracy and safety. Where it is chosen on held-out
rows it is the strongest that loses at most two points of accuracy there. The reference benchmark reads the test set:
the lowest attack success rate among those thresholds that change the accuracy by less than a tenth of it; whoever does
that is an oracle.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from bdjax import metrics
from bdjax.cards import Setting
from bdjax.types import Array, Given, Net, Weights

ACCURACY = {
    "allowed": Setting(0.02, "fall of accuracy that is accepted where one is chosen", "fraction", low=0.0, high=1.0),
    "relative": Setting(False, "a change by less than that share of the accuracy, up or down, is accepted"),
}
"""What `accepted` reads."""

SETTINGS = {
    "choose": Setting(
        "fixed",
        "the threshold as it is set; or the best of several up to it, by accuracy on held-out rows or by ASR on the "
        "test set",
        choices=("fixed", "valid", "test"),
    ),
    "tried": Setting(19, "thresholds tried where one is chosen, evenly spaced, the last as it is set", low=2),
    **ACCURACY,
}
"""For cards, which say in `more_needs` what `MORE_NEEDS` says."""

MORE_NEEDS = {"choose=valid": ("valid",), "choose=test": ("test", "queries", "target")}

BENCHMARK = {"choose": "test", "allowed": 0.1, "relative": True}
"""For presets: what the reference benchmark does."""

ROUNDING = 1e-6  # of an accuracy: a fall of exactly two points is one of at most two


def towards(mildest: float, strongest: Array, tried: int) -> Array:
    """Strengths float (tried,), evenly spaced, that end with `strongest` ()."""
    return strongest + (mildest - strongest) * jnp.linspace(1, 0, tried)


def accepted(relative: bool, before: Array, after: Array, allowed: Array) -> Array:
    """Whether accuracies `after`, where it was `before` (), are acceptable, bool of their shape."""
    if relative:
        return jnp.abs(after - before) < allowed * before
    return before - after <= allowed + ROUNDING


def strongest(
    net: Net, given: Given, strengths: Array, prune: Callable[[Array], Weights], choose: str, relative: bool
) -> Weights:
    """The weights under the strength that is chosen.

    Args:
        net: the network.
        given: with `victim`, and what `MORE_NEEDS` says; reads `allowed`.
        strengths: float or int (n,), from the mildest on.
        prune: strength () -> weights.
        choose: "fixed" for the last of them; "valid" for the last that is accepted; "test" for that of the lowest ASR
            below the victim's among those accepted, the first of equals. Where none will do, the victim as it is.
        relative: for `accepted`.
    """
    if choose == "fixed":
        return prune(strengths[-1])

    def rates(weights: Weights) -> dict[str, Array]:
        if choose == "valid":
            return {"acc": metrics.accuracy(net, weights, given.valid)}
        return metrics.rates(metrics.counts(net, weights, given.test, given.queries, given.target))

    before, after = rates(given.victim), jax.lax.map(lambda strength: rates(prune(strength)), strengths)
    good = accepted(relative, before["acc"], after["acc"], given.settings["allowed"])
    if choose == "test":
        good = good & (after["asr"] < before["asr"])
        best = jnp.argmin(jnp.where(good, after["asr"], jnp.inf))
    else:
        best = jnp.max(jnp.where(good, jnp.arange(strengths.size), 0))
    return jax.tree.map(partial(jnp.where, jnp.any(good)), prune(strengths[best]), given.victim)
