"""MOTH: classes are driven apart by training on images under small triggers that lead from one class to another.

Tao, Liu, Shen, Xu, An, Zhang, Zhang, Model Orthogonalization: Class Distance Hardening in Neural Networks for Better
Security, IEEE S&P 2022, https://doi.org/10.1109/SP46214.2022.9833688, section IV. The distance from class s to class t
is the size of the smallest trigger that sends images of s to t. A warm-up inverts a trigger for every class and trains
on half of a batch under it. Then pairs of classes are hardened, each for a few batches: triggers in both directions are
inverted on the batch's own images, and some of these are trained on under them. Labels are the true ones throughout.
The pair is a random one or the largest of (1 - a) v + a w, a rising with the steps, where v is how fast the loss fell
while the warm-up inverted and w what hardening has lately added to the distance, both summed over the directions.
"""

import math

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.defenses.parts.directions import Search, search
from bdjax.keys import stream
from bdjax.train.inversion import stamp
from bdjax.types import Array, Batch, Key, PyTree, Trained, Weights, real

CARD = Card(
    name="moth",
    title="MOTH",
    citation="Tao, Liu, Shen, Xu, An, Zhang, Zhang, Model Orthogonalization: Class Distance Hardening in Neural "
    "Networks for Better Security, IEEE S&P 2022, https://doi.org/10.1109/SP46214.2022.9833688",
    year=2022,
    version=1,
    kind="trigger inversion and hardening",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all weights",
    settings={
        "epochs": Setting(40, "passes over the clean rows after the warm-up of one step a class", "epochs", low=1),
        "batch": Setting(128, "rows a step; the whole clean set where that is smaller", "rows", low=2),
        "learning_rate": Setting(1e-4, "constant learning rate of the model, by SGD with Nesterov momentum", low=0.0),
        "momentum": Setting(0.9, "of the model's SGD", low=0.0, high=1.0),
        "learn_statistics": Setting(True, "training uses and learns batch statistics; else it keeps the victim's"),
        "images": Setting(10, "of every class, on which the warm-up inverts", "rows", low=1),
        "warmup_steps": Setting(500, "passes of inversion for a class", "passes", low=1),
        "pair_steps": Setting(200, "passes for a pair's first batch, and after one that found no trigger", low=1),
        "short_steps": Setting(50, "passes for its other batches", "passes", low=1),
        "inversion_batch": Setting(32, "rows a step of inversion", "rows", low=1),
        "inversion_rate": Setting(0.1, "constant learning rate of mask and pattern, by Adam", low=0.0),
        "cost": Setting(1e-3, "weight of the mask's norm at the start, after `pair_steps` too", low=0.0),
        "short_cost": Setting(0.01, "the same before `short_steps`", low=0.0),
        "success": Setting(0.99, "of a trigger for all classes, for it to count", "fraction", low=0.0, high=1.0),
        "pair_success": Setting(0.9, "of a trigger for a pair, for it to count", "fraction", low=0.0, high=1.0),
        "small": Setting(
            0.25, "share of all values below which a mask's sum is for its trigger to be used", low=0.0, high=1.0
        ),
        "warmup_portion": Setting(0.5, "share of a batch's other classes under the trigger", low=0.0, high=1.0),
        "portion": Setting(
            0.1, "share of the rarer class of a pair, and as many of the other; rounded down", low=0.0, high=1.0
        ),
        "period": Setting(3, "batches on which a pair is hardened", "steps", low=1),
        "random_pairs": Setting(0.3, "share of pairs that are drawn", "fraction", low=0.0, high=1.0),
        "ramp": Setting(1000.0, "steps over which the choice of pairs passes from v to w", "steps", low=1.0),
        "starts": Setting(
            "own",
            "inversion for a class starts at random, that for a pair with the last triggers of its directions; in the "
            "released code that for a class with the trigger of class 0, that for a drawn pair with its triggers "
            "exchanged where its first class is the larger number",
            choices=("own", "released"),
        ),
        "speeds": Setting(
            "measured",
            "v is the relative fall of the loss; released: the loss at the end counts as 0 where the images fill more "
            "than one step of inversion, and v as 1 then",
            choices=("measured", "released"),
        ),
    },
    presets={"paper": {}, "released": {"learn_statistics": False, "starts": "released", "speeds": "released"}},
    departures=(
        "The authors' code makes 2 passes over 50,000 rows, which are 782 steps; 40 passes over 2,500 are 800. It "
        "counts the warm-up among them.",
        "In the released code inversion leaves the network in inference mode, so that training keeps the statistics, "
        "as in `released`; `paper` trains in training mode, which that code sets before.",
        "The released code means to replace the saved triggers of a pair by larger ones only, but compares an array "
        "with itself, so that the latest are saved, as here.",
        "The first distance of a pair changes nothing of w here, where the warm-up found no trigger; in the released "
        "code all of w then becomes the distances. Where no batch of a pair had rows to stamp it takes other batches "
        "without counting them.",
        "A full step of inversion for a pair has 32 rows or, where there are fewer, all; in the released code never "
        "more than at any time before.",
        "The variant that hardens on adversarial images is left out. The reference benchmark has no MOTH.",
    ),
)


