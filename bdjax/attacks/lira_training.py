"""The two stages of LIRA: its generator together with the classifier, then the classifier alone.

Doan, Lao, Zhao, Li, LIRA: Learnable, Imperceptible and Robust Backdoor Attacks, ICCV 2021: the two stages of its
optimisation, with the constants of the authors' released code.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bdjax import train
from bdjax.attacks import batches, portions
from bdjax.attacks.generators import held
from bdjax.keys import stream
from bdjax.types import Array, Batch, Given, Key, Net, Poison, Procedure, PyTree, Trained, Weights


@struct.dataclass
class Joint:
    """What the first stage carries."""

    fit: train.State
    learned: Weights  # the generator that is trained
    fixed: Weights  # the same as it was when the epoch began, whose images the classifier learns from
    optimizer: PyTree
    ratio: Array  # (): share of rows to trigger
    trigger: PyTree


@struct.dataclass
class Tuning:
    """What the second stage carries."""

    fit: train.State
    ratio: Array
    trigger: PyTree


class Parts(NamedTuple):
    """What both stages work with."""

    net: Net
    generator: Net
    goal: Callable[[Array], Array]
    augment: Callable[[Key, Batch, Given], Array]
    portion: str

    def prepared(self, key: Key, rows: Batch, given: Given, ratio: Array) -> tuple[Batch, Array]:
        """The batch, augmented, and how many of its rows are triggered."""
        rows = rows.replace(image=self.augment(stream(key, "augment"), rows, given))
        return rows, portions.count(stream(key, "share"), ratio, jnp.sum(rows.weight), self.portion)

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


def weighed(parts: Parts, fixed: Weights, count: Array):
    """The classifier's gradient: of the loss on clean rows and, where there are any, on triggered ones."""

    def gradient(net: Net, weights: Weights, image: Array, rows: Batch, given: Given):
        share = given.settings["clean_weight"]
        copies = parts.copied(image, parts.generator.apply(fixed, image)[0], count, given)

        def loss(params: PyTree):
            at = weights.replace(params=params)
            logits, moved, _ = net.apply(at, image, train=True, weight=rows.weight)
            clean = train.cross_entropy(logits, rows.label, rows.weight)
            poisoned, after = parts.asked(at.replace(batch_stats=moved), copies, rows, count)
            value = jnp.where(count > 0, share * clean + (1 - share) * poisoned, clean)
            accuracy = train.accuracy(logits, rows.label, rows.weight)
            info = {"loss": clean, "poisoned_loss": poisoned, "accuracy": accuracy}
            return value, (chosen(count > 0, after, moved), info)

        gradients, (batch_stats, info) = jax.grad(loss, has_aux=True)(weights.params)
        return gradients, batch_stats, info

    return gradient


def stages(net: Net, generator: Net, goal, *, joint_epochs, inclusive, leaking, tuned, portion, epochs, **static):
    """The first stage and, if `tuned`, the second, from the attack's settings of these names."""
    kinds = ("augmentation", "crop", "flip", "interpolation", "fill")
    augment = batches.augmentation(*(static.pop(name) for name in kinds))
    parts = Parts(net, generator, goal, augment, portion)
    batch, drop_last = static["batch"], static["drop_last"]
    first = joint(parts, leaking, not tuned, epochs=joint_epochs, batch=batch, drop_last=drop_last)
    epochs = max(1, epochs - joint_epochs) if inclusive else epochs
    return (first, tuning(parts, epochs=epochs, **static)) if tuned else (first,)


