"""UNIT: bound every neuron's activation from above, ever tighter while the accuracy on held-out rows holds.

Cheng, Shen, Zhang, Tao, An, Guo, Ma, Zhang, UNIT: Backdoor Mitigation via Automated Neural Distribution Tightening,
ECCV 2024, arXiv:2407.11372: bounds start at mean + 4 deviations of each activation over clean rows and descend the
cross-entropy plus cost times the sum over layers of the mean bound. The cost doubles while the accuracy holds. The
tightest bounds of a step with an acceptable accuracy are kept. The network stays as it is.
"""

import jax
import jax.numpy as jnp
import optax

from bdjax import metrics, train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.defenses.parts.bounding import activations, bounded, with_bounds
from bdjax.defenses.parts.thresholds import accepted
from bdjax.keys import stream
from bdjax.models.parts.taps import shapes
from bdjax.types import Array, Net, Source, Trained, Weights, real

CARD = Card(
    name="unit",
    title="UNIT",
    citation="Cheng, Shen, Zhang, Tao, An, Guo, Ma, Zhang, UNIT: Backdoor Mitigation via Automated Neural Distribution "
    "Tightening, ECCV 2024, arXiv:2407.11372",
    year=2024,
    version=1,
    kind="bounds on activations",
    stage="post-training",
    needs=("clean", "valid", "victim"),
    changes="activations are cut at upper bounds; the network's own weights stay as they are",
    settings={
        "steps": Setting(300, "steps, each over all clean rows", "steps", low=1),
        "learning_rate": Setting(0.001, "constant learning rate of Adam, with betas 0.5 and 0.9", low=0.0),
        "deviations": Setting(4.0, "bounds start so far above the mean activation", "standard deviations"),
        "cost": Setting(1e-3, "weight of the bounds at the start; it is set to this again once it is lower", low=0.0),
        "factor": Setting(2.0, "the cost is multiplied by it, or divided by its power of 1.5", low=1.0),
        "patience": Setting(5, "steps in a row with or without enough accuracy that change the cost", "steps", low=1),
        "allowed": Setting(
            0.03, "accepted fall of accuracy on held-out rows; below 0 it must rise", "fraction", low=-1.0, high=1.0
        ),
        "augment": Setting(True, "whether all rows are augmented, once and for all"),
    },
    presets={"paper": {}},
    departures=(
        "Accuracy is measured on the rows that every defense here has for its thresholds; the authors hold out a fifth "
        "of the clean rows.",
        "The airbench network has GELU in place of rectifiers: its outputs are bounded, at 0 or above.",
        "The reference benchmark has no UNIT.",
    ),
)

POWER = 1.5  # of the factor, by which the cost falls


def positive(bounds: dict[str, Array]) -> dict[str, Array]:
    """The bounds as they are used: at least 0."""
    return jax.tree.map(lambda bound: jnp.where(bound >= 0, bound, 0), bounds)


def spread(net: Net, weights: Weights, source: Source, taps: list[str], deviations: Array) -> dict[str, Array]:
    """Mean plus so many standard deviations of each activation over rows, by tap float (height, width, channels)."""

    def summed(function):
        def of_batch(rows):
            seen = net.apply(weights, rows.image)[2]
            values = {tap: function(tap, seen[tap].astype(real())) for tap in taps}
            return jax.tree.map(lambda x: jnp.sum(x * rows.weight.reshape(-1, *[1] * (x.ndim - 1)), 0), values)

        return sources.total(source, of_batch)

    mean = jax.tree.map(lambda total: total / source.size, summed(lambda _tap, x: x))
    squares = summed(lambda tap, x: (x - mean[tap]) ** 2)
    freedom = max(source.size - 1, 1)
    return jax.tree.map(lambda mean, square: mean + deviations * jnp.sqrt(square / freedom), mean, squares)