def some_of_each(key: Key, label: Array, classes: int, count: int) -> Array:
    """Random rows of every class, int32 (classes, count), padded by -1 where there are fewer; label int32 (n,)."""
    order = jnp.lexsort((jax.random.uniform(key, label.shape, real()), label)).astype(jnp.int32)
    number = jnp.arange(classes)[:, None]
    place = jnp.searchsorted(label[order], number) + jnp.arange(count)
    row = order[jnp.minimum(place, label.size - 1)]
    return jnp.where((place < label.size) & (label[row] == number), row, -1)


def drawn(key: Key, member: Array, count: Array) -> Array:
    """So many random rows, at most all, of those where member bool (b,) is true, bool (b,)."""
    place = jnp.argsort(jnp.argsort(jnp.where(member, jax.random.uniform(key, member.shape, real()), 2)))
    return (place < count) & member


def fallen(found: Search, rows: Batch, classes: int, released: bool, limit: int) -> Array:
    """How fast the loss of each class fell, float (classes,): the mean of (before - after) / before over its rows.

    rows: of which equally many follow one another for each class. released: whether the loss after is 0 where rows fill
    more than one step of `limit`, or no trigger was found; else it is known, and that before where none was found.
    """
    if released:
        after = jnp.where(jnp.sum(rows.weight) <= limit, found.after, 0)
    else:
        after = jnp.where(jnp.isfinite(found.norm), found.after, found.before)
    fall = jnp.where(found.before == 0, 0, (found.before - after) / jnp.where(found.before == 0, 1, found.before))
    return jax.vmap(train.mean)(fall.reshape(classes, -1), rows.weight.reshape(classes, -1))


