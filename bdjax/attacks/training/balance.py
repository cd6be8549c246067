"""Weights for two losses: the point of least norm on the line between their gradients.

Désidéri, Multiple-gradient descent algorithm (MGDA) for multiobjective optimization, Comptes Rendus Mathématique, 2012,
https://doi.org/10.1016/j.crma.2012.03.014; Sener, Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS
2018, https://arxiv.org/abs/1810.04650, algorithm 1, with the constants of their released code.
"""

import jax.numpy as jnp

from bdjax.cards import Setting
from bdjax.metrics.geometry import dot
from bdjax.types import Array, PyTree

NORMALIZATION = Setting(
    "loss_norm",
    "what gradients are divided by before the point is sought: loss times norm, loss, norm, or nothing",
    choices=("loss_norm", "loss", "norm", "none"),
)

EDGE = 0.001
"""The weight of the longer gradient where the point of least norm is the other one's end."""

LARGEST, EPSILON = 10.0, 1e-5
"""The largest loss, and loss times norm, that a gradient is divided by, and what is added to every divisor."""


def least(first: Array, both: Array, second: Array) -> Array:
    """The share c of the first of two vectors for which c a + (1 - c) b is shortest, from a.a, a.b and b.b."""
    distance = first + second - 2 * both
    inner = (second - both) / jnp.where(distance > 0, distance, 1)
    return jnp.where(both >= first, 1 - EDGE, jnp.where(both >= second, EDGE, inner))


def divisor(loss: Array, norm: Array, normalization: str) -> Array | float:
    """What a gradient of this norm is divided by."""
    if normalization == "none":
        return 1.0
    if normalization == "norm":
        return norm
    return jnp.minimum(loss * norm if normalization == "loss_norm" else loss, LARGEST)


def balanced(gradients: tuple[PyTree, PyTree], losses: tuple[Array, Array], normalization: str) -> tuple[Array, Array]:
    """The weights of two losses, summing to 1, from their gradients in all parameters."""
    one, other = gradients
    first, both, second = dot(one, one), dot(one, other), dot(other, other)
    norms = jnp.sqrt(first), jnp.sqrt(second)
    a, b = (divisor(loss, norm, normalization) + EPSILON for loss, norm in zip(losses, norms, strict=True))
    share = least(first / (a * a), both / (a * b), second / (b * b))
    return share, 1 - share
