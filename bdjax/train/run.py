"""Running a stage: how it begins, the steps of an epoch in any pieces, how it ends, and all of it at once."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from bdjax.keys import stream
from bdjax.types import Array, Batches, Given, Key, PyTree, Stage, Trained, Weights


def begin(stage: Stage, key: Key, given: Given, weights: Weights | None) -> tuple[PyTree, dict[str, Array]]:
    """The state before the first step, and sums of its infos at zero."""
    state = stage.init(stream(key, "init"), given, weights)

    def first(state: PyTree):
        rows = stage.order(key, state, jnp.int32(0), given)
        return stage.step(key, state, _read(stage, given, rows, 0), given)[1]

    info = jax.eval_shape(first, state)
    return state, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), info)


def _read(stage: Stage, given: Given, rows: Batches, index) -> Batches:
    source = stage.source(given)
    if isinstance(source, dict):
        return {name: source[name].read(rows[name][index]) for name in source}
    return source.read(rows[index])


def steps_in(stage: Stage, state: PyTree, given: Given) -> int:
    """Steps in each epoch of a stage, without computing any."""
    order = partial(stage.order, jax.random.key(0))
    shapes = jax.eval_shape(lambda state: order(state, jnp.int32(0), given), state)
    return jax.tree.leaves(shapes)[0].shape[0]


def advance(stage: Stage, key: Key, carry, given: Given, epoch: Array, start: Array, stop: Array):
    """Steps `start` to `stop` of an epoch, all three traced or not; sums of infos begin anew with each epoch.

    carry is (state, sums) as `begin` makes it, and so is what is returned. One call and many for the same steps give
    the same, for what the order of rows depends on changes only where an epoch begins.
    """
    state, sums = carry
    if stage.renew is not None:
        fresh = jax.random.fold_in(stream(key, "renew"), epoch)
        state = jax.lax.cond(
            start == 0, lambda state: stage.renew(fresh, state, sums, epoch, given), lambda state: state, state
        )
    rows = stage.order(jax.random.fold_in(stream(key, "order"), epoch), state, epoch, given)
    base = jax.random.fold_in(stream(key, "step"), epoch)

    def body(index: Array, carry):
        batch = _read(stage, given, rows, index)
        state, info = stage.step(jax.random.fold_in(base, index), carry[0], batch, given)
        return state, jax.tree.map(jnp.add, carry[1], info)

    sums = jax.tree.map(lambda leaf: jnp.where(start == 0, 0, leaf).astype(leaf.dtype), sums)
    return jax.lax.fori_loop(start, stop, body, (state, sums))


def finish(stage: Stage, key: Key, state: PyTree, given: Given) -> Trained:
    """What the stage hands on."""
    return stage.finish(stream(key, "finish"), state, given)


def fit(
    key: Key,
    stage: Stage,
    given: Callable[[PyTree], Given],
    operands: PyTree,
    left: Trained | None = None,
    pieces: bool = False,
) -> Trained:
    """One stage run to its end, for surrogates and notebooks.

    Args:
        key: the run's key.
        stage: what to run.
        given: operands -> Given, called inside the trace so that data are arguments of the program.
        operands: the arrays that `given` closes over.
        left: what the stage before left; its carry becomes `given.carry`.
        pieces: whether every epoch is a call of its own, between which a user can interrupt; else all is one program.
    """

    def known(operands: PyTree, left: Trained | None) -> Given:
        found = given(operands)
        return found if left is None else found._replace(carry=left.carry)

    def start(operands: PyTree, left: Trained | None):
        return begin(stage, key, known(operands, left), None if left is None else left.weights)

    def epoch(index: Array, carry, operands: PyTree, left: Trained | None):
        now = known(operands, left)
        return advance(stage, key, carry, now, index, 0, steps_in(stage, carry[0], now))

    def end(state: PyTree, operands: PyTree, left: Trained | None) -> Trained:
        return finish(stage, key, state, known(operands, left))

    def run(operands: PyTree, left: Trained | None) -> Trained:
        carry = start(operands, left)
        carry = jax.lax.fori_loop(0, stage.epochs, lambda index, carry: epoch(index, carry, operands, left), carry)
        return end(carry[0], operands, left)

    if not pieces:
        return jax.jit(run)(operands, left)
    carry, step = jax.jit(start)(operands, left), jax.jit(epoch, donate_argnums=1)
    for index in range(stage.epochs):
        carry = step(jnp.int32(index), carry, operands, left)
    return jax.jit(end)(carry[0], operands, left)
