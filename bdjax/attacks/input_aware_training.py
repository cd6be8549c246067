"""The two stages of the input-aware attack: its mask's generator, then its pattern's together with the classifier.

Nguyen, Tran, Input-Aware Dynamic Backdoor Attack, NeurIPS 2020, https://arxiv.org/abs/2010.08138, section 3, with the
constants of the authors' released code. Batches come in pairs of unlike images: triggers are to differ as their images
do, and the trigger of one image, put on another, is to leave that one's label.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bdjax import train
from bdjax.attacks import batches
from bdjax.attacks.generators import Generators, distance, diversity_loss, held
from bdjax.keys import stream
from bdjax.models.hourglass import STD
from bdjax.types import Array, Batch, Given, Key, Net, Poison, Procedure, PyTree, Trained, Weights, real

BETAS = (0.5, 0.9)
"""Of Adam, for both generators."""


@struct.dataclass
class Masking:
    """What the first stage carries."""

    mask: Weights
    optimizer: PyTree
    step: Array  # int32 ()
    ratio: Array  # (): share of rows to poison
    trigger: PyTree


@struct.dataclass
class Patterning:
    """What the second stage carries."""

    fit: train.State
    pattern: Weights
    optimizer: PyTree
    total: PyTree  # the sum of the pattern's gradients, where that is what it follows
    ratio: Array
    trigger: PyTree


def pairs(key: Key, size: int, batch: int, drop_last: bool) -> Array:
    """Two random orders of the rows side by side, int32 (steps, 2 batch)."""
    orders = [train.shuffled(stream(key, name), size, batch, drop_last) for name in ("first", "second")]
    return jnp.concatenate(orders, axis=1)


def parted(key: Key, rows: Batch, given: Given) -> tuple[Batch, Array]:
    """The first half of a batch and the images of the second, both augmented."""
    first, second = (jax.tree.map(lambda leaf: jnp.split(leaf, 2)[half], rows) for half in (0, 1))  # noqa: B023
    image = given.augment(stream(key, "augment"), first.image)
    return first.replace(image=image), given.augment(stream(key, "augment second"), second.image)


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
) -> tuple[Procedure, Procedure]:
    """Both stages, from the attack's settings of these names."""
    first = masking(net, generators, mask_epochs, recipe["batch"], recipe["drop_last"], repeated)
    epochs = max(1, epochs - mask_epochs) if inclusive else epochs
    return first, training(net, generators, goal, rounding, accumulated, epochs=epochs, **recipe)


def masking(net: Net, generators: Generators, epochs: int, batch: int, drop_last: bool, repeated: bool) -> Procedure:
    """The first stage; it hands on a classifier that has learned nothing yet."""

    def init(key: Key, given: Given, previous: Poison) -> Masking:
        del key
        ratio = batches.ratio(previous)
        mask, rule = Weights(**previous.trigger["mask"]), adam(given.settings["mask_learning_rate"])
        return Masking(mask, rule.init(mask.params), jnp.zeros((), jnp.int32), ratio, previous.trigger)

    def order(key: Key, state: Masking, epoch: Array, given: Given) -> Array:
        del state, epoch
        return pairs(key, given.clean.size, batch, drop_last)

    def step(key: Key, state: Masking, rows: Batch, given: Given):
        (first, other), settings = parted(key, rows, given), given.settings
        apart = distance(first.image / STD, other / STD)

        def loss(params: PyTree):
            at, masks = state.mask.replace(params=params), []
            for image in (first.image,) * repeated + (first.image, other):
                maps, batch_stats, _ = generators.mask.apply(at, image, train=True, weight=first.weight)
                at = at.replace(batch_stats=batch_stats)
                masks.append(generators.masks(maps))
            above = jnp.mean(jax.nn.relu(masks[-2] - settings["density"]), (1, 2, 3))
            above, alike = train.mean(above, first.weight), diversity_loss(apart, distance(*masks[-2:]), first.weight)
            value = settings["sparsity"] * above + settings["diversity"] * alike
            return value, (at.batch_stats, {"loss": value, "above": above, "diversity_loss": alike})

        gradient, (batch_stats, info) = jax.grad(loss, has_aux=True)(state.mask.params)
        epoch = state.step // train.steps_per_epoch(given.clean.size, batch, drop_last)
        factor = 0.1 ** ((5 * epoch >= 2 * epochs) + (5 * epoch >= 4 * epochs).astype(real()))
        rule = adam(settings["mask_learning_rate"] * factor)
        updates, kept = rule.update(gradient, state.optimizer)
        mask = Weights(optax.apply_updates(state.mask.params, updates), batch_stats)
        return state.replace(mask=mask, optimizer=kept, step=state.step + 1), info

    def finish(key: Key, state: Masking, given: Given) -> Trained:
        del given
        mask = held(state.mask)
        return Trained(net.init(key), {"ratio": state.ratio, "trigger": state.trigger | {"mask": mask}})

    return Procedure(lambda given: given.clean, epochs, init, order, step, finish)


