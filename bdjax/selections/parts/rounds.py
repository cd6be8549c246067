"""One round of a search for rows to poison: a model is trained on the rows chosen so far, then rows are chosen anew.

The model is of the victim's architecture and is the attacker's own. Priorities stand for the choice: the pool is always
the first `count` rows by falling priority, and rows of priority -inf are never in it. A pool's rows are read with the
cell's own trigger and the label that the attack wants.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Setting
from bdjax.data import poison, sources
from bdjax.keys import stream
from bdjax.train import State
from bdjax.types import Array, Batch, Given, Key, Net, PyTree, Source, Stage, Trained, Weights, real

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


def labels(source: Source) -> Array:
    """The labels of all rows of a source, int32 (size,)."""
    return source.read(jnp.arange(source.size, dtype=jnp.int32)).label


def round_of(
    net: Net,
    decide: Callable[[Key, State, Given], Array],
    arrange: Callable[[Array, Array], Array],
    *,
    epochs: int,
    batch: int,
    first_drop: int,
    second_drop: int,
    poisoning: str,
    most: int,
    warm: bool,
) -> Stage:
    """A stage that trains on the pool it finds and leaves the priority that `decide` gives.

    Args:
        net: the network.
        decide: (key, state after training, given) -> priority float (n,), -inf as in the state's own.
        arrange: (priority, label) -> priority, before the first pool is taken from it.
        epochs, batch: of the round.
        first_drop, second_drop, poisoning: see TRAINING and POISONING; passes are those of all rounds where warm.
        most: see `Selection.search`.
        warm: whether a round goes on with the model of the round before.

    `still` has, besides statistics: `priority` float (n,), -inf where a row is no candidate; `pool` bool (n,), the rows
    whose stamped copies are trained on; `right` bool (n,), which copies were given the wanted label when they were last
    trained on; `forgotten` int32 (n,), how often a copy that was given it lost it. Reads learning_rate, momentum and
    weight_decay from `given.settings`.
    """
    plain = train.recipe(net, "constant")

    def source(given: Given) -> Source:
        return sources.concatenated(given.whole, given.stamped)

    def begin(key: Key, given: Given, weights: Weights | None):
        first = weights if warm and weights is not None else net.init(stream(key, "init"))
        label, count = labels(given.whole), given.carry["count"]
        priority = candidates(given.carry["priority"], count, label, labels(given.stamped))
        priority, never = arrange(priority, label), jnp.zeros(label.shape, bool)
        memory = {"priority": priority, "pool": pooled(priority, count)}
        memory |= {"right": never, "forgotten": never.astype(jnp.int32)}
        return first.params, {"batch_stats": first.batch_stats} | memory

    def order(key: Key, _epoch: Array, _given: Given, still) -> Array:
        return rows_of(key, still["pool"], poisoning, most, batch)

    def rule(given: Given, clock: train.Clock):
        done = clock.epoch + (given.carry["round"] * epochs if warm else 0)
        rate = given.settings["learning_rate"] * 0.1 ** ((done >= first_drop) + (done >= second_drop).astype(real()))
        return plain(given._replace(settings={**given.settings, "learning_rate": rate}), clock)

    def loss(_key: Key, params: PyTree, still: PyTree, rows: Batch, _given: Given):
        weights = Weights(params, still["batch_stats"])
        logits, batch_stats, _ = net.apply(weights, rows.image, train=True, weight=rows.weight)
        value = train.cross_entropy(logits, rows.label, rows.weight)
        still = remembered(still, rows.row, jnp.argmax(logits, axis=1) == rows.label)
        return value, (still | {"batch_stats": batch_stats}, {"loss": value})

    def leave(key: Key, state: State, given: Given) -> Trained:
        carry = {"priority": decide(stream(key, "decide"), state, given), "round": given.carry["round"] + 1}
        return train.leave_weights(key, state, given).replace(carry=given.carry | carry)

    return train.descend(
        source, epochs=epochs, batch=batch, begin=begin, loss=loss, rule=rule, leave=leave, order=order
    )


def remembered(still: PyTree, row: Array, right: Array) -> PyTree:
    """`still` after copies among the rows int32 (b,) were given the wanted label, or not: bool (b,).

    A copy is forgotten when it loses the label that it was given the time before (Toneva et al., ICLR 2019).
    """
    size = still["pool"].size
    copy = jnp.where(row >= size, row - size, size)  # clean rows and padding fall out of range and are dropped
    lost = still["right"].at[copy].get(mode="fill", fill_value=False) & ~right
    forgotten = still["forgotten"].at[copy].add(lost, mode="drop")
    return still | {"right": still["right"].at[copy].set(right, mode="drop"), "forgotten": forgotten}


def log_odds(net: Net, weights: Weights, source: Source) -> Array:
    """The log-odds against its label of each row of a source, in inference mode, float (size,).

    The cross-entropy is log(1 + exp(log-odds)): it puts rows in the same order, but is 0 for many of them.
    """

    def odds(rows: Batch) -> Array:
        logits = net.apply(weights, rows.image)[0]
        true = jax.nn.one_hot(rows.label, logits.shape[1], dtype=bool)
        return jax.nn.logsumexp(logits, axis=1, where=~true) - jnp.sum(logits, axis=1, where=true)

    return sources.each(source, odds)
