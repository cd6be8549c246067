"""The two stages of LIRA: its generator together with the classifier, then the classifier alone.

Doan, Lao, Zhao, Li, LIRA: Learnable, Imperceptible and Robust Backdoor Attacks, ICCV 2021: the two stages of its
optimisation, with the constants of the authors' released code.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.attacks.training import batches, portions
from bdjax.attacks.training.batchwise import keep_trigger
from bdjax.attacks.training.generators import held
from bdjax.keys import stream
from bdjax.types import Array, Batch, Given, Key, Net, PyTree, Stage, Trained, Weights


class Parts(NamedTuple):
    """What both stages work with."""

    net: Net
    generator: Net
    goal: Callable[[Array], Array]
    augment: Callable[[Key, Batch, Given], Array]
    portion: str

    def prepare(self, key: Key, rows: Batch, _epoch: Array, given: Given) -> Batch:
        """The batch, augmented."""
        return rows.replace(image=self.augment(stream(key, "augment"), rows, given))

    def count(self, key: Key, rows: Batch, given: Given) -> Array:
        """How many of its rows are triggered, int32 ()."""
        return portions.count(stream(key, "share"), batches.ratio(given), jnp.sum(rows.weight), self.portion)

    def copied(self, image: Array, noise: Array, count: Array, given: Given) -> Array:
        """Images (b, height, width, channels), the first `count` with their noise in [-1, 1]."""
        first = jnp.arange(len(image))[:, None, None, None] < count
        return jnp.where(first, triggered(image, noise, given.settings["epsilon"]), image)

    def asked(self, weights: Weights, copies: Array, rows: Batch, count: Array) -> tuple[Array, PyTree]:
        """The loss on the first `count` copies with the labels that the attacker wants, and the moved statistics."""
        logits, moved, _ = self.net.apply(weights, copies, train=True, weight=rows.weight)
        first = (jnp.arange(rows.row.size) < jnp.maximum(count, 1)).astype(rows.weight.dtype)
        return train.cross_entropy(logits, self.goal(rows.label), first), moved


def triggered(image: Array, noise: Array, epsilon: Array) -> Array:
    """Images (b, height, width, channels) with noise in [-1, 1] that changes no value by more than epsilon."""
    return jnp.clip(image + epsilon * noise, 0, 1)


def chosen(condition: Array, one: PyTree, other: PyTree) -> PyTree:
    """One tree or the other."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


def weigh(parts: Parts, weights: Weights, fixed: Weights, count: Array, rows: Batch, given: Given):
    """The classifier's gradient, (gradients, batch_stats, info).

    It is that of the loss on clean rows and, where there are any, on triggered ones, whose noise `fixed` makes.
    """
    share = given.settings["clean_weight"]
    copies = parts.copied(rows.image, parts.generator.apply(fixed, rows.image)[0], count, given)

    def loss(params: PyTree):
        at = weights.replace(params=params)
        logits, moved, _ = parts.net.apply(at, rows.image, train=True, weight=rows.weight)
        clean = train.cross_entropy(logits, rows.label, rows.weight)
        poisoned, after = parts.asked(at.replace(batch_stats=moved), copies, rows, count)
        value = jnp.where(count > 0, share * clean + (1 - share) * poisoned, clean)
        accuracy = train.accuracy(logits, rows.label, rows.weight)
        info = {"loss": clean, "poisoned_loss": poisoned, "accuracy": accuracy}
        return value, (chosen(count > 0, after, moved), info)

    gradients, (batch_stats, info) = jax.grad(loss, has_aux=True)(weights.params)
    return gradients, batch_stats, info


def stages(net: Net, generator: Net, goal, *, joint_epochs, inclusive, leaking, tuned, portion, epochs, **static):
    """The first stage and, if `tuned`, the second, from the attack's settings of these names."""
    kinds = ("augmentation", "crop", "flip", "interpolation", "fill")
    augment = batches.augmentation(*(static.pop(name) for name in kinds))
    parts = Parts(net, generator, goal, augment, portion)
    batch, drop_last = static["batch"], static["drop_last"]
    first = joint(parts, leaking, not tuned, epochs=joint_epochs, batch=batch, drop_last=drop_last)
    epochs = max(1, epochs - joint_epochs) if inclusive else epochs
    return (first, tuning(parts, epochs=epochs, **static)) if tuned else (first,)


