"""The two stages of the input-aware attack: its mask's generator, then its pattern's together with the classifier.

Nguyen, Tran, Input-Aware Dynamic Backdoor Attack, NeurIPS 2020, https://arxiv.org/abs/2010.08138, section 3, with the
constants of the authors' released code. Batches come in pairs of unlike images: triggers are to differ as their images
do, and the trigger of one image, put on another, is to leave that one's label.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.attacks.training import batches
from bdjax.attacks.training.generators import Generators, distance, diversity_loss, held
from bdjax.keys import stream
from bdjax.models.auxiliary.hourglass import STD
from bdjax.types import Array, Batch, Given, Key, Net, PyTree, Source, Stage, Trained, Weights, real

BETAS = (0.5, 0.9)
"""Of Adam, for both generators."""


def pairs(given: Given) -> dict[str, Source]:
    """Every step reads two batches of unlike images."""
    return {"first": given.whole, "second": given.whole}


def two_orders(batch: int, drop_last: bool):
    """Two random orders of the rows, one for each of `pairs`."""

    def order(key: Key, _epoch: Array, given: Given, _still) -> dict[str, Array]:
        names = ("first", "second")
        return {name: train.shuffled(stream(key, name), given.whole.size, batch, drop_last) for name in names}

    return order


def augment(key: Key, rows: dict[str, Batch], _epoch: Array, given: Given) -> dict[str, Batch]:
    """Both batches under the dataset's augmentation."""
    streams = {"first": "augment", "second": "augment second"}
    return {
        name: batch.replace(image=given.augment(stream(key, streams[name]), batch.image))
        for name, batch in rows.items()
    }


def adam(learning_rate: Array) -> optax.GradientTransformation:
    """The optimizer of both generators."""
    return optax.adam(learning_rate, *BETAS)


def stages(
    net: Net,
    generators: Generators,
    goal,
    *,
    mask_epochs: int,
    inclusive: bool,
    repeated: bool,
    rounding: str,
    accumulated: bool,
    epochs: int,
    **recipe,
) -> tuple[Stage, Stage]:
    """Both stages, from the attack's settings of these names."""
    first = masking(net, generators, mask_epochs, recipe["batch"], recipe["drop_last"], repeated)
    epochs = max(1, epochs - mask_epochs) if inclusive else epochs
    return first, training(net, generators, goal, rounding, accumulated, epochs=epochs, **recipe)


def masking(net: Net, generators: Generators, epochs: int, batch: int, drop_last: bool, repeated: bool) -> Stage:
    """The first stage; it hands on a classifier that has learned nothing yet."""

    def begin(_key: Key, given: Given, _weights):
        mask = Weights(**given.carry["trigger"]["mask"])
        return mask.params, mask.batch_stats

    def loss(_key: Key, params: PyTree, statistics: PyTree, rows: dict[str, Batch], given: Given):
        first, other, settings = rows["first"], rows["second"].image, given.settings
        apart = distance(first.image / STD, other / STD)
        at, masks = Weights(params, statistics), []
        for image in (first.image,) * repeated + (first.image, other):
            maps, moved, _ = generators.mask.apply(at, image, train=True, weight=first.weight)
            at = at.replace(batch_stats=moved)
            masks.append(generators.masks(maps))
        above = jnp.mean(jax.nn.relu(masks[-2] - settings["density"]), (1, 2, 3))
        above, alike = train.mean(above, first.weight), diversity_loss(apart, distance(*masks[-2:]), first.weight)
        value = settings["sparsity"] * above + settings["diversity"] * alike
        return value, (at.batch_stats, {"loss": value, "above": above, "diversity_loss": alike})

    def rule(given: Given, clock: train.Clock) -> optax.GradientTransformation:
        factor = 0.1 ** ((5 * clock.epoch >= 2 * epochs) + (5 * clock.epoch >= 4 * epochs).astype(real()))
        return adam(given.settings["mask_learning_rate"] * factor)

    def leave(key: Key, state: train.State, given: Given) -> Trained:
        mask = held(Weights(state.moving, state.still))
        return Trained(net.init(key), given.carry | {"trigger": given.carry["trigger"] | {"mask": mask}})

    return train.descend(
        pairs,
        epochs=epochs,
        batch=batch,
        begin=begin,
        loss=loss,
        rule=rule,
        leave=leave,
        order=two_orders(batch, drop_last),
        full=True,
        augment=augment,
    )


class Mixture(NamedTuple):
    """What becomes of a batch: its images, the pattern's statistics, and how alike patterns are."""

    image: Array
    batch_stats: PyTree
    diversity_loss: Array