def choose(key: Key, speed: Array, gain: Array, step: Array, settings) -> Array:
    """The pair of classes to be hardened, int32 (2,); speed, gain: v and w, float (classes, classes)."""
    share, classes = jnp.minimum(step / settings["ramp"], 1), len(speed)
    both = (1 - share) * (speed + speed.T) + share * (gain + gain.T)
    best = jnp.argmax(jnp.where(jnp.eye(classes, dtype=bool), -jnp.inf, both))
    first = jax.random.randint(stream(key, "first"), (), 0, classes)
    second = (first + jax.random.randint(stream(key, "second"), (), 1, classes)) % classes
    at_random = jax.random.uniform(stream(key, "whether"), (), real()) < settings["random_pairs"]
    pair = jnp.where(at_random, jnp.stack([first, second]), jnp.stack([best // classes, best % classes]))
    return pair.astype(jnp.int32)


def remembered(size: Array, gain: Array, pair: Array, now: Array) -> tuple[Array, Array]:
    """Distances and w, float (classes, classes), after a pair's hardening; now: its distances, float (2,)."""
    there = pair, pair[::-1]
    before = size[there]
    known = jnp.all(before > 0)
    grown = (gain[there] + (now - before) / jnp.where(known, before, 1)) / 2
    return size.at[there].set(now), gain.at[there].set(jnp.where(known, grown, gain[there]))


def measure(triggers: PyTree, channels: int) -> Array:
    """The sum of masks (..., height, width, 1) over all values of an image, float (...)."""
    return channels * jnp.sum(triggers["mask"], (-3, -2, -1))


def put(image: Array, which: Array, triggers: PyTree, side: Array) -> Array:
    """The images, those where which bool (b,) is true under the trigger of their side int32 (b,)."""
    stamped = stamp(image, triggers["mask"][side], triggers["pattern"][side])
    return jnp.where(which[:, None, None, None], stamped, image)


def warming(
    net, shape, classes: int, *, batch, images, learn_statistics, warmup_steps, inversion_batch, starts, speeds
):
    """The stage of a step a class; it carries `triggers` and the `speed` of all and the model's `optimizer`."""

    def begin(key, given, weights):
        label, first = sources.each(given.clean, lambda rows: rows.label), train.start(given, weights)
        sizes = {"mask": (*shape[:2], 1), "pattern": shape}
        return first.params, {
            "batch_stats": first.batch_stats,
            "extra": some_of_each(key, label, classes, images).reshape(-1),
            "triggers": {name: jnp.zeros((classes, *size), real()) for name, size in sizes.items()},
            "speed": jnp.zeros((classes, classes), real()),
            "target": jnp.zeros((), jnp.int32),
        }

    def order(key, _epoch, given, _still):
        passes = -(-classes // train.steps_per_epoch(given.clean.size, batch))
        rows = jax.vmap(lambda key: train.shuffled(key, given.clean.size, batch))(jax.random.split(key, passes))
        return rows.reshape(-1, rows.shape[-1])[:classes]

    def gradient(key, params, still, rows, given):
        weights, settings, target = Weights(params, still["batch_stats"]), given.settings, still["target"]
        extra, saved = given.clean.read(still["extra"]), still["triggers"]
        extra = extra.replace(weight=extra.weight * (extra.label != target), label=jnp.full_like(extra.label, target))
        first = {
            name: jax.random.uniform(stream(key, name), (1, *value.shape[1:]), real()) for name, value in saved.items()
        }
        if starts == "released":
            first = jax.tree.map(lambda own, one: jnp.where(target > 0, one[:1], own), first, saved)
        goals = settings, warmup_steps, settings["cost"], settings["success"]
        side = jnp.zeros_like(extra.label)
        found = search(net, inversion_batch, stream(key, "search"), weights, extra, side, first, *goals)
        small = measure(found.best, shape[2])[0] < settings["small"] * math.prod(shape)
        others = (rows.label != target) & (rows.weight > 0)
        which = drawn(stream(key, "which"), others & small, jnp.floor(jnp.sum(others) * settings["warmup_portion"]))
        image = put(rows.image, which, found.best, jnp.zeros_like(rows.label))
        slope, batch_stats, info = train.loss_gradient(net, weights, image, rows, learn=learn_statistics)
        speed = fallen(found, extra, classes, speeds == "released", inversion_batch)
        return (
            slope,
            still
            | {
                "batch_stats": batch_stats,
                "triggers": jax.tree.map(lambda every, one: every.at[target].set(one[0]), saved, found.best),
                "speed": still["speed"].at[:, target].set(speed),
                "target": target + 1,
            },
            info | {"size": measure(found.best, shape[2])[0], "stamped": jnp.sum(which, dtype=real())},
        )

    def leave(_key, state, _given):
        left = {name: state.still[name] for name in ("triggers", "speed")} | {"optimizer": state.opt_state}
        return Trained(Weights(state.moving, state.still["batch_stats"]), left)

    parts = {"begin": begin, "gradient": gradient, "leave": leave, "order": order, "full": True, "augment": False}
    rule = train.sgd(decay=None, nesterov=True)
    return train.descend(lambda given: given.clean, epochs=1, batch=batch, rule=rule, **parts)


def hardening(
    net,
    shape,
    classes: int,
    *,
    epochs,
    batch,
    learn_statistics,
    pair_steps,
    short_steps,
    inversion_batch,
    period,
    starts,
):
    """The stage that hardens pairs; it carries `size`, the distances last seen, float (classes, classes)."""

    def places(pair: Array) -> tuple[Array, Array]:
        return (jnp.sort(pair), jnp.sort(pair)[::-1]) if starts == "released" else (pair, pair[::-1])

    def another(key, still, given):
        pair = choose(key, given.carry["speed"], still["gain"], still["step"], given.settings)
        now = jax.tree.map(lambda value: value[places(pair)], still["triggers"])
        fresh = {"failed": jnp.zeros((), bool), "total": jnp.zeros(2, real()), "seen": jnp.zeros((), jnp.int32)}
        return still | fresh | {"pair": pair, "now": now}

    def begin(key, given, weights):
        triggers = jax.tree.map(lambda value: jnp.repeat(value[None], classes, 0), given.carry["triggers"])
        size = measure(triggers, shape[2]) * (1 - jnp.eye(classes, dtype=real()))
        still = {"batch_stats": weights.batch_stats, "triggers": triggers, "size": size}
        still |= {"gain": size / jnp.maximum(jnp.max(size), 1e-12), "step": jnp.zeros((), jnp.int32)}
        return weights.params, another(key, still, given), given.carry["optimizer"]

    def gradient(key, params, still, rows, given):
        weights, settings, place = Weights(params, still["batch_stats"]), given.settings, still["step"] % period
        anew = another(stream(key, "pair"), still, given)
        still = jax.tree.map(lambda new, old: jnp.where(place == 0, new, old), anew, still)
        pair, now = still["pair"], still["now"]
        member = (rows.label == pair[:, None]) & (rows.weight > 0)
        side = member[1].astype(jnp.int32)
        wanted = rows.replace(label=pair[1 - side], weight=jnp.any(member, 0).astype(rows.weight.dtype))
        count = jnp.floor(jnp.min(jnp.sum(member, 1)) * settings["portion"])
        some, thorough = count > 0, (place == 0) | still["failed"]
        steps = jnp.where(some, jnp.where(thorough, pair_steps, short_steps), 0)
        cost = jnp.where(thorough, settings["cost"], settings["short_cost"])
        goals = settings, steps, cost, settings["pair_success"]
        found = search(net, inversion_batch, stream(key, "search"), weights, wanted, side, now, *goals)
        small = measure(found.best, shape[2]) < settings["small"] * math.prod(shape)
        keys = stream(key, "source"), stream(key, "target")
        which = jnp.any(jnp.stack([drawn(keys[n], member[n] & small[n], count) for n in range(2)]), 0)
        image = put(rows.image, which, found.best, side)
        slope, batch_stats, info = train.loss_gradient(net, weights, image, rows, learn=learn_statistics)
        worked = jnp.isfinite(found.norm)
        now = jax.tree.map(lambda new, old: jnp.where(worked[:, None, None, None], new, old), found.best, now)
        total, seen = still["total"] + some * measure(now, shape[2]), still["seen"] + some
        size, gain = remembered(still["size"], still["gain"], pair, total / jnp.maximum(seen, 1))
        ends = (place == period - 1) & (seen > 0)
        return (
            slope,
            still
            | {
                "batch_stats": batch_stats,
                "triggers": jax.tree.map(lambda every, new: every.at[places(pair)].set(new), still["triggers"], now),
                "now": now,
                "failed": jnp.where(some, ~jnp.all(worked), still["failed"]),
                "total": total,
                "seen": seen,
                "size": jnp.where(ends, size, still["size"]),
                "gain": jnp.where(ends, gain, still["gain"]),
                "step": still["step"] + 1,
            },
            info | {"size": jnp.mean(measure(now, shape[2])), "stamped": jnp.sum(which, dtype=real())},
        )

    def leave(_key, state, _given):
        return Trained(Weights(state.moving, state.still["batch_stats"]), {"size": state.still["size"]})

    parts = {"begin": begin, "gradient": gradient, "leave": leave, "takes": ("optimizer",), "augment": False}
    rule = train.sgd(decay=None, nesterov=True)
    return train.descend(lambda given: given.clean, epochs=epochs, batch=batch, rule=rule, **parts)


def make(net, shape, classes, *, images, warmup_steps, speeds, epochs, period, pair_steps, short_steps, **both):
    """A step of warm-up for every class, then hardening of pairs."""
    first = {"images": images, "warmup_steps": warmup_steps, "speeds": speeds}
    then = {"epochs": epochs, "period": period, "pair_steps": pair_steps, "short_steps": short_steps}
    return warming(net, shape, classes, **first, **both), hardening(net, shape, classes, **then, **both)


MOTH = Method(CARD, make)
