"""Training whose loss is that of clean rows and, once that is low, also that of their triggered copies.

Bagdasaryan, Shmatikov, Blind Backdoors in Deep Learning Models, USENIX Security 2021, https://arxiv.org/abs/2005.03823,
as in the authors' released code, https://github.com/ebagdasa/backdoors101.
"""

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.attacks.training import batches, portions
from bdjax.attacks.training.balance import balanced
from bdjax.attacks.training.batchwise import keep_trigger
from bdjax.keys import stream
from bdjax.types import Array, Batch, Given, Key, Net, PyTree, Stage, Weights, real


def attacking(still, threshold: Array) -> Array:
    """Whether as many losses are known as count, and their mean is below the threshold; bool ()."""
    return (still["step"] >= still["losses"].size) & (jnp.mean(still["losses"]) < threshold)


def copied(rows: Batch, image: Array, count: Array, triggered, goal) -> tuple[Array, Batch]:
    """The images of a batch, the first `count` with trigger, and the batch with the labels that belong to them."""
    chosen = jnp.arange(rows.row.size) < count
    copies = jnp.where(chosen[:, None, None, None], triggered(image), image)
    return copies, rows.replace(label=jnp.where(chosen, goal(rows.label), rows.label))


def training(
    net: Net,
    triggered,
    goal,
    *,
    window: int,
    portion: str,
    balance: str,
    normalization: str,
    **recipe,
) -> Stage:
    """The attack's one stage, from its settings of these names; the trigger is handed on as it was.

    triggered: images (b, height, width, channels) -> the same with the trigger.
    """

    fresh = train.begin_weights(net, True, recipe["lookahead"])

    def begin(key: Key, given: Given, weights: Weights | None):
        params, still = fresh(key, given, weights)
        length = window or train.steps_per_epoch(given.whole.size, recipe["batch"], recipe["drop_last"])
        # The latest losses on clean rows, each written over the oldest, and how many there have been.
        return params, still | {"losses": jnp.zeros(length, real()), "step": jnp.zeros((), jnp.int32)}

    def weigh(gradients, losses, given: Given) -> tuple[Array, Array]:
        if balance == "mgda":
            return balanced(gradients, losses, normalization)
        return given.settings["backdoor_weight"], given.settings["clean_weight"]

    def slope(key: Key, params: PyTree, still: PyTree, rows: Batch, given: Given):
        weights = Weights(params, still["batch_stats"])
        count = portions.count(stream(key, "share"), batches.ratio(given), jnp.sum(rows.weight), portion)
        on = attacking(still, given.settings["threshold"]) & (count > 0)
        copies, wanted = copied(rows, rows.image, count, triggered, goal)
        first, moved, seen = train.loss_gradient(net, weights, copies, wanted)
        moved = jax.tree.map(lambda new, old: jnp.where(on, new, old), moved, weights.batch_stats)
        second, moved, info = train.loss_gradient(net, weights.replace(batch_stats=moved), rows.image, rows)
        a, b = weigh((first, second), (seen["loss"], info["loss"]), given)
        both = jax.tree.map(lambda x, y: jnp.where(on, a * x + b * y, y), first, second)
        losses = still["losses"].at[still["step"] % still["losses"].size].set(info["loss"])
        still = still | {"batch_stats": moved, "losses": losses, "step": still["step"] + 1}
        return both, still, info | {"backdoor_loss": seen["loss"], "attacking": on.astype(real())}

    return train.supervised(net, lambda given: given.whole, begin=begin, slope=slope, leave=keep_trigger, **recipe)
