"""Optimizers with PyTorch's conventions, in which the field's recipes are written."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bdjax.types import Array, PyTree


def sgd(
    learning_rate, momentum, weight_decay=0.0, nesterov: bool = False, factors: PyTree = None
) -> optax.GradientTransformation:
    """SGD as PyTorch has it: v <- momentum v + (g + decay w); w <- w - rate v. All three may be traced.

    factors: on each parameter's rate, by which its decay is divided, so that a step takes as much off all; at 0 it
    stays as it is.
    """
    rule = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )
    if factors is None:
        return rule
    # A gradient f times as large leaves v f times as large, which is the same as the rate; the decay stays what it is.
    return optax.chain(_scaled(factors), rule, _scaled(jax.tree.map(jnp.sign, factors)))


def _scaled(factors: PyTree) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors))


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
