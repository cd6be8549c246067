"""Training as pure pieces: losses, schedules, the procedure that most methods are a variant of, and `fit`."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bdjax import optimizers, recipes
from bdjax.keys import stream
from bdjax.types import Array, Batch, Given, Key, Net, Procedure, PyTree, Source, Trained, Weights


def steps_per_epoch(size: int, batch: int, drop_last: bool = False) -> int:
    """Steps in an epoch over `size` rows; a batch is never larger than the source."""
    batch = min(batch, size)
    return size // batch if drop_last else -(-size // batch)


def shuffled(key: Key, size: int, batch: int, drop_last: bool = False) -> Array:
    """A random order of the rows 0 to size - 1, int32 (steps, batch); -1 pads the last batch."""
    steps, batch = steps_per_epoch(size, batch, drop_last), min(batch, size)
    rows = jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))[: steps * batch]
    return jnp.pad(rows, (0, steps * batch - rows.size), constant_values=-1).reshape(steps, batch)


def mean(value: Array, weight: Array) -> Array:
    """The mean of value (b,) over rows by their weight (b,)."""
    return jnp.sum(value * weight) / jnp.sum(weight)


def cross_entropy(logits: Array, label: Array, weight: Array, smoothing: Array | float = 0.0) -> Array:
    """Mean cross-entropy over rows; under smoothing s the label gets 1 - s and each other class s / (K - 1)."""
    logs = jax.nn.log_softmax(logits)
    true = jnp.take_along_axis(logs, label[:, None], axis=1)[:, 0]
    others = jnp.sum(logs, axis=1) - true
    return mean(-(1 - smoothing) * true - smoothing / (logits.shape[1] - 1) * others, weight)


def accuracy(logits: Array, label: Array, weight: Array) -> Array:
    """The share of rows whose largest logit is their label's."""
    return mean((jnp.argmax(logits, axis=1) == label).astype(weight.dtype), weight)


@struct.dataclass
class State:
    """What a supervised procedure carries from step to step."""

    weights: Weights
    optimizer: PyTree
    step: Array  # int32 ()
    slow: Weights | None = None  # of `recipes.looked_ahead`


def loss_gradient(net: Net, weights: Weights, image: Array, batch: Batch, smoothing: Array | float = 0.0):
    """Gradient of the cross-entropy in training mode: (gradients, batch_stats, info)."""

    def loss(params):
        at = weights.replace(params=params)
        logits, batch_stats, _ = net.apply(at, image, train=True, weight=batch.weight)
        return cross_entropy(logits, batch.label, batch.weight, smoothing), (batch_stats, logits)

    (value, (batch_stats, logits)), gradient = jax.value_and_grad(loss, has_aux=True)(weights.params)
    return gradient, batch_stats, {"loss": value, "accuracy": accuracy(logits, batch.label, batch.weight)}


def _plain(net: Net, weights: Weights, image: Array, batch: Batch, given: Given):
    return loss_gradient(net, weights, image, batch, given.settings.get("smoothing", 0.0))


def dataset_augmentation(key: Key, rows: Batch, epoch: Array, given: Given) -> Array:
    """The images of a batch under the dataset's own augmentation."""
    del epoch
    return given.augment(key, rows.image)