class Mixture(NamedTuple):
    """What becomes of a batch: its images, the pattern's statistics, and how alike patterns are."""

    image: Array
    batch_stats: PyTree
    diversity_loss: Array


def mixed(
    generators: Generators, state: Patterning, params: PyTree, first: Array, other: Array, count: Array
) -> Mixture:
    """The first `count` images of a batch with their triggers, the next `count` with those of other images.

    Args:
        generators: both.
        state: of the second stage.
        params: of the pattern's generator.
        first, other: (b, height, width, channels); those that are changed, and those whose triggers cover samples get.
        count: int32 (), at most half of b.
    """
    half, number = max(1, len(first) // 2), jnp.arange(len(first))
    # Rows that are not triggered repeat one that is: normalised by the statistics of few others they could overflow.
    present = jnp.maximum(count, 1)
    place = jnp.minimum(number[:half], present - 1)
    own, foreign = first[place], other[place + count]
    at, made = state.pattern.replace(params=params), []
    for image in (own, foreign):
        counted = (number[:half] < present).astype(first.dtype)
        maps, batch_stats, _ = generators.pattern.apply(at, image, train=True, weight=counted)
        at = at.replace(batch_stats=batch_stats)
        pattern, mask = generators.squashed(maps), generators.mask_of(state.trigger, image)
        made.append((pattern, mask))
    image = first
    for rank, (pattern, mask) in zip((number, number - count), made, strict=True):
        within, at_row = (rank >= 0) & (rank < count), jnp.clip(rank, 0, half - 1)
        changed = image + (pattern[at_row] - image) * mask[at_row]
        image = jnp.where(within[:, None, None, None], changed, image)
    apart = distance(own / STD, foreign / STD), distance(made[0][0] / STD, made[1][0] / STD)
    chosen = (number[:half] < count).astype(first.dtype)
    moved = jax.tree.map(lambda new, old: jnp.where(count > 0, new, old), at.batch_stats, state.pattern.batch_stats)
    return Mixture(image, moved, diversity_loss(*apart, chosen))


def training(net: Net, generators: Generators, goal, rounding: str, accumulated: bool, **recipe) -> Procedure:
    """The second stage; its carry is the trigger."""

    def classifier(gradient=None) -> Procedure:
        hook = {} if gradient is None else {"gradient": gradient}
        return train.supervised(net, lambda given: given.clean, augment=False, **recipe, **hook)

    plain = classifier()

    def init(key: Key, given: Given, previous: Trained) -> Patterning:
        fit, trigger = plain.init(key, given, previous), previous.carry["trigger"]
        pattern = Weights(**trigger["pattern"])
        total = jax.tree.map(jnp.zeros_like, pattern.params) if accumulated else None
        kept = adam(given.settings["pattern_learning_rate"]).init(pattern.params)
        return Patterning(fit, pattern, kept, total, previous.carry["ratio"], trigger)

    def order(key: Key, state: Patterning, epoch: Array, given: Given) -> Array:
        del state, epoch
        return pairs(key, given.clean.size, recipe["batch"], recipe["drop_last"])

    def step(key: Key, state: Patterning, rows: Batch, given: Given):
        (first, other), settings = parted(key, rows, given), given.settings
        size = jnp.sum(first.weight)
        count = batches.share(stream(key, "share"), state.ratio, size, rounding)
        count = jnp.minimum(count, size.astype(jnp.int32) // 2)
        label = jnp.where(jnp.arange(first.row.size) < count, goal(first.label), first.label)

        def loss(params: PyTree, learned: PyTree):
            mixture = mixed(generators, state, learned, first.image, other, count)
            at = state.fit.weights.replace(params=params)
            logits, batch_stats, _ = net.apply(at, mixture.image, train=True, weight=first.weight)
            value = train.cross_entropy(logits, label, first.weight)
            info = {"loss": value, "accuracy": train.accuracy(logits, label, first.weight)}
            info |= {"diversity_loss": mixture.diversity_loss}
            return value + settings["diversity"] * mixture.diversity_loss, (batch_stats, mixture.batch_stats, info)

        both = jax.grad(loss, argnums=(0, 1), has_aux=True)
        (gradient, others), (batch_stats, statistics, info) = both(state.fit.weights.params, state.pattern.params)
        fit, info = classifier(lambda *_: (gradient, batch_stats, info)).step(key, state.fit, first, given)
        total = jax.tree.map(jnp.add, state.total, others) if accumulated else None
        followed = total if accumulated else others
        updates, kept = adam(settings["pattern_learning_rate"]).update(followed, state.optimizer)
        pattern = Weights(optax.apply_updates(state.pattern.params, updates), statistics)
        return state.replace(fit=fit, pattern=pattern, optimizer=kept, total=total), info

    def finish(key: Key, state: Patterning, given: Given) -> Trained:
        del key, given
        pattern = held(state.pattern)
        return Trained(state.fit.weights, state.trigger | {"pattern": pattern})

    return Procedure(plain.source, plain.epochs, init, order, step, finish)
