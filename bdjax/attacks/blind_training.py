"""Training whose loss is that of clean rows and, once that is low, also that of their triggered copies.

Bagdasaryan, Shmatikov, Blind Backdoors in Deep Learning Models, USENIX Security 2021, https://arxiv.org/abs/2005.03823,
as in the authors' released code, https://github.com/ebagdasa/backdoors101.
"""

import jax
import jax.numpy as jnp
from flax import struct

from bdjax import train
from bdjax.attacks import batches, portions
from bdjax.attacks.balance import balanced
from bdjax.keys import stream
from bdjax.types import Array, Batch, Given, Key, Net, Poison, Procedure, PyTree, Trained, Weights, real


@struct.dataclass
class Blinding:
    """What such training carries."""

    fit: train.State
    losses: Array  # (window,): the latest losses on clean rows, each written over the oldest
    ratio: Array  # (): share of rows to trigger
    trigger: PyTree


def attacking(state: Blinding, threshold: Array) -> Array:
    """Whether as many losses are known as count, and their mean is below the threshold; bool ()."""
    return (state.fit.step >= state.losses.size) & (jnp.mean(state.losses) < threshold)


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
) -> Procedure:
    """The attack's one stage, from its settings of these names; the trigger is handed on as it was.

    triggered: images (b, height, width, channels) -> the same with the trigger.
    """

    def classifier(gradient=None) -> Procedure:
        hook = {} if gradient is None else {"gradient": gradient}
        return train.supervised(net, lambda given: given.clean, fresh=True, **recipe, **hook)

    plain = classifier()

    def init(key: Key, given: Given, previous: Poison) -> Blinding:
        length = window or train.steps_per_epoch(given.clean.size, recipe["batch"], recipe["drop_last"])
        fit = plain.init(key, given, None)
        return Blinding(fit, jnp.zeros(length, real()), batches.ratio(previous), previous.trigger)

    def order(key: Key, state: Blinding, epoch: Array, given: Given) -> Array:
        return plain.order(key, state.fit, epoch, given)

    def weigh(gradients, losses, given: Given) -> tuple[Array, Array]:
        if balance == "mgda":
            return balanced(gradients, losses, normalization)
        return given.settings["backdoor_weight"], given.settings["clean_weight"]

    def step(key: Key, state: Blinding, rows: Batch, given: Given):
        count = portions.count(stream(key, "share"), state.ratio, jnp.sum(rows.weight), portion)
        on = attacking(state, given.settings["threshold"]) & (count > 0)

        def gradient(net: Net, weights: Weights, image: Array, rows: Batch, given: Given):
            copies, wanted = copied(rows, image, count, triggered, goal)
            first, moved, seen = train.loss_gradient(net, weights, copies, wanted)
            moved = jax.tree.map(lambda new, old: jnp.where(on, new, old), moved, weights.batch_stats)
            second, moved, info = train.loss_gradient(net, weights.replace(batch_stats=moved), image, rows)
            a, b = weigh((first, second), (seen["loss"], info["loss"]), given)
            both = jax.tree.map(lambda x, y: jnp.where(on, a * x + b * y, y), first, second)
            return both, moved, info | {"backdoor_loss": seen["loss"], "attacking": on.astype(real())}

        fit, info = classifier(gradient).step(key, state.fit, rows, given)
        losses = state.losses.at[state.fit.step % state.losses.size].set(info["loss"])
        return state.replace(fit=fit, losses=losses), info

    def finish(key: Key, state: Blinding, given: Given) -> Trained:
        del key, given
        return Trained(state.fit.weights, state.trigger)

    return Procedure(plain.source, plain.epochs, init, order, step, finish)
