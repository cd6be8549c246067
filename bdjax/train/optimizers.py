"""Optimizers with PyTorch's conventions, in which the field's recipes are written."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bdjax.types import Array, PyTree


def sgd(
    learning_rate,
    momentum,
    weight_decay=0.0,
    nesterov: bool = False,
    factors: Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformation:
    """SGD as PyTorch has it: v <- momentum v + (g + decay w); w <- w - rate v. All three may be traced.

    factors: parameters -> per-parameter learning-rate multipliers. Weight decay is divided by the multiplier, so the
    effective decay is the same for all; a parameter with multiplier 0 stays as it is.
    """
    rule = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )
    if factors is None:
        return rule
    # A gradient f times as large leaves v f times as large, which is the same as the rate; the decay stays what it is.
    return optax.chain(_scale(factors), rule, _scale(lambda params: jax.tree.map(jnp.sign, factors(params))))


def _scale(factors: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, factors(params)))


class Moments(NamedTuple):
    """What Adam keeps: steps taken, and moving means of gradients and their squares with the largest of the latter."""

    count: Array
    mean: PyTree
    square: PyTree
    largest: PyTree


def amsgrad(learning_rate, first=0.9, second=0.999, epsilon=1e-8) -> optax.GradientTransformation:
    """Adam with amsgrad as PyTorch has it: the largest square is taken before, not after, its bias is corrected."""

    def init(params: PyTree) -> Moments:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Moments(jnp.zeros((), jnp.int32), zeros, zeros, zeros)

    def update(gradients: PyTree, state: Moments, params: PyTree = None):
        del params
        count = state.count + 1
        mean = jax.tree.map(lambda m, g: first * m + (1 - first) * g, state.mean, gradients)
        square = jax.tree.map(lambda v, g: second * v + (1 - second) * g**2, state.square, gradients)
        largest = jax.tree.map(jnp.maximum, state.largest, square)
        step, scale = learning_rate / (1 - first**count), jnp.sqrt(1 - second**count)
        updates = jax.tree.map(lambda m, v: -step * m / (jnp.sqrt(v) / scale + epsilon), mean, largest)
        return updates, Moments(count, mean, square, largest)

    return optax.GradientTransformation(init, update)
