"""Trigger inversion: for every class the smallest patch that sends all images there.

Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, Neural Cleanse, IEEE S&P 2019, section IV: a mask m and a pattern r, the
same for all images, descend CE(f((1 - m) x + m r), c) + lambda |m|_1. After every pass a controller doubles lambda
where the trigger has worked for some passes and lowers it by 2^1.5 where it has not, and keeps the smallest mask that
worked. Numbers are those of the authors' released code; `BENCHMARK` has those of the reference benchmark.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Setting
from bdjax.keys import stream
from bdjax.types import Array, Given, Net, PyTree, SourceFn, Stage, Trained, real

START = 1e-3  # of lambda
BETAS = (0.5, 0.9)  # of Adam
PASSES, PATIENCE = 5, 25  # alike before lambda changes; without a gain before a class ends

SETTINGS = {
    "enough": Setting(0.99, "success of a pass in which a trigger counts as working", "fraction", low=0.0, high=1.0),
    "strict_gain": Setting(False, "whether a smaller norm is a gain only where it is smaller by a hundredth"),
    "free_start": Setting(True, "whether lambda is 0 until the trigger has worked for five passes in a row"),
    "random_start": Setting(True, "whether masks and patterns begin at random, uniform in [0, 1]; else both at 0.88"),
    "keep": Setting("last", "the mask of a class whose trigger never worked, by pass", choices=("last", "first")),
    "median": Setting(
        "mean", "which the median of an even number of norms is: mean or lower of two", choices=("mean", "lower")
    ),
}
"""For cards. `invert` reads `enough` and takes the others, but median, which is for `outliers`."""

BENCHMARK = {
    "enough": 0.98,
    "strict_gain": True,
    "free_start": False,
    "random_start": False,
    "keep": "first",
    "median": "lower",
}
"""For presets: what the reference benchmark does."""

DEPARTURES = (
    "The authors' code passes the arguments of cross-entropy in the wrong order, so that 16.1 (1 - p) descends in its "
    "place, p the probability of the class; here it is the paper's cross-entropy.",
    "A pass is one over the clean rows, and there are at most 80, as in the benchmark; the authors take 992 images of "
    "the test set, 32 a step, up to 1,000 times, and read norms from masks that are stored in 256 levels.",
)
"""For cards."""


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


def begin_controller(classes: int, shape: tuple[int, int, int], free_start: bool = True) -> Controller:
    """The controller before the first pass."""
    zero, never = jnp.zeros(classes, jnp.int32), jnp.zeros(classes, bool)
    far, height, width = jnp.full(classes, jnp.inf, real()), *shape[:2]
    blank = jnp.zeros((classes, height, width, 1), real())
    pattern, weight = jnp.zeros((classes, *shape), real()), jnp.full(classes, 0 if free_start else START, real())
    return Controller(weight, zero, zero, never, never, zero, far, far, blank, pattern, jnp.zeros((), bool), never)


def control(
    before: Controller,
    success: Array,
    norm: Array,
    mask: Array,
    pattern: Array,
    *,
    enough: Array | float,
    strict_gain: bool,
    keep: str,
) -> Controller:
    """The controller after a pass.

    Args:
        before: the controller before it.
        success, norm: means of the pass, float (K,).
        mask, pattern: the triggers with which it ended.
        enough, strict_gain, keep: see `SETTINGS`.
    """
    worked = success >= enough
    better = worked & (norm < before.norm)
    kept = (better | (jnp.isinf(before.norm) if keep == "last" else ~before.stored))[:, None, None, None]
    least_norm = jnp.where(better, norm, before.norm)
    gained = least_norm < (0.99 if strict_gain else 1) * before.least
    waited = jnp.where(jnp.isfinite(least_norm), jnp.where(gained, 0, before.waited + 1), before.waited)
    stop = before.raised & before.lowered & (waited >= PATIENCE)
    up, down = jnp.where(worked, before.up + 1, 0), jnp.where(worked, 0, before.down + 1)
    rise, fall = ~stop & (up >= PASSES), ~stop & (down >= PASSES)
    # Lambda that has been 0 begins instead of rising, and the pass counts as the first in a row.
    begun = rise & (before.weight == 0)
    after = Controller(
        weight=jnp.where(begun, START, before.weight * jnp.where(rise, 2, jnp.where(fall, 2**-1.5, 1))),
        up=jnp.where(stop, before.up, jnp.where(begun, 1, jnp.where(rise, 0, up))),
        down=jnp.where(stop, before.down, jnp.where(fall, 0, down)),
        raised=before.raised | (rise & ~begun),
        lowered=(before.lowered | fall) & ~begun,
        waited=waited,
        least=jnp.minimum(before.least, least_norm),
        norm=least_norm,
        mask=jnp.where(kept, mask, before.mask),
        pattern=jnp.where(kept, pattern, before.pattern),
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


def invert(
    net: Net,
    shape,
    classes: int,
    source: SourceFn,
    *,
    epochs: int,
    batch: int,
    rate: str,
    strict_gain: bool,
    free_start: bool,
    random_start: bool,
    keep: str,
) -> Stage:
    """A stage that leaves the victim as it is and carries `mask`, `pattern` and `norm` of every class.

    Args:
        net, shape, classes: the network, of images (height, width, channels) and K classes.
        source: given -> the rows.
        epochs, batch: passes, at most, and rows a step.
        rate: the name of the setting that is the constant learning rate of Adam.
        strict_gain, free_start, random_start, keep: see `SETTINGS`; reads `enough`.
    """

    def begin(key, _given, _weights):
        shapes = {"mask": (classes, *shape[:2], 1), "pattern": (classes, *shape)}

        def first(name: str) -> Array:
            if not random_start:
                return jnp.ones(shapes[name], real())
            value = jax.random.uniform(stream(key, name), shapes[name], real())
            return jnp.arctanh((value - 0.5) * (2 - 1e-6))  # never infinite, in single precision either

        zero = jnp.zeros(classes, real())
        still = {"control": begin_controller(classes, shape, free_start), "success": zero, "norm": zero}
        return {name: first(name) for name in shapes}, still | {"steps": jnp.zeros((), real())}

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

    def after_pass(moving: PyTree, still: PyTree, given: Given) -> Controller:
        steps = jnp.maximum(still["steps"], 1)
        triggers = bounded(moving["mask"]), bounded(moving["pattern"])
        means = still["success"] / steps, still["norm"] / steps
        bounds = {"enough": given.settings["enough"], "strict_gain": strict_gain, "keep": keep}
        after = control(still["control"], *means, *triggers, **bounds)
        return jax.tree.map(lambda old, new: jnp.where(still["steps"] > 0, new, old), still["control"], after)

    def renew(_key, moving, still, given):
        zero = jnp.zeros(classes, real())
        after = after_pass(moving, still, given)
        return {"control": after, "success": zero, "norm": zero, "steps": jnp.zeros((), real())}

    def leave(_key, state, given):
        found = after_pass(state.moving, state.still, given)
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


def median_of(norm: Array, which: str) -> Array:
    """The median of norms (K,), by the setting `median`."""
    return jnp.median(norm) if which == "mean" else jnp.sort(norm)[(norm.size - 1) // 2]


def outliers(norm: Array, median: str) -> tuple[Array, Array]:
    """The anomaly index of every class, float (K,), and which are flagged, bool (K,): norms far below the median.

    The index is |n - median| / (1.4826 MAD); a class is flagged where its norm is at most the median and its index
    above 2. median: see `SETTINGS`.
    """
    middle = median_of(norm, median)
    apart = jnp.abs(norm - middle)
    index = apart / (1.4826 * median_of(apart, median))
    return index, (norm <= middle) & (index > 2)
