"""Inversion and unlearning in rounds: the stages that BTI-DBF and PAM are made of.

Xu et al., ICLR 2024, https://openreview.net/forum?id=Tw9wemV6cb, the unlearning form: a generator is pretrained, then
in every round a mask is learned, the generator learns against it, and the model learns from batches in which some
images are the generator's under their true labels. How it learns from them is what the two methods differ in.

What the stages hand on besides weights, by name: `pixels`, `moments` of the clean rows; `generator` and `adam`, its
parameters and their optimizer's state; `mask` and `statistics`, of a round's inversion; `target`, the class detected in
round 0; `optimizer`, the model's; `round`, from 0. It is the same in every round, so that rounds share their functions.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bdjax import train
from bdjax.cards import Setting
from bdjax.defenses import inversion
from bdjax.defenses.inversion import Inverter
from bdjax.keys import stream
from bdjax.types import Array, Batch, Defense, Given, Key, Procedure, PyTree, Trained, Weights, real

SETTINGS = inversion.SETTINGS | {
    "rounds": Setting(5, "of inversion and unlearning", "rounds", low=1),
    "unlearning_epochs": Setting(30, "of the model, a round", "epochs", low=1),
    "learning_rate": Setting(1e-4, "of the model, constant", low=0.0),
    "reversed": Setting(
        0.1, "share of a batch that the generator makes; and one row more", "fraction", low=0.0, high=1.0
    ),
}
"""For cards, whose defaults differ in some."""


@struct.dataclass
class State:
    """What a stage carries."""

    weights: Weights  # of the model
    learned: PyTree  # by a stage of the inversion; the model's own are in `weights`
    optimizer: PyTree
    kept: dict[str, PyTree]  # what is handed on


def _stage(epochs: int, batch: int, begin: Callable, step: Callable, leave: Callable) -> Procedure:
    """A stage over the clean rows, augmented and in random order.

    begin: (key, weights, given, carry) -> (learned, optimizer, kept); step: (state, rows, given) -> (state, info);
    leave: (key, state, given) -> carry. A carry is what the stage before left besides weights, {} for the first.
    """

    def init(key: Key, given: Given, previous: Trained | None) -> State:
        weights = train.start(given, previous)
        return State(weights, *begin(key, weights, given, {} if previous is None else previous.carry))

    def order(key: Key, state: State, epoch: Array, given: Given) -> Array:
        del state, epoch
        return train.shuffled(key, given.clean.size, batch)

    def augmented(key: Key, state: State, rows: Batch, given: Given):
        return step(state, rows.replace(image=given.augment(stream(key, "augment"), rows.image)), given)

    def finish(key: Key, state: State, given: Given) -> Trained:
        return Trained(state.weights, leave(key, state, given))

    return Procedure(lambda given: given.clean, epochs, init, order, augmented, finish)


def _adam(learned: PyTree) -> PyTree:
    return optax.adam(0.0).init(learned)


def _descent(rate: str, loss: Callable) -> Callable:
    """A step of Adam on `loss(learned, weights, kept, rows, settings) -> (value, (changes of kept, info))`."""

    def step(state: State, rows: Batch, given: Given):
        slope = jax.grad(loss, has_aux=True)
        gradient, (changes, info) = slope(state.learned, state.weights, state.kept, rows, given.settings)
        updates, optimizer = optax.adam(given.settings[rate]).update(gradient, state.optimizer)
        learned = optax.apply_updates(state.learned, updates)
        return State(state.weights, learned, optimizer, state.kept | changes), info

    return step


def pretraining(found: Inverter, epochs: int, batch: int, agreement: str, rule: Callable) -> Procedure:
    """The generator learns to give its images back; rule: settings -> the model's optimizer."""

    def begin(key, weights, given, carry):
        del carry
        params, zero = found.generator.init(key), jnp.zeros((), jnp.int32)
        rest = {"optimizer": rule(given.settings).init(weights.params), "target": zero, "round": zero}
        return params, _adam(params), rest | {"pixels": inversion.moments(given.clean)}

    def leave(key, state, given):
        del key, given
        return state.kept | {"generator": state.learned, "adam": _adam(state.learned)}

    step = _descent("generator_rate", inversion.restoring(found, agreement))
    return _stage(epochs, batch, begin, step, leave)


