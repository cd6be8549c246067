"""Training by an attacker who changes every batch of clean rows before the classifier learns from it."""

from collections.abc import Callable

from flax import struct

from bdjax.attacks import batches
from bdjax.train import State, supervised
from bdjax.types import Array, Batch, Given, Key, Net, Poison, Procedure, PyTree, Trained


@struct.dataclass
class Attacking:
    """What such training carries: the classifier's own state, and what the attacker fixed before it began."""

    fit: State
    ratio: Array  # (): share of rows to poison
    trigger: PyTree


def batchwise(net: Net, attacked: Callable[..., Batch], **recipe) -> Procedure:
    """Training from scratch on the clean split; the trigger is handed on as it was.

    Args:
        net: the classifier.
        attacked: (key, state, rows, given) -> rows, which reads `ratio` and `trigger` from an `Attacking`, and draws
            its own augmentation.
        recipe: as for `bdjax.train.supervised`.
    """
    plain = supervised(net, lambda given: given.clean, fresh=True, augment=False, **recipe)

    def init(key: Key, given: Given, previous: Poison) -> Attacking:
        ratio = batches.ratio(previous)
        return Attacking(plain.init(key, given, None), ratio, previous.trigger)

    def order(key: Key, state: Attacking, epoch: Array, given: Given) -> Array:
        return plain.order(key, state.fit, epoch, given)

    def step(key: Key, state: Attacking, rows: Batch, given: Given):
        fit, info = plain.step(key, state.fit, attacked(key, state, rows, given), given)
        return state.replace(fit=fit), info

    def finish(key: Key, state: Attacking, given: Given) -> Trained:
        del key, given
        return Trained(state.fit.weights, state.trigger)

    return Procedure(plain.source, plain.epochs, init, order, step, finish)