def joint(parts: Parts, leaking: bool, last: bool, **recipe) -> Stage:
    """The generator and the classifier in turn, step by step; `last`: whether its carry is the trigger."""
    plain = train.recipe(parts.net, "constant")

    def rule(given: Given, clock: train.Clock) -> optax.GradientTransformation:
        bare = given._replace(settings=dict(given.settings) | {"weight_decay": 0.0})
        adam = optax.adam(given.settings["generator_learning_rate"])
        return train.each({"params": plain(bare, clock), "generator": train.idle(adam)})

    def begin(key: Key, given: Given, _weights):
        weights, generator = parts.net.init(stream(key, "init")), Weights(**given.carry["trigger"]["generator"])
        still = {"batch_stats": weights.batch_stats, "statistics": generator.batch_stats, "fixed": generator}
        return {"params": weights.params, "generator": generator.params}, still

    def renew(_key: Key, moving: PyTree, still: PyTree, _given: Given):
        """The generator as it is when the epoch begins, whose images the classifier learns from."""
        return still | {"fixed": Weights(moving["generator"], still["statistics"])}

    def deceive(moving: PyTree, still: PyTree, rows: Batch, count: Array, given: Given):
        """Gradients, in the generator and the classifier, of the loss on what the generator makes of the batch."""

        def loss(learned: PyTree, params: PyTree):
            at, victim = Weights(learned, still["statistics"]), Weights(params, still["batch_stats"])
            noise, statistics, _ = parts.generator.apply(at, rows.image, train=True, weight=rows.weight)
            copies = parts.copied(rows.image, noise, count, given)
            value, moved = parts.asked(victim, copies, rows, count)
            return value, (statistics, moved)

        both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        return both(moving["generator"], moving["params"])

    def slope(key: Key, moving: PyTree, still: PyTree, rows: Batch, given: Given):
        count = parts.count(key, rows, given)
        (value, (statistics, moved)), (gradient, leak) = deceive(moving, still, rows, count, given)
        # Without triggered rows the generator has no gradient, and its optimizer is idle.
        gradient = jax.tree.map(lambda leaf: jnp.where(count > 0, leaf, 0), gradient)
        now = Weights(moving["params"], chosen(count > 0, moved, still["batch_stats"]))
        own, batch_stats, info = weigh(parts, now, still["fixed"], count, rows, given)
        whole = jax.tree.map(jnp.add, own, leak) if leaking else own
        still = still | {"batch_stats": batch_stats, "statistics": chosen(count > 0, statistics, still["statistics"])}
        slopes = {"params": chosen(count > 0, whole, own), "generator": gradient}
        return slopes, still, info | {"generator_loss": value}

    def leave(_key: Key, state: train.State, given: Given) -> Trained:
        generator = held(Weights(state.moving["generator"], state.still["statistics"]))
        trigger = given.carry["trigger"] | {"generator": generator}
        weights = Weights(state.moving["params"], state.still["batch_stats"])
        return Trained(weights, trigger if last else given.carry | {"trigger": trigger})

    return train.descend(
        lambda given: given.whole,
        begin=begin,
        gradient=slope,
        rule=rule,
        leave=leave,
        renew=renew,
        augment=parts.prepare,
        **recipe,
    )


def tuning(parts: Parts, **recipe) -> Stage:
    """The classifier alone, from where it is; its carry is the trigger."""

    def slope(key: Key, params: PyTree, still: PyTree, rows: Batch, given: Given):
        fixed, count = Weights(**given.carry["trigger"]["generator"]), parts.count(key, rows, given)
        gradients, batch_stats, info = weigh(parts, Weights(params, still["batch_stats"]), fixed, count, rows, given)
        return gradients, still | {"batch_stats": batch_stats}, info

    hooks = {"slope": slope, "leave": keep_trigger, "augment": parts.prepare}
    return train.supervised(parts.net, lambda given: given.whole, **hooks, **recipe)
