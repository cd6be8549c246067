"""Training by an attacker who changes every batch of clean rows before the classifier learns from it."""

from typing import Protocol

import jax.numpy as jnp

from bdjax.attacks.training import batches
from bdjax.keys import stream
from bdjax.train import leave_weights, supervised
from bdjax.types import Array, Batch, Given, Key, LabelFn, Net, Stage


class AttackFn(Protocol):
    """A batch of clean rows as the classifier learns from it, augmented; key: the step's own.

    `given.carry` has the trigger.
    """

    def __call__(self, key: Key, rows: Batch, given: Given, /) -> Batch: ...


class ChangeFn(Protocol):
    """The images (b, height, width, channels) of a batch, the first `poisoned` int32 () of them with the trigger.

    What follows them may be cover samples. key: the step's own; `given.carry` has the trigger.
    """

    def __call__(self, key: Key, rows: Batch, poisoned: Array, given: Given, /) -> Array: ...


def keep_trigger(key: Key, state, given: Given):
    """The trained weights, and the trigger as it was."""
    return leave_weights(key, state, given).replace(carry=given.carry["trigger"])


def batchwise(net: Net, attack: AttackFn, **recipe) -> Stage:
    """Training from scratch on the clean split; the trigger is handed on as it was.

    recipe: as for `bdjax.train.supervised`.
    """

    def augment(key, rows, _epoch, given):
        return attack(key, rows, given)

    hooks = {"augment": augment, "leave": keep_trigger}
    return supervised(net, lambda given: given.whole, fresh=True, **hooks, **recipe)


def poison_batches(
    net: Net, goal: LabelFn, change: ChangeFn, *, rounding, augmentation, crop, flip, interpolation, fill, **recipe
) -> Stage:
    """`batchwise` on batches whose first rows are triggered and relabelled; all are augmented after that.

    The settings are those of `batches.BATCHES`.
    """
    augment = batches.augmentation(augmentation, crop, flip, interpolation, fill)

    def attack(key: Key, rows: Batch, given: Given) -> Batch:
        poisoned = batches.share(stream(key, "share"), batches.ratio(given), jnp.sum(rows.weight), rounding)
        label = jnp.where(jnp.arange(rows.row.size) < poisoned, goal(rows.label), rows.label)
        rows = rows.replace(image=change(key, rows, poisoned, given), label=label)
        return rows.replace(image=augment(stream(key, "augment"), rows, given))

    return batchwise(net, attack, **recipe)
