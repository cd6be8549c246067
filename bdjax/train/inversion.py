"""Trigger inversion: for every class the smallest patch that sends all images there.

Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, Neural Cleanse, IEEE S&P 2019, section IV: a mask m and a pattern r, the
same for all images, descend CE(f((1 - m) x + m r), c) + lambda |m|_1. After every pass a controller doubles lambda
where the trigger has worked for some passes and lowers it by 2^1.5 where it has not, and keeps the smallest mask that
worked.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.types import Array, Given, Net, PyTree, SourceFn, Stage, Trained, real

START = 1e-3  # of lambda
BETAS = (0.5, 0.9)  # of Adam
ENOUGH, BETTER = 0.98, 0.99  # the success that counts; the share of the best norm that is no gain any more
PASSES, PATIENCE = 5, 25  # alike before lambda changes; without a gain before a class ends


class Controller(NamedTuple):
    """Where the search for each of K classes stands, arrays (K, ...)."""

    weight: Array  # float (K,): lambda
    up: Array  # int32 (K,): passes in a row in which the trigger worked
    down: Array  # int32 (K,): in which it did not
    raised: Array  # bool (K,): whether lambda has ever been raised
    lowered: Array  # bool (K,)
    waited: Array  # int32 (K,): passes without a gain
    least: Array  # float (K,): the norm that the gain is measured against
    norm: Array  # float (K,): the smallest mean norm of a pass in which the trigger worked
    mask: Array  # float (K, height, width, 1): as it was then
    pattern: Array  # float (K, height, width, channels)
    stored: Array  # bool (): whether there was a pass
    done: Array  # bool (K,)


def begin_controller(classes: int, shape: tuple[int, int, int]) -> Controller:
    """The controller before the first pass."""
    zero, never = jnp.zeros(classes, jnp.int32), jnp.zeros(classes, bool)
    far, height, width = jnp.full(classes, jnp.inf, real()), *shape[:2]
    blank = jnp.zeros((classes, height, width, 1), real())
    pattern, weight = jnp.zeros((classes, *shape), real()), jnp.full(classes, START, real())
    return Controller(weight, zero, zero, never, never, zero, far, far, blank, pattern, jnp.zeros((), bool), never)


def control(before: Controller, success: Array, norm: Array, mask: Array, pattern: Array) -> Controller:
    """The controller after a pass with a mean success and a mean norm, float (K,), that ended with these triggers."""
    worked = success >= ENOUGH
    better, first = worked & (norm < before.norm), ~before.stored
    keep = (better | first)[:, None, None, None]
    least_norm = jnp.where(better, norm, before.norm)
    gained = least_norm < BETTER * before.least
    waited = jnp.where(jnp.isfinite(least_norm), jnp.where(gained, 0, before.waited + 1), before.waited)
    stop = before.raised & before.lowered & (waited >= PATIENCE)
    up, down = jnp.where(worked, before.up + 1, 0), jnp.where(worked, 0, before.down + 1)
    rise, fall = ~stop & (up >= PASSES), ~stop & (down >= PASSES)
    after = Controller(
        weight=before.weight * jnp.where(rise, 2, jnp.where(fall, 2**-1.5, 1)),
        up=jnp.where(stop, before.up, jnp.where(rise, 0, up)),
        down=jnp.where(stop, before.down, jnp.where(fall, 0, down)),
        raised=before.raised | rise,
        lowered=before.lowered | fall,
        waited=waited,
        least=jnp.minimum(before.least, least_norm),
        norm=least_norm,
        mask=jnp.where(keep, mask, before.mask),
        pattern=jnp.where(keep, pattern, before.pattern),
        stored=jnp.ones((), bool),
        done=before.done | stop,
    )

    def frozen(old: Array, new: Array) -> Array:
        over = before.done.reshape(-1, *[1] * (new.ndim - 1)) if new.ndim else jnp.all(before.done)
        return jnp.where(over, old, new)

    return jax.tree.map(frozen, before, after)


def bounded(free: Array) -> Array:
    """In (0, 1), from what is learned."""
    return jnp.tanh(free) / (2 + 1e-7) + 0.5


def stamp(image: Array, mask: Array, pattern: Array) -> Array:
    """Images (b, height, width, channels) under a mask ([b,] height, width, 1) and a pattern ([b,] height, ...)."""
    return (1 - mask) * image + mask * pattern


def invert(net: Net, shape, classes: int, source: SourceFn, *, epochs: int, batch: int, rate: str) -> Stage:
    """A stage that leaves the victim as it is and carries `mask`, `pattern` and `norm` of every class.

    rate: the name of the setting that is the constant learning rate of Adam.
    """

    def begin(_key, _given, _weights):
        ones = {"mask": jnp.ones((classes, *shape[:2], 1), real()), "pattern": jnp.ones((classes, *shape), real())}
        zero = jnp.zeros(classes, real())
        still = {"control": begin_controller(classes, shape), "success": zero, "norm": zero}
        return ones, still | {"steps": jnp.zeros((), real())}

    def gradient(_key, moving, still, rows, given: Given):
        def of_class(one):
            free, weight, number = one

            def loss(free):
                mask = bounded(free["mask"])
                logits = net.apply(given.victim, stamp(rows.image, mask, bounded(free["pattern"])))[0]
                label = jnp.full_like(rows.label, number)
                length = jnp.sum(jnp.abs(mask))
                success = train.accuracy(logits, label, rows.weight)
                return train.cross_entropy(logits, label, rows.weight) + weight * length, (success, length)

            return jax.grad(loss, has_aux=True)(free)

        slopes, (success, norm) = jax.lax.map(of_class, (moving, still["control"].weight, jnp.arange(classes)))
        sums = {"success": still["success"] + success, "norm": still["norm"] + norm, "steps": still["steps"] + 1}
        running = jnp.mean(~still["control"].done, dtype=real())
        return slopes, still | sums, {"success": jnp.mean(success), "norm": jnp.mean(norm), "running": running}

    def after_pass(moving: PyTree, still: PyTree) -> Controller:
        steps = jnp.maximum(still["steps"], 1)
        triggers = bounded(moving["mask"]), bounded(moving["pattern"])
        after = control(still["control"], still["success"] / steps, still["norm"] / steps, *triggers)
        return jax.tree.map(lambda old, new: jnp.where(still["steps"] > 0, new, old), still["control"], after)

    def renew(_key, moving, still, _given):
        zero = jnp.zeros(classes, real())
        return {"control": after_pass(moving, still), "success": zero, "norm": zero, "steps": jnp.zeros((), real())}

    def leave(_key, state, given):
        found = after_pass(state.moving, state.still)
        norm = jnp.sum(jnp.abs(found.mask), (1, 2, 3))
        return Trained(given.victim, {"mask": found.mask, "pattern": found.pattern, "norm": norm})

    return train.descend(
        source,
        epochs=epochs,
        batch=batch,
        begin=begin,
        gradient=gradient,
        rule=lambda given, clock: optax.adam(given.settings[rate], *BETAS),
        leave=leave,
        renew=renew,
    )


def outliers(norm: Array) -> tuple[Array, Array]:
    """The anomaly index of every class, float (K,), and which are flagged, bool (K,): norms far below the median.

    The index is |n - median| / (1.4826 MAD); a class is flagged where its norm is at most the median and its index
    above 2. Medians are lower ones, as PyTorch's.
    """

    def middle(values: Array) -> Array:
        return jnp.sort(values)[(values.size - 1) // 2]

    apart = jnp.abs(norm - middle(norm))
    index = apart / (1.4826 * middle(apart))
    return index, (norm <= middle(norm)) & (index > 2)