def masking(found: Inverter, epochs: int, batch: int, batch_statistics: bool) -> Procedure:
    """A new mask is learned on a copy of the model."""

    def begin(key, weights, given, carry):
        del given
        mask = jax.random.normal(key, found.size, real())
        return mask, _adam(mask), carry | {"statistics": weights.batch_stats}

    def leave(key, state, given):
        del key, given
        return state.kept | {"mask": inversion.bounded(state.learned)}

    return _stage(epochs, batch, begin, _descent("mask_rate", inversion.decoupling(found, batch_statistics)), leave)


def generating(found: Inverter, epochs: int, batch: int) -> Procedure:
    """The generator learns against the mask; at the end of round 0 the target is detected."""

    def begin(key, weights, given, carry):
        del key, weights, given
        return carry["generator"], carry["adam"], _without(carry, "generator", "adam")

    def leave(key, state, given):
        kept, params = _without(state.kept, "mask", "statistics"), state.learned
        target = inversion.detected(key, found, state.weights, params, kept["pixels"], given)
        target = jnp.where(kept["round"] > 0, kept["target"], target)
        return kept | {"generator": params, "adam": state.optimizer, "target": target}

    return _stage(epochs, batch, begin, _descent("generator_rate", inversion.reversing(found)), leave)


def _without(tree: dict[str, PyTree], *names: str) -> dict[str, PyTree]:
    return {name: value for name, value in tree.items() if name not in names}


def mixed(made: Array, image: Array, weight: Array, share: Array) -> Array:
    """The images (b, height, width, channels), of which the first floor(share n + 1) are `made`, n of weight 1.

    Batches are random, so the first rows are random ones.
    """
    replaced = jnp.arange(len(image)) < jnp.floor(share * jnp.sum(weight) + 1)
    return jnp.where(replaced[:, None, None, None], made, image)


def unlearning(found: Inverter, epochs: int, batch: int, rule: Callable, gradient: Callable) -> Procedure:
    """The model learns from clean images among which are the generator's.

    rule: settings -> optimizer; gradient: (weights, mixed images, rows, given) -> (gradients, batch_stats, info).
    """

    def begin(key, weights, given, carry):
        del key, weights, given
        return {}, carry["optimizer"], _without(carry, "optimizer")

    def step(state: State, rows: Batch, given: Given):
        made = found.generated(state.kept["generator"], state.kept["pixels"], rows.image)
        image = mixed(made, rows.image, rows.weight, given.settings["reversed"])
        gradients, batch_stats, info = gradient(state.weights, image, rows, given)
        updates, optimizer = rule(given.settings).update(gradients, state.optimizer, state.weights.params)
        params = optax.apply_updates(state.weights.params, updates)
        return state.replace(weights=Weights(params, batch_stats), optimizer=optimizer), info

    def leave(key, state, given):
        del key, given
        return state.kept | {"optimizer": state.optimizer, "round": state.kept["round"] + 1}

    return _stage(epochs, batch, begin, step, leave)


def stages(
    found: Inverter,
    rule: Callable,
    gradient: Callable,
    *,
    rounds: int,
    inversions: int,
    batch: int,
    pretraining_epochs: int,
    agreement: str,
    mask_epochs: int,
    batch_statistics: bool,
    generator_epochs: int,
    unlearning_epochs: int,
) -> Defense:
    """Pretraining, then rounds, of which the first `inversions` learn a mask and the generator anew.

    rule and gradient are those of `unlearning`; the other settings are those of SETTINGS. In the end only the detected
    target is left besides the weights.
    """
    mask = masking(found, mask_epochs, batch, batch_statistics)
    generate = generating(found, generator_epochs, batch)
    unlearn = unlearning(found, unlearning_epochs, batch, rule, gradient)
    repeated = (mask, generate, unlearn) * inversions + (unlearn,) * (rounds - inversions)
    last = unlearn._replace(finish=lambda key, state, given: Trained(state.weights, {"target": state.kept["target"]}))
    return pretraining(found, pretraining_epochs, batch, agreement, rule), *repeated[:-1], last
