"""Passes over rows as stages, which the engine can stop and resume."""

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.data import sources
from bdjax.keys import stream
from bdjax.types import Given, Key, PyTree, SourceFn, Stage, Trained


def summed(source: SourceFn, measure, batch: int = 256) -> Stage:
    """A stage that reads every row of a source once and carries sums; the weights stay.

    measure: (key, weights, rows, given) -> dict of arrays; key: one for all rows, as `ScoreFn` has it.
    """

    def init(key: Key, given: Given, weights) -> PyTree:
        key, weights = stream(key, "measure"), train.start(given, weights)
        first = source(given).read(jnp.arange(1, dtype=jnp.int32))
        shapes = jax.eval_shape(lambda rows: measure(key, weights, rows, given), first)
        sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return {"weights": weights, "key": jax.random.key_data(key), "sums": sums}

    def step(_key: Key, state: PyTree, rows, given: Given):
        key = jax.random.wrap_key_data(state["key"], impl="threefry2x32")
        found = measure(key, state["weights"], rows, given)
        return state | {"sums": jax.tree.map(jnp.add, state["sums"], found)}, {"rows": jnp.sum(rows.weight)}

    return Stage(
        source,
        1,
        init,
        lambda _key, _state, _epoch, given: sources.in_turn(source(given).size, batch),
        step,
        lambda _key, state, _given: Trained(state["weights"], state["sums"]),
    )