def mixed(
    generators: Generators, learned: Weights, trigger: PyTree, first: Array, other: Array, count: Array
) -> Mixture:
    """The first `count` images of a batch with their triggers, the next `count` with those of other images.

    Args:
        generators: both.
        learned: of the pattern's generator.
        trigger: of which the mask's generator is taken.
        first, other: (b, height, width, channels); those that are changed, and those whose triggers cover samples get.
        count: int32 (), at most half of b.
    """
    half, number = max(1, len(first) // 2), jnp.arange(len(first))
    # Rows that are not triggered repeat one that is: normalised by the statistics of few others they could overflow.
    present = jnp.maximum(count, 1)
    place = jnp.minimum(number[:half], present - 1)
    own, foreign = first[place], other[place + count]
    at, made = learned, []
    for image in (own, foreign):
        counted = (number[:half] < present).astype(first.dtype)
        maps, batch_stats, _ = generators.pattern.apply(at, image, train=True, weight=counted)
        at = at.replace(batch_stats=batch_stats)
        pattern, mask = generators.squashed(maps), generators.mask_of(trigger, image)
        made.append((pattern, mask))
    image = first
    for rank, (pattern, mask) in zip((number, number - count), made, strict=True):
        within, at_row = (rank >= 0) & (rank < count), jnp.clip(rank, 0, half - 1)
        changed = image + (pattern[at_row] - image) * mask[at_row]
        image = jnp.where(within[:, None, None, None], changed, image)
    apart = distance(own / STD, foreign / STD), distance(made[0][0] / STD, made[1][0] / STD)
    chosen = (number[:half] < count).astype(first.dtype)
    moved = jax.tree.map(lambda new, old: jnp.where(count > 0, new, old), at.batch_stats, learned.batch_stats)
    return Mixture(image, moved, diversity_loss(*apart, chosen))


def training(
    net: Net, generators: Generators, goal, rounding: str, accumulated: bool, *, epochs, batch, drop_last, **recipe
) -> Stage:
    """The second stage; its carry is the trigger. The classifier and the pattern's generator learn at once."""
    lookahead = recipe.pop("lookahead")
    classifier, ahead = train.recipe(net, **recipe), train.look_ahead(lookahead)

    def begin(key: Key, given: Given, weights: Weights):
        params, still = train.begin_weights(net, False, lookahead)(key, given, weights)
        pattern = Weights(**given.carry["trigger"]["pattern"])
        # The sum of the pattern's gradients, where that is what it follows.
        total = {"total": jax.tree.map(jnp.zeros_like, pattern.params)} if accumulated else {}
        return {"params": params, "pattern": pattern.params}, still | {"statistics": pattern.batch_stats} | total

    def rule(given: Given, clock: train.Clock) -> optax.GradientTransformation:
        pattern = adam(given.settings["pattern_learning_rate"])
        return train.each({"params": classifier(given, clock), "pattern": pattern})

    def slope(key: Key, moving: PyTree, still: PyTree, rows: dict[str, Batch], given: Given):
        first, other, settings = rows["first"], rows["second"].image, given.settings
        size = jnp.sum(first.weight)
        count = batches.share(stream(key, "share"), batches.ratio(given), size, rounding)
        count = jnp.minimum(count, size.astype(jnp.int32) // 2)
        label = jnp.where(jnp.arange(first.row.size) < count, goal(first.label), first.label)

        def loss(moving: PyTree):
            learned = Weights(moving["pattern"], still["statistics"])
            mixture = mixed(generators, learned, given.carry["trigger"], first.image, other, count)
            at = Weights(moving["params"], still["batch_stats"])
            logits, batch_stats, _ = net.apply(at, mixture.image, train=True, weight=first.weight)
            value = train.cross_entropy(logits, label, first.weight)
            info = {"loss": value, "accuracy": train.accuracy(logits, label, first.weight)}
            info |= {"diversity_loss": mixture.diversity_loss}
            statistics = {"batch_stats": batch_stats, "statistics": mixture.batch_stats}
            return value + settings["diversity"] * mixture.diversity_loss, (statistics, info)

        slopes, (statistics, info) = jax.grad(loss, has_aux=True)(moving)
        if accumulated:
            total = jax.tree.map(jnp.add, still["total"], slopes["pattern"])
            return slopes | {"pattern": total}, still | statistics | {"total": total}, info
        return slopes, still | statistics, info

    def project(moving: PyTree, still: PyTree, rows, given: Given, clock: train.Clock):
        params, still = ahead(moving["params"], still, rows, given, clock)
        return moving | {"params": params}, still

    def leave(_key: Key, state: train.State, given: Given) -> Trained:
        pattern = held(Weights(state.moving["pattern"], state.still["statistics"]))
        weights = Weights(state.moving["params"], state.still["batch_stats"])
        return Trained(weights, given.carry["trigger"] | {"pattern": pattern})

    return train.descend(
        pairs,
        epochs=epochs,
        batch=batch,
        begin=begin,
        gradient=slope,
        rule=rule,
        leave=leave,
        order=two_orders(batch, drop_last),
        full=True,
        project=project if lookahead else None,
        augment=augment,
    )
