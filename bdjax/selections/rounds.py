"""One round of a search for rows to poison: a model is trained on the rows chosen so far, then rows are chosen anew.

The model is of the victim's architecture and is the attacker's own. Priorities stand for the choice: the pool is always
the first `count` rows by falling priority, and rows of priority -inf are never in it. A pool's rows are read with the
cell's own trigger and the label that the attack wants.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from bdjax import poison, train
from bdjax.cards import Setting
from bdjax.keys import stream
from bdjax.types import Array, Batch, Given, Key, Net, Procedure, PyTree, Source, Trained, Weights, real

TRAINING = {
    "learning_rate": Setting(0.01, "of the search's model, until the first drop", low=0.0),
    "momentum": Setting(0.9, "of SGD", low=0.0, high=1.0),
    "weight_decay": Setting(5e-4, "coupled L2 on every parameter", low=0.0),
    "first_drop": Setting(35, "passes after which the learning rate falls to a tenth", "epochs", low=0),
    "second_drop": Setting(55, "passes after which it falls to a hundredth", "epochs", low=0),
}
POISONING = Setting(
    "append",
    "in the search, stamped copies of the chosen rows join the clean rows, or replace their originals",
    choices=("append", "replace"),
)
"""Settings that searches share, for cards."""


@struct.dataclass
class Round:
    """What a round carries from step to step."""

    fit: train.State
    priority: Array  # float (n,): -inf where a row is no candidate
    count: Array  # int32 (): rows to poison
    pool: Array  # bool (n,): the rows whose stamped copies are trained on
    right: Array  # bool (n,): which copies were given the wanted label when they were last trained on
    forgotten: Array  # int32 (n,): how often a copy that was given it lost it


def candidates(priority: Array, count: Array, label: Array, wanted: Array) -> Array:
    """The priority float (n,) with -inf for rows that are no candidates.

    Candidates are rows whose label the attack changes, or where those are fewer than `count`, as in clean-label
    attacks, all that it may poison.
    """
    allowed = priority > -jnp.inf
    moved = allowed & (wanted != label)
    return jnp.where(jnp.where(jnp.sum(moved) >= count, moved, allowed), priority, -jnp.inf)


def pooled(priority: Array, count: Array) -> Array:
    """Which rows are the first `count` by falling priority, bool (n,)."""
    return poison.rank(priority, priority > -jnp.inf) < count


def rows_of(key: Key, pool: Array, poisoning: str, most: int, batch: int) -> Array:
    """The rows of one pass in random order, int32 (steps, batch), -1 after the last; copies are numbered from n on.

    The order does not depend on `most`, the largest pool that there must be room for.
    """
    size, batch = pool.size, min(batch, pool.size)
    clean = jnp.ones_like(pool) if poisoning == "append" else ~pool
    member = jnp.concatenate([clean, pool])
    order = jnp.lexsort((jax.random.uniform(key, member.shape, real()), ~member)).astype(jnp.int32)
    order = jnp.where(jnp.arange(2 * size) < jnp.sum(member), order, -1)
    steps = -(-(size + most * (poisoning == "append")) // batch)
    return jnp.pad(order, (0, batch), constant_values=-1)[: steps * batch].reshape(steps, batch)


def passes(step: Array, size: int, count: Array, poisoning: str, batch: int) -> Array:
    """Whole passes over `size` rows and a pool of `count` made after `step` steps that read something."""
    read = size + count * (poisoning == "append")
    return step // -(-read // min(batch, size))


def labels(source: Source) -> Array:
    """The labels of all rows of a source, int32 (size,)."""
    return source.read(jnp.arange(source.size, dtype=jnp.int32)).label


def round_of(
    net: Net,
    decide: Callable[[Key, Round, Given], Array],
    arrange: Callable[[Array, Array], Array],
    *,
    epochs: int,
    batch: int,
    first_drop: int,
    second_drop: int,
    poisoning: str,
    most: int,
    warm: bool,
) -> Procedure:
    """A stage that trains on the pool it finds and leaves the priority that `decide` gives.

    Args:
        net: the network.
        decide: (key, state after training, given) -> priority float (n,), -inf as in the state's own.
        arrange: (priority, label) -> priority, before the first pool is taken from it.
        epochs, batch: of the round.
        first_drop, second_drop, poisoning: see TRAINING and POISONING; passes are those of all rounds where warm.
        most: see `Selection.search`.
        warm: whether a round goes on with the model of the round before.

    Reads learning_rate, momentum and weight_decay from `given.settings`.
    """

    def source(given: Given) -> Source:
        return given.train

    hooks = {"epochs": epochs, "batch": batch, "schedule": "constant", "gradient": _gradient}
    fresh, going = (train.supervised(net, source, fresh=new, **hooks) for new in (True, False))

    def init(key: Key, given: Given, previous: Trained) -> Round:
        goes_on = warm and previous.weights is not None
        fit = (going if goes_on else fresh).init(key, given, previous)
        fit = fit.replace(step=previous.carry["step"]) if goes_on else fit
        label, wanted = jnp.split(labels(given.train), 2)
        count = previous.carry["count"]
        priority = arrange(candidates(previous.carry["priority"], count, label, wanted), label)
        pool, never = pooled(priority, count), jnp.zeros(label.shape, bool)
        return Round(fit, priority, count, pool, right=never, forgotten=never.astype(jnp.int32))

    def order(key: Key, state: Round, epoch: Array, given: Given) -> Array:
        del epoch, given
        return rows_of(key, state.pool, poisoning, most, batch)

    def step(key: Key, state: Round, rows: Batch, given: Given):
        done = passes(state.fit.step, state.pool.size, state.count, poisoning, batch)
        rate = given.settings["learning_rate"] * 0.1 ** ((done >= first_drop) + (done >= second_drop).astype(real()))
        slower = given._replace(settings={**given.settings, "learning_rate": rate})
        fit, info = going.step(key, state.fit, rows, slower)
        after = remembered(state.replace(fit=fit), rows.row, info.pop("right"))
        some = jnp.any(rows.weight > 0)  # a pass over a small pool ends early, and the rest must change nothing
        info = jax.tree.map(lambda leaf: jnp.where(some, leaf, 0), info)
        return jax.tree.map(lambda new, old: jnp.where(some, new, old), after, state), info

    def finish(key: Key, state: Round, given: Given) -> Trained:
        priority = decide(stream(key, "decide"), state, given)
        return Trained(state.fit.weights, {"priority": priority, "count": state.count, "step": state.fit.step})

    return Procedure(source, epochs, init, order, step, finish)


def remembered(state: Round, row: Array, right: Array) -> Round:
    """The state after copies among the rows int32 (b,) were given the wanted label, or not: bool (b,).

    A copy is forgotten when it loses the label that it was given the time before (Toneva et al., ICLR 2019).
    """
    size = state.pool.size
    copy = jnp.where(row >= size, row - size, size)  # clean rows and padding fall out of range and are dropped
    lost = state.right.at[copy].get(mode="fill", fill_value=False) & ~right
    forgotten = state.forgotten.at[copy].add(lost, mode="drop")
    return state.replace(right=state.right.at[copy].set(right, mode="drop"), forgotten=forgotten)


def _gradient(net: Net, weights: Weights, image: Array, rows: Batch, given: Given) -> tuple[PyTree, PyTree, dict]:
    """As for `train.supervised`, and in the info, row by row, whether the label was given."""
    del given

    def loss(params: PyTree):
        logits, batch_stats, _ = net.apply(weights.replace(params=params), image, train=True, weight=rows.weight)
        value = train.cross_entropy(logits, rows.label, rows.weight)
        return value, (batch_stats, {"loss": value, "right": jnp.argmax(logits, axis=1) == rows.label})

    gradient, (batch_stats, info) = jax.grad(loss, has_aux=True)(weights.params)
    return gradient, batch_stats, info


def log_odds(net: Net, weights: Weights, source: Source, first: int, batch: int = 256) -> Array:
    """The log-odds against its label of each row of a source from `first` on, in inference mode, float (size - first,).

    The cross-entropy is log(1 + exp(log-odds)): it puts rows in the same order, but is 0 for many of them.
    """
    count = source.size - first
    batch = min(batch, count)
    rows = first + jnp.arange(-(-count // batch) * batch, dtype=jnp.int32)
    rows = jnp.where(rows < source.size, rows, -1).reshape(-1, batch)

    def odds(row: Array) -> Array:
        read = source.read(row)
        logits = net.apply(weights, read.image)[0]
        true = jax.nn.one_hot(read.label, logits.shape[1], dtype=bool)
        return jax.nn.logsumexp(logits, axis=1, where=~true) - jnp.sum(logits, axis=1, where=true)

    return jax.lax.map(odds, rows).reshape(-1)[:count]