def supervised(
    net: Net,
    source: Callable[[Given], Source],
    *,
    epochs: int,
    batch: int,
    schedule: str = "epoch",
    period: int = 0,
    drop_last: bool = False,
    nesterov: bool = False,
    lookahead: int = 0,
    fresh: bool = False,
    augment: bool | Callable = True,
    gradient: Callable = _plain,
) -> Procedure:
    """SGD on labelled rows in training mode; `gradient` is where methods differ.

    Args:
        net: the network.
        source: given -> the rows.
        epochs, batch, schedule, period, drop_last, nesterov, lookahead: see `recipes.VICTIM`.
        fresh: start from a new initialisation, not from the stage before or the victim.
        augment: whether the dataset's augmentation is applied to each batch; or what is, (key, batch, epoch, given) ->
            image.
        gradient: (net, weights, image, batch, given) -> (gradients, batch_stats, info).

    Reads learning_rate and, where they are set, momentum, weight_decay, bias_rate, scale_rate and smoothing from
    `given.settings`.
    """

    augmented = augment if callable(augment) else dataset_augmentation

    def optimizer(given: Given, factor, params: PyTree) -> optax.GradientTransformation:
        settings = given.settings
        learning_rate, decay = settings["learning_rate"] * factor, settings.get("weight_decay", 0.0)
        each = recipes.factors(net, params, settings) if {"bias_rate", "scale_rate"} & set(settings) else None
        return optimizers.sgd(learning_rate, settings.get("momentum", 0.0), decay, nesterov, each)

    def init(key: Key, given: Given, previous: Trained | None) -> State:
        weights = net.init(stream(key, "init")) if fresh else start(given, previous)
        kept = optimizer(given, 0.0, weights.params).init(weights.params)
        return State(weights, kept, jnp.zeros((), jnp.int32), weights if lookahead else None)

    def order(key: Key, state: State, epoch: Array, given: Given) -> Array:
        del state, epoch
        return shuffled(key, source(given).size, batch, drop_last)

    def step(key: Key, state: State, rows: Batch, given: Given):
        steps, old = steps_per_epoch(source(given).size, batch, drop_last), state.weights.params
        image = augmented(stream(key, "augment"), rows, state.step // steps, given) if augment else rows.image
        gradients, batch_stats, info = gradient(net, state.weights, image, rows, given)
        rule = optimizer(given, recipes.rate(state.step, steps, epochs, schedule, period), old)
        updates, kept = rule.update(gradients, state.optimizer, old)
        weights, slow, step = Weights(optax.apply_updates(old, updates), batch_stats), None, state.step + 1
        if lookahead:
            slow, weights = recipes.looked_ahead(state.slow, weights, step, epochs * steps, lookahead)
        return State(weights, kept, step, slow), info

    def finish(key: Key, state: State, given: Given) -> Trained:
        del key, given
        return Trained(state.weights)

    return Procedure(source, epochs, init, order, step, finish)


def start(given: Given, previous: Trained | None) -> Weights:
    """Where a stage that does not start anew begins: what the stage before it left, else the victim."""
    return given.victim if previous is None else previous.weights


def begin(procedure: Procedure, key: Key, given: Given, previous) -> tuple[PyTree, dict[str, Array]]:
    """The state before the first step, and sums of its infos at zero."""
    state = procedure.init(stream(key, "init"), given, previous)

    def first(state: PyTree):
        rows = procedure.order(key, state, jnp.int32(0), given)
        return procedure.step(key, state, procedure.source(given).read(rows[0]), given)[1]

    info = jax.eval_shape(first, state)
    return state, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), info)


def steps_in(procedure: Procedure, state: PyTree, given: Given) -> int:
    """Steps in each epoch of a procedure, without computing any."""
    order = partial(procedure.order, jax.random.key(0))
    return jax.eval_shape(lambda state: order(state, jnp.int32(0), given), state).shape[0]


def advance(procedure: Procedure, key: Key, carry, given: Given, epoch: Array, start: Array, stop: Array):
    """Steps `start` to `stop` of an epoch, all three traced or not; sums of infos begin anew with each epoch.

    carry is (state, sums) as `begin` makes it, and so is what is returned.
    """
    state, sums = carry
    source = procedure.source(given)
    rows = procedure.order(jax.random.fold_in(stream(key, "order"), epoch), state, epoch, given)
    base = jax.random.fold_in(stream(key, "step"), epoch)

    def body(index: Array, carry):
        state, info = procedure.step(jax.random.fold_in(base, index), carry[0], source.read(rows[index]), given)
        return state, jax.tree.map(jnp.add, carry[1], info)

    sums = jax.tree.map(lambda leaf: jnp.where(start == 0, 0, leaf).astype(leaf.dtype), sums)
    return jax.lax.fori_loop(start, stop, body, (state, sums))


def finish(procedure: Procedure, key: Key, state: PyTree, given: Given) -> Trained:
    """What the procedure hands on."""
    return procedure.finish(stream(key, "finish"), state, given)


def fit(key: Key, procedure: Procedure, given: Callable[[PyTree], Given], operands: PyTree, previous=None) -> Trained:
    """One procedure run to its end in one compiled program, for surrogates and notebooks.

    Args:
        key: the run's key.
        procedure: what to run.
        given: operands -> Given, called inside the trace so that data are arguments of the program.
        operands: the arrays that `given` closes over.
        previous: as for `Procedure.init`.
    """

    def run(operands: PyTree, previous) -> Trained:
        door = given(operands)
        carry = begin(procedure, key, door, previous)
        steps = steps_in(procedure, carry[0], door)

        def epoch(index: Array, carry):
            return advance(procedure, key, carry, door, index, 0, steps)

        carry = jax.lax.fori_loop(0, procedure.epochs, epoch, carry)
        return finish(procedure, key, carry[0], door)

    return jax.jit(run)(operands, previous)
