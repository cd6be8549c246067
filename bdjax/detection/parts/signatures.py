"""Spectral signatures: how far the features of a row reach along the direction in which those of its class vary most.

Tran, Li, Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018, arXiv:1811.00636, algorithm 1.
"""

import jax
import jax.numpy as jnp

from bdjax.data import sources
from bdjax.types import Array, Net, Source, Weights


def features(net: Net, weights: Weights, source: Source, tap: str) -> tuple[Array, Array]:
    """The activations at a tap of all rows of a source, flattened, float (n, d), and their labels, int32 (n,)."""

    def read(rows):
        found = net.apply(weights, rows.image)[2][tap]
        return found.reshape(len(found), -1), rows.label

    return sources.each(source, read)


def reach(feature: Array, label: Array, classes: int, centered: bool) -> Array:
    """|<v, r>| of every row, float (n,), v the top right singular vector of its class's centred features.

    feature: float (n, d); label: int32 (n,), as the training set has them. centered: r less the mean of its class.
    """

    def of_class(number: Array) -> Array:
        member = (label == number)[:, None].astype(feature.dtype)
        centred = feature - jnp.sum(member * feature, 0) / jnp.maximum(jnp.sum(member), 1)
        inside = member * centred
        direction = jnp.linalg.eigh(inside.T @ inside)[1][:, -1]  # the largest eigenvalue comes last
        return jnp.abs((centred if centered else feature) @ direction) * member[:, 0]

    return jnp.sum(jax.lax.map(of_class, jnp.arange(classes)), 0)


def above_percentile(score: Array, label: Array, classes: int, percentile: Array) -> Array:
    """Which rows score above a percentile of their class, linearly interpolated as NumPy does: bool (n,).

    percentile: float () in [0, 100]. Of n_c rows without ties n_c - 1 - floor((n_c - 1) percentile / 100) do.
    """

    def of_class(number: Array) -> Array:
        member = label == number
        ordered = jnp.sort(jnp.where(member, score, jnp.inf))
        place = jnp.maximum(jnp.sum(member) - 1, 0) * percentile / 100
        low = jnp.floor(place).astype(jnp.int32)
        high = jnp.ceil(place).astype(jnp.int32)
        bound = ordered[low] + (place - low) * jnp.where(high > low, ordered[high] - ordered[low], 0)
        return member & (score > bound)

    return jnp.any(jax.lax.map(of_class, jnp.arange(classes)), 0)