def control(before: dict[str, Array], good: Array, settings, patience: int) -> dict[str, Array]:
    """The cost and its counters after a step that left enough accuracy, or not.

    before: `cost` float (), and as int32 () `up` and `down`, steps in a row with and without enough accuracy since the
    cost last changed, and `low`, steps in a row with enough while the cost was below its start.
    """
    low = jnp.where((before["cost"] < settings["cost"]) & good, before["low"] + 1, 0)
    reset = low >= patience
    cost = jnp.where(reset, settings["cost"], before["cost"])
    up = jnp.where(good, jnp.where(reset, 0, before["up"]) + 1, 0)
    down = jnp.where(good, 0, before["down"] + 1)
    rises = up >= patience
    falls = down >= patience
    cost = cost * jnp.where(rises, settings["factor"], jnp.where(falls, settings["factor"] ** -POWER, 1))
    return {"cost": cost, "low": low, "up": jnp.where(rises, 0, up), "down": jnp.where(falls, 0, down)}


def make(net, shape, classes, *, steps, patience, augment):
    """Tightening of the bounds, which are then part of the network."""
    del classes
    taps = activations(net, "unit")
    found = shapes(net, shape)
    sizes = {tap: found[tap] for tap in taps}
    bounding = bounded(net, sizes)

    def rows_of(name, frozen, given) -> Source:
        source = getattr(given, name)
        if not augment:
            return source
        key = jax.random.wrap_key_data(frozen, impl="threefry2x32")
        return sources.augmented_once(stream(key, name), source, given)

    def begin(key, given, _weights):
        frozen = jax.random.key_data(stream(key, "augment"))
        bounds = spread(net, given.victim, rows_of("clean", frozen, given), taps, given.settings["deviations"])
        zero = jnp.zeros((), jnp.int32)
        still = {
            "frozen": frozen,
            "before": metrics.accuracy(net, given.victim, rows_of("valid", frozen, given)),
            "best": bounds,
            "least": jnp.full((), jnp.inf, real()),
            "used": bounds,
            "size": jnp.zeros((), real()),
            "control": {"cost": given.settings["cost"], "low": zero, "up": zero, "down": zero},
        }
        return bounds, still

    def gradient(_key, bounds, still, _rows, given):
        used = positive(bounds)
        source = rows_of("clean", still["frozen"], given)

        def of_batch(rows):
            def loss(used):
                logits = bounding.apply(with_bounds(given.victim, used), rows.image)[0]
                return train.cross_entropy(logits, rows.label, rows.weight) * jnp.sum(rows.weight)

            return jax.value_and_grad(loss)(used)

        loss, slope = jax.tree.map(lambda total: total / source.size, sources.total(source, of_batch))
        size = sum(jnp.mean(bound) for bound in used.values())
        cost = still["control"]["cost"]
        slope = jax.tree.map(lambda each, bound: (each + cost / bound.size) * (bound >= 0), slope, bounds)
        return slope, still | {"used": used, "size": size}, {"loss": loss, "size": size, "cost": cost}

    def watch(bounds, still, _rows, given, _clock):
        weights = with_bounds(given.victim, positive(bounds))
        accuracy = metrics.accuracy(bounding, weights, rows_of("valid", still["frozen"], given))
        good = accepted(False, still["before"], accuracy, given.settings["allowed"])
        better = good & (still["size"] < still["least"])
        # As long as no step was acceptable, the last bounds stand in.
        keep = better | jnp.isinf(still["least"])
        best = jax.tree.map(lambda new, old: jnp.where(keep, new, old), still["used"], still["best"])
        least = jnp.where(better, still["size"], still["least"])
        after = control(still["control"], good, given.settings, patience)
        return bounds, still | {"best": best, "least": least, "control": after}

    def leave(_key, state, given):
        return Trained(with_bounds(given.victim, state.still["best"]), {"cost": state.still["control"]["cost"]})

    return (
        train.descend(
            lambda given: sources.numbers(1),
            epochs=1,
            batch=1,
            begin=begin,
            gradient=gradient,
            rule=lambda given, clock: optax.adam(given.settings["learning_rate"], 0.5, 0.9),
            leave=leave,
            order=lambda _key, _epoch, _given, _still: jnp.zeros((steps, 1), jnp.int32),
            full=True,
            project=watch,
            augment=False,
            wrap=lambda net: bounded(net, sizes),
        ),
    )


UNIT = Method(CARD, make)
