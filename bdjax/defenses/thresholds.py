"""How strong to prune: on the defender's own held-out rows, or, as the reference benchmark does, on the test set.

Pruning defenses come with a threshold that decides between clean accuracy and safety. Theirs is the strongest that
loses at most two points of accuracy on `valid`. The benchmark reads the test set: the lowest attack success rate among
those thresholds that lose less than a tenth of the accuracy; whoever does that is an oracle.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bdjax import metrics
from bdjax.cards import Setting
from bdjax.types import Array, Given, Net, Weights

SETTINGS = {
    "choose": Setting(
        "valid", "strength by accuracy on held-out rows, or by ASR on the test set", choices=("valid", "test")
    ),
    "allowed": Setting(0.02, "fall of held-out accuracy that is accepted", "fraction", low=0.0, high=1.0),
}
"""For cards, which say in `more_needs` what `MORE_NEEDS` says."""

NEEDS = ("valid",)
MORE_NEEDS = {"choose=test": ("test", "queries", "target")}

BENCHMARK_LOSS = 0.1  # of the accuracy before, relative


def strongest(net: Net, given: Given, strengths: Array, prune: Callable[[Array], Weights], choose: str) -> Weights:
    """The weights under the strength that is chosen; those of the victim where none will do.

    Args:
        net: the network.
        given: with `victim`, `valid` and, for choose "test", `test`, `queries` and `target`; reads `allowed`.
        strengths: float or int (n,), from the mildest on.
        prune: strength () -> weights.
        choose: "valid" or "test".
    """
    if choose == "test":
        best = _benchmark(net, given, strengths, prune)
    else:
        before = metrics.accuracy(net, given.victim, given.valid)
        after = jax.lax.map(lambda strength: metrics.accuracy(net, prune(strength), given.valid), strengths)
        good = after >= before - given.settings["allowed"]
        best = jnp.max(jnp.where(good, jnp.arange(strengths.size), -1))
    pruned = prune(strengths[best])
    return jax.tree.map(lambda new, old: jnp.where(best < 0, old, new), pruned, given.victim)


def _benchmark(net: Net, given: Given, strengths: Array, prune) -> Array:
    """The index with the lowest ASR below the victim's, among those that keep nine tenths of ACC; -1 for none."""

    def rates(weights: Weights):
        return metrics.rates(metrics.counts(net, weights, given.test, given.queries, given.target))

    before, after = rates(given.victim), jax.lax.map(lambda strength: rates(prune(strength)), strengths)
    kept = jnp.abs(after["acc"] - before["acc"]) < BENCHMARK_LOSS * before["acc"]
    asr = jnp.where(kept & (after["asr"] < before["asr"]), after["asr"], jnp.inf)
    return jnp.where(jnp.isfinite(jnp.min(asr)), jnp.argmin(asr), -1)
