"""MM-BM: bound the activations of early layers from above, as low as the logits of clean images allow.

Wang, Xiang, Miller, Kesidis, MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor Pattern Types
Using a Maximum Margin Statistic, IEEE S&P 2024, arXiv:2205.06900, the mitigation: bounds Z of whole channels descend
the mean squared difference of bounded and original logits, plus c sum |Z|_2 over layers. c rises while the accuracy
holds and falls where it does not. The network stays as it is.
"""

import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.defenses.parts.bounding import activations, bounded, stage_inputs, with_bounds
from bdjax.defenses.parts.thresholds import accepted
from bdjax.keys import stream
from bdjax.models.parts.taps import shapes
from bdjax.types import Trained, real

CARD = Card(
    name="mm_bm",
    title="MM-BM",
    citation="Wang, Xiang, Miller, Kesidis, MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor "
    "Pattern Types Using a Maximum Margin Statistic, IEEE S&P 2024, arXiv:2205.06900",
    year=2024,
    version=1,
    kind="bounds on activations",
    stage="post-training",
    needs=("clean", "victim"),
    changes="activations are cut at upper bounds; the network's own weights stay as they are",
    settings={
        "stages": Setting(3, "stages whose inputs are bounded, from the first on; 0: all activations", "stages", low=0),
        "start": Setting(8.0, "every bound at the start", "activation"),
        "largest_start": Setting(False, "start from the largest activation of the layer on the rows instead"),
        "correct_rows": Setting(True, "use only rows that the victim classifies correctly"),
        "augment": Setting(False, "whether images are augmented"),
        "epochs": Setting(50, "passes over the rows", "epochs", low=1),
        "batch": Setting(200, "rows a step; the whole clean set where that is smaller", "rows", low=1),
        "learning_rate": Setting(0.1, "constant learning rate of Adam", low=0.0),
        "penalty": Setting(0.5, "c at the start, weight of the norms of the bounds", low=0.0),
        "factor": Setting(1.2, "what c is multiplied or divided by", low=0.0),
        "first": Setting(20, "the first epoch after which c changes, counted from 0", "epochs", low=0),
        "period": Setting(10, "c changes after epochs that are multiples of this number", "epochs", low=1),
        "allowed": Setting(
            0.05, "fall of training accuracy up to which c rises; below 0 it must rise", "fraction", low=-1.0, high=1.0
        ),
    },
    presets={
        "paper": {},
        "benchmark": {
            "stages": 0,
            "largest_start": True,
            "correct_rows": False,
            "augment": True,
            "batch": 256,
            "learning_rate": 1e-3,
            "first": 10,
        },
    },
    departures=(
        "`paper` follows the released code, which bounds three layers of ResNet-18: the inputs of stages 1 to 3. In "
        "other networks these are the last activations before the first convolution of a stage; what passes by on a "
        "shortcut of a pre-activation network is not bounded. `stages=0` bounds all layers.",
        "The released code takes its rows from the test set, 50 a class. Here they are the defender's clean rows.",
        "The reference benchmark has no MM-BM: `benchmark` is that of WhoDunnett/BackdoorBenchmark as it is meant. As "
        "shipped it removes its bounds before it trains them, and its model stays as it was. Its PreActResNet18 is "
        "rectified once more behind a bound, so that bounds below 0 count as 0; here they stay as they are, as in the "
        "released code.",
    ),
)


def make(net, shape, classes, *, stages, largest_start, correct_rows, augment, epochs, batch, first, period):
    """Learning of the bounds, which are then part of the network."""
    del classes
    taps = stage_inputs(net, stages, "mm_bm") if stages else activations(net, "mm_bm")
    found = shapes(net, shape)
    sizes = {tap: found[tap][-1:] for tap in taps}
    bounding = bounded(net, sizes)

    def begin(key, given, _weights):
        def look(rows):
            logits, _, seen = net.apply(given.victim, rows.image)
            largest = {tap: jnp.max(seen[tap], tuple(range(1, seen[tap].ndim))).astype(real()) for tap in taps}
            return jnp.argmax(logits, axis=1) == rows.label, largest

        source = sources.augmented_once(stream(key, "augment"), given.clean, given) if augment else given.clean
        correct, largest = sources.each(source, look)
        used = correct if correct_rows else jnp.ones_like(correct)
        level = {tap: jnp.max(largest[tap]) if largest_start else given.settings["start"] for tap in taps}
        zero = jnp.zeros((), real())
        still = {
            "used": used,
            "before": jnp.mean(correct, where=used, dtype=real()),
            "penalty": given.settings["penalty"],
            "epoch": jnp.zeros((), jnp.int32),
            "correct": zero,
            "rows": zero,
        }
        return {tap: jnp.full(size, level[tap], real()) for tap, size in sizes.items()}, still

    def loss(_key, bounds, still, rows, given):
        wanted = net.apply(given.victim, rows.image)[0]
        logits = bounding.apply(with_bounds(given.victim, bounds), rows.image)[0]
        apart = train.mean(jnp.mean((logits - wanted) ** 2, axis=1), rows.weight)
        norm = sum(optax.safe_norm(bound, 0.0) for bound in bounds.values())
        value = apart + still["penalty"] * norm
        accuracy = train.accuracy(logits, rows.label, rows.weight)
        count = jnp.sum(rows.weight)
        still = still | {"correct": still["correct"] + accuracy * count, "rows": still["rows"] + count}
        return value, (still, {"loss": value, "difference": apart, "norm": norm, "accuracy": accuracy})

    def adapt(_key, _bounds, still, given):
        last = still["epoch"] - 1
        accuracy = still["correct"] / jnp.maximum(still["rows"], 1)
        holds = accepted(False, still["before"], accuracy, given.settings["allowed"])
        factor = jnp.where(holds, given.settings["factor"], 1 / given.settings["factor"])
        changed = jnp.where((last >= first) & (last % period == 0), still["penalty"] * factor, still["penalty"])
        zero = jnp.zeros((), real())
        return still | {"penalty": changed, "epoch": still["epoch"] + 1, "correct": zero, "rows": zero}

    def leave(_key, state, given):
        return Trained(with_bounds(given.victim, state.moving), {"penalty": state.still["penalty"]})

    return (
        train.descend(
            lambda given: given.clean,
            epochs=epochs,
            batch=batch,
            begin=begin,
            loss=loss,
            rule=train.adam(),
            leave=leave,
            order=lambda key, _epoch, _given, still: train.chosen(key, still["used"], batch),
            renew=adapt,
            augment=augment,
            wrap=lambda net: bounded(net, sizes),
        ),
    )


MM_BM = Method(CARD, make)