def joint(parts: Parts, leaking: bool, last: bool, **recipe) -> Procedure:
    """The generator and the classifier in turn, step by step; `last`: whether its carry is the trigger."""

    def classifier(gradient=None) -> Procedure:
        hook = {} if gradient is None else {"gradient": gradient}
        clean = {"fresh": True, "augment": False, "schedule": "constant"}
        return train.supervised(parts.net, lambda given: given.clean, **clean, **recipe, **hook)

    plain = classifier()

    def bare(given: Given) -> Given:
        return given._replace(settings=dict(given.settings) | {"weight_decay": 0.0})

    def rule(given: Given) -> optax.GradientTransformation:
        return optax.adam(given.settings["generator_learning_rate"])

    def init(key: Key, given: Given, previous: Poison) -> Joint:
        generator = Weights(**previous.trigger["generator"])
        fit, kept = plain.init(key, bare(given), None), rule(given).init(generator.params)
        return Joint(fit, generator, generator, kept, batches.ratio(previous), previous.trigger)

    def order(key: Key, state: Joint, epoch: Array, given: Given) -> Array:
        return plain.order(key, state.fit, epoch, given)

    def deceive(state: Joint, rows: Batch, count: Array, given: Given):
        """Gradients, in the generator and the classifier, of the loss on what the generator makes of the batch."""

        def loss(learned: PyTree, params: PyTree):
            at, victim = state.learned.replace(params=learned), state.fit.weights.replace(params=params)
            noise, batch_stats, _ = parts.generator.apply(at, rows.image, train=True, weight=rows.weight)
            copies = parts.copied(rows.image, noise, count, given)
            value, moved = parts.asked(victim, copies, rows, count)
            return value, (batch_stats, moved)

        both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        return both(state.learned.params, state.fit.weights.params)

    def step(key: Key, state: Joint, rows: Batch, given: Given):
        steps = train.steps_per_epoch(given.clean.size, recipe["batch"], recipe["drop_last"])
        fixed = chosen(state.fit.step % steps == 0, state.learned, state.fixed)
        rows, count = parts.prepared(key, rows, given, state.ratio)
        (value, (batch_stats, moved)), (gradient, leak) = deceive(state, rows, count, given)
        updates, kept = rule(given).update(gradient, state.optimizer)
        after = Weights(optax.apply_updates(state.learned.params, updates), batch_stats)
        learned, kept = chosen(count > 0, (after, kept), (state.learned, state.optimizer))
        at = state.fit.weights.replace(batch_stats=chosen(count > 0, moved, state.fit.weights.batch_stats))

        def follow(*arguments):
            own, moved, info = weighed(parts, fixed, count)(*arguments)
            whole = jax.tree.map(jnp.add, own, leak) if leaking else own
            return chosen(count > 0, whole, own), moved, info | {"generator_loss": value}

        fit, info = classifier(follow).step(key, state.fit.replace(weights=at), rows, bare(given))
        return state.replace(fit=fit, learned=learned, fixed=fixed, optimizer=kept), info

    def finish(key: Key, state: Joint, given: Given) -> Trained:
        del key, given
        trigger = state.trigger | {"generator": held(state.learned)}
        return Trained(state.fit.weights, trigger if last else {"ratio": state.ratio, "trigger": trigger})

    return Procedure(plain.source, plain.epochs, init, order, step, finish)


def tuning(parts: Parts, **recipe) -> Procedure:
    """The classifier alone, from where it is; its carry is the trigger."""

    def classifier(gradient=None) -> Procedure:
        hook = {} if gradient is None else {"gradient": gradient}
        return train.supervised(parts.net, lambda given: given.clean, augment=False, **recipe, **hook)

    plain = classifier()

    def init(key: Key, given: Given, previous: Trained) -> Tuning:
        return Tuning(plain.init(key, given, previous), previous.carry["ratio"], previous.carry["trigger"])

    def order(key: Key, state: Tuning, epoch: Array, given: Given) -> Array:
        return plain.order(key, state.fit, epoch, given)

    def step(key: Key, state: Tuning, rows: Batch, given: Given):
        rows, count = parts.prepared(key, rows, given, state.ratio)
        gradient = weighed(parts, Weights(**state.trigger["generator"]), count)
        fit, info = classifier(gradient).step(key, state.fit, rows, given)
        return state.replace(fit=fit), info

    def finish(key: Key, state: Tuning, given: Given) -> Trained:
        del key, given
        return Trained(state.fit.weights, state.trigger)

    return Procedure(plain.source, plain.epochs, init, order, step, finish)
