"""Inversion and unlearning in rounds: the stages that BTI-DBF and PAM are made of.

Xu et al., ICLR 2024, https://openreview.net/forum?id=Tw9wemV6cb, the unlearning form: a generator is pretrained, then
in every round a mask is learned, the generator learns against it, and the model learns from batches in which some
images are the generator's under their true labels. How it learns from them is what the two methods differ in.

What the stages hand on besides weights, by name: `pixels`, `moments` of the clean rows; `generator` and `adam`, its
parameters and their optimizer's state; `mask` and `statistics`, of a round's inversion; `target`, the class detected in
round 0; `optimizer`, the model's; `round`, from 0. It is the same in every round, so that rounds share their functions.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Setting
from bdjax.defenses.parts import inversion
from bdjax.defenses.parts.inversion import Inverter
from bdjax.train.descend import RuleFn
from bdjax.types import Array, Defense, Given, PyTree, Source, Stage, Trained, Weights, real

SETTINGS = inversion.SETTINGS | {
    "rounds": Setting(5, "of inversion and unlearning", "rounds", low=1),
    "unlearning_epochs": Setting(30, "of the model, a round", "epochs", low=1),
    "learning_rate": Setting(1e-4, "of the model, constant", low=0.0),
    "reversed": Setting(
        0.1, "share of a batch that the generator makes; and one row more", "fraction", low=0.0, high=1.0
    ),
}
"""For cards, whose defaults differ in some."""


def clean(given: Given) -> Source:
    """What every stage reads: the defender's clean rows."""
    return given.clean


def pretraining(found: Inverter, epochs: int, batch: int, agreement: str, rule: RuleFn) -> Stage:
    """The generator learns to give its images back; rule: that of the model."""

    def begin(key, given, weights):
        still = {"weights": train.start(given, weights), "pixels": inversion.moments(given.clean)}
        return found.generator.init(key), still

    def leave(_key, state, given):
        weights, zero = state.still["weights"], jnp.zeros((), jnp.int32)
        optimizer = rule(given, train.Clock(zero, 1, 1)).init(weights.params)
        carry = {"generator": state.moving, "adam": optax.adam(0.0).init(state.moving), "optimizer": optimizer}
        return Trained(weights, carry | {"pixels": state.still["pixels"], "target": zero, "round": zero})

    parts = {"begin": begin, "leave": leave, "rule": train.adam("generator_rate")}
    return train.descend(clean, epochs=epochs, batch=batch, loss=inversion.restoring(found, agreement), **parts)


def masking(found: Inverter, epochs: int, batch: int, batch_statistics: bool) -> Stage:
    """A new mask is learned on a copy of the model."""

    def begin(key, _given, weights):
        mask = jax.random.normal(key, found.size, real())
        return mask, {"weights": weights, "statistics": weights.batch_stats}

    def leave(_key, state, given):
        learned = {"mask": inversion.bounded(state.moving), "statistics": state.still["statistics"]}
        return Trained(state.still["weights"], given.carry | learned)

    parts = {"begin": begin, "leave": leave, "rule": train.adam("mask_rate")}
    return train.descend(clean, epochs=epochs, batch=batch, loss=inversion.decoupling(found, batch_statistics), **parts)


def generating(found: Inverter, epochs: int, batch: int) -> Stage:
    """The generator learns against the mask; at the end of round 0 the target is detected."""

    def begin(_key, given, weights):
        return given.carry["generator"], {"weights": weights}, given.carry["adam"]

    def leave(key, state, given):
        weights, carry = state.still["weights"], _without(given.carry, "mask", "statistics")
        target = inversion.detected(key, found, weights, state.moving, carry["pixels"], given)
        target = jnp.where(carry["round"] > 0, carry["target"], target)
        return Trained(weights, carry | {"generator": state.moving, "adam": state.opt_state, "target": target})

    parts = {"begin": begin, "leave": leave, "rule": train.adam("generator_rate"), "takes": ("generator", "adam")}
    return train.descend(clean, epochs=epochs, batch=batch, loss=inversion.reversing(found), **parts)


def _without(tree: Mapping[str, PyTree], *names: str) -> dict[str, PyTree]:
    return {name: value for name, value in tree.items() if name not in names}


def mixed(made: Array, image: Array, weight: Array, share: Array) -> Array:
    """The images (b, height, width, channels), of which the first floor(share n + 1) are `made`, n of weight 1.

    Batches are random, so the first rows are random ones.
    """
    replaced = jnp.arange(len(image)) < jnp.floor(share * jnp.sum(weight) + 1)
    return jnp.where(replaced[:, None, None, None], made, image)


def unlearning(found: Inverter, epochs: int, batch: int, rule: RuleFn, gradient: Callable) -> Stage:
    """The model learns from clean images among which are the generator's.

    gradient: (weights, mixed images, rows, given) -> (gradients, batch_stats, info).
    """

    def begin(_key, given, weights):
        return weights.params, weights.batch_stats, given.carry["optimizer"]

    def slope(_key, params, batch_stats, rows, given):
        made = found.generated(given.carry["generator"], given.carry["pixels"], rows.image)
        image = mixed(made, rows.image, rows.weight, given.settings["reversed"])
        return gradient(Weights(params, batch_stats), image, rows, given)

    def leave(_key, state, given):
        carry = given.carry | {"optimizer": state.opt_state, "round": given.carry["round"] + 1}
        return Trained(Weights(state.moving, state.still), carry)

    parts = {"begin": begin, "leave": leave, "rule": rule, "takes": ("optimizer",)}
    return train.descend(clean, epochs=epochs, batch=batch, gradient=slope, **parts)


def stages(
    found: Inverter,
    rule: RuleFn,
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

    def leave(_key, state, given):
        return Trained(Weights(state.moving, state.still), {"target": given.carry["target"]})

    last = unlearn._replace(finish=leave)
    return pretraining(found, pretraining_epochs, batch, agreement, rule), *repeated[:-1], last
