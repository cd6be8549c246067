"""Clean accuracy (ACC), attack success rate (ASR), robust and cross accuracy, and defense effectiveness (DER).

ACC counts all clean test images. ASR and RA (robust accuracy) count the triggered images that the attack would have to
move, those with goal(label) != label: ASR the share that is given the attacker's label, RA the share that keeps its
true one. Wu et al., BackdoorBench, NeurIPS 2022; DER: Zhu et al., FT-SAM, ICCV 2023, equation 7. Cross accuracy is the
share of all test images that keep their true label under what only resembles the trigger: Nguyen, Tran, Input-Aware
Dynamic Backdoor Attack, NeurIPS 2020.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.data import sources
from bdjax.data.images import check_labeled
from bdjax.data.poison import counted
from bdjax.types import Array, Batch, Data, Net, Source, Weights

BATCH = 256


def counts(
    net: Net,
    weights: Weights,
    clean: Source,
    triggered: Source,
    goal,
    crossed: Source | None = None,
    batch: int = BATCH,
) -> dict[str, Array]:
    """Sums over the rows of sources with their true labels, as int32 ().

    triggered: usually the rows of `clean` with the trigger; a label of -1 says that the true one is not known.

    Returns:
        images, correct: over `clean`; counted, hit, known (of those counted, with a true label), kept: over
        `triggered`; and crossed over the source of that name, if there is one. They add over shards of the rows.
    """

    def right(rows: Batch) -> Array:
        return (jnp.argmax(net.apply(weights, rows.image)[0], axis=1) == rows.label) & (rows.row >= 0)

    def plain(rows: Batch) -> dict[str, Array]:
        found = {"images": rows.row >= 0, "correct": right(rows)}
        return summed(found | ({} if crossed is None else {"crossed": right(crossed.read(rows.row))}))

    def stamped(rows: Batch) -> dict[str, Array]:
        moved = counted(rows.label, goal) & (rows.row >= 0)
        given = jnp.argmax(net.apply(weights, rows.image)[0], axis=1)
        kept, hit = (given == rows.label) & moved, (given == goal(rows.label)) & moved
        return summed({"counted": moved, "hit": hit, "known": moved & (rows.label >= 0), "kept": kept})

    def summed(found: dict[str, Array]) -> dict[str, Array]:
        return {name: jnp.sum(value, dtype=jnp.int32) for name, value in found.items()}

    return sources.total(clean, plain, batch) | sources.total(triggered, stamped, batch)


def accuracy(net: Net, weights: Weights, source: Source, batch: int = BATCH) -> Array:
    """The share of a source's rows that are given their label, float ()."""

    def right(rows: Batch) -> Array:
        given = jnp.argmax(net.apply(weights, rows.image)[0], axis=1)
        return jnp.sum((given == rows.label) * rows.weight)

    return sources.total(source, right, batch) / source.size


def rates(sums: dict[str, Array]) -> dict[str, Array]:
    """acc, asr and ra as fractions from the sums of `counts`, and cross where that was counted."""
    found = {
        "acc": sums["correct"] / sums["images"],
        "asr": sums["hit"] / sums["counted"],
        "ra": sums["kept"] / sums["known"],
    }
    return found | ({"cross": sums["crossed"] / sums["images"]} if "crossed" in sums else {})


def der(acc_before, asr_before, acc_after, asr_after):
    """Defense effectiveness in [0, 1]: half of 1 plus the fall of ASR minus the fall of ACC, neither below 0."""
    fall = np.maximum(0, asr_before - asr_after) - np.maximum(0, acc_before - acc_after)
    return (fall + 1) / 2


def evaluate(
    net: Net | Callable[[Weights, Array], Array],
    weights: Weights,
    data: Data,
    *,
    stamp: Callable[[Array], Array],
    goal: Callable[[Array], Array],
) -> dict[str, float]:
    """Score your own model under your own trigger.

    Args:
        net: a Net, or a function (weights, image float (b, height, width, channels) in [0, 1]) -> logits (b, classes).
        weights: whatever `net` takes.
        data: test images uint8 (n, height, width, channels) and labels (n,).
        stamp: one image (height, width, channels) in [0, 1] -> the triggered image.
        goal: label -> the label that the attacker wants; images with goal(label) == label do not count.

    Returns:
        acc, asr, ra as fractions; asr and ra NaN where no image counts.

    Raises:
        InvalidInput: the images are not uint8 of four dimensions or their number is not that of the labels.
    """
    image, label = jnp.asarray(data.image), jnp.asarray(data.label, jnp.int32)
    check_labeled("evaluate", image, label)
    if not isinstance(net, Net):
        logits = net
        net = Net(None, lambda weights, image: (logits(weights, image), {}, {}), ())

    def score(weights: Weights, image: Array, label: Array) -> dict[str, Array]:
        clean = sources.split(Data(image, label))
        triggered = sources.mapped(clean, lambda batch: batch.replace(image=jax.vmap(stamp)(batch.image)))
        return rates(counts(net, weights, clean, triggered, goal))

    return {name: float(value) for name, value in jax.jit(score)(weights, image, label).items()}
