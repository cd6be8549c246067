"""Trigger inversion for directions: the smallest patch that sends images of one class, or of all, to another class.

Tao, Liu, Shen, Xu, An, Zhang, Zhang, Model Orthogonalization: Class Distance Hardening in Neural Networks for Better
Security, IEEE S&P 2022, section IV. It is the search of `train.inversion` with other constants, started anew, with
noise, from every trigger that is better than those before, and for the two directions of a pair of classes at once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.keys import stream
from bdjax.train.inversion import BETAS, bounded, stamp
from bdjax.types import Array, Batch, Key, Net, PyTree, Weights, real

PATIENCE, FACTOR, NOISE = 10, 1.5, 0.01  # passes alike before the cost changes, by how much; after a better trigger


class Search(NamedTuple):
    """Where the search for d directions stands that send n rows away."""

    free: PyTree  # `mask` float (d, height, width, 1) and `pattern` (d, height, width, channels), unbounded
    moments: PyTree  # Adam's
    cost: Array  # float (d,): the weight of the mask's norm
    up: Array  # int32 (d,): passes in a row in which the trigger worked
    down: Array  # int32 (d,): in which it did not
    norm: Array  # float (d,): the smallest norm of a trigger that worked, infinite where none did
    best: PyTree  # that trigger, zeros where there is none
    before: Array  # float (n,): the cross-entropy of each row in the first pass
    after: Array  # float (n,): in the pass of the best trigger


def unbounded(triggers: PyTree) -> PyTree:
    """What `bounded` makes these masks and patterns of, cut to [0, 1]."""
    return jax.tree.map(lambda value: jnp.arctanh((jnp.clip(value, 0, 1) - 0.5) * (2 - 1e-7)), triggers)


def control(state: Search, success: Array, norm: Array, triggers: PyTree, surprise: Array, first, enough) -> Search:
    """The search after a pass with mean successes and norms, float (d,), under these triggers.

    surprise: float (n,), the rows' cross-entropy. first: whether it is the first pass. enough: the success that counts.
    """
    worked = success >= enough
    better = worked & (norm < state.norm)
    up, down = jnp.where(worked, state.up + 1, 0), jnp.where(worked, 0, state.down + 1)
    rise, fall = up >= PATIENCE, down >= PATIENCE
    keep = better[:, None, None, None]
    return state._replace(
        cost=state.cost * jnp.where(rise, FACTOR, jnp.where(fall, FACTOR**-1.5, 1)),
        up=jnp.where(rise, 0, up),
        down=jnp.where(fall, 0, down),
        norm=jnp.where(better, norm, state.norm),
        best=jax.tree.map(lambda new, old: jnp.where(keep, new, old), triggers, state.best),
        before=jnp.where(first, surprise, state.before),
        after=jnp.where(jnp.any(better), surprise, state.after),
    )


def restarted(key: Key, free: PyTree, triggers: PyTree, better: Array) -> PyTree:
    """What the next pass starts from: `free`, or where a direction got better these triggers.

    That direction's is moved at random; the last of them only, where both got better, as the released code does.
    """
    last = better & ~jnp.append(better[1:], False)

    def moved(name: str) -> Array:
        value = triggers[name]
        noise = NOISE * jax.random.uniform(stream(key, name), value.shape, value.dtype, -1, 1)
        return value + noise * last[:, None, None, None]

    anew = unbounded({name: moved(name) for name in triggers})
    return jax.tree.map(lambda new, old: jnp.where(jnp.any(better), new, old), anew, free)


def search(
    net: Net,
    batch: int,
    key: Key,
    weights: Weights,
    rows: Batch,
    side: Array,
    begin: PyTree,
    settings,
    steps,
    cost,
    enough,
) -> Search:
    """Triggers for d directions.

    For one direction, mini-batches are all rows in turn and count by their mean; for two, only full ones are taken and
    every row counts by itself, as in the released code.

    Args:
        net: the network.
        batch: rows a mini-batch at most.
        key: of all that is drawn.
        weights: of the network, which are left alone.
        rows: images, with the class that each is sent to as label; of weight 0 those that do not count.
        side: int32 (n,), the direction, below d, that each belongs to.
        begin: `mask` and `pattern` to start with, (d, ...), in [0, 1].
        settings: reads `inversion_rate`.
        steps: passes over the rows, traced or not.
        cost: the weight of a mask's norm at the start.
        enough: the success that counts.
    """
    count = len(begin["mask"])
    total, size = jnp.sum(rows.weight > 0), min(batch, len(side))
    taken = jnp.clip(total, 1, size)
    batches = total // taken if count > 1 else -(-total // taken)
    rule = optax.adam(settings["inversion_rate"], *BETAS)

    def loss(free: PyTree, cost: Array, row: Array, weight: Array):
        triggers = jax.tree.map(bounded, free)
        own = jax.tree.map(lambda value: value[side[row]], triggers)
        logits = net.apply(weights, stamp(rows.image[row], own["mask"], own["pattern"]))[0]
        label, norm = rows.label[row], jnp.sum(triggers["mask"], (1, 2, 3))
        surprise = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        mine = weight * (side[row] == jnp.arange(count)[:, None])
        success = jax.vmap(train.accuracy, (None, None, 0))(logits, label, mine)
        value = jnp.sum(weight * surprise) / (1 if count > 1 else jnp.maximum(jnp.sum(weight), 1))
        return value + jnp.sum(cost * norm), (triggers, success, norm, surprise)

    def one_pass(index: Array, state: Search) -> Search:
        own = jax.random.fold_in(key, index)
        draw = jax.random.uniform(stream(own, "order"), rows.weight.shape, real())
        order = jnp.lexsort((draw, rows.weight == 0))

        def step(number: Array, carry):
            free, moments, _, success, norm, surprise = carry
            place = number * taken + jnp.arange(size)
            here = (jnp.arange(size) < taken) & (place < total)
            row = order[jnp.minimum(place, len(order) - 1)]
            slope, (triggers, *more) = jax.grad(loss, has_aux=True)(free, state.cost, row, here.astype(draw.dtype))
            updates, moments = rule.update(slope, moments)
            surprise = surprise.at[jnp.where(here, row, len(order))].set(more[2], mode="drop")
            return optax.apply_updates(free, updates), moments, triggers, success + more[0], norm + more[1], surprise

        zero = jnp.zeros(count, real())
        start = state.free, state.moments, state.best, zero, zero, jnp.zeros_like(state.before)
        free, moments, triggers, success, norm, surprise = jax.lax.fori_loop(0, batches, step, start)
        passed = jnp.maximum(batches, 1)
        after = control(state, success / passed, norm / passed, triggers, surprise, index == 0, enough)
        free = restarted(stream(own, "noise"), free, triggers, after.norm < state.norm)
        return after._replace(free=free, moments=moments)

    free, none, zero = unbounded(begin), jnp.zeros(count, jnp.int32), jnp.zeros(len(side), real())
    cost, far = jnp.full(count, cost, real()), jnp.full(count, jnp.inf, real())
    first = Search(free, rule.init(free), cost, none, none, far, jax.tree.map(jnp.zeros_like, begin), zero, zero)
    return jax.lax.fori_loop(0, steps, one_pass, first)
