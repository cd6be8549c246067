"""Outliers by principal components: how far a row of figures lies from those that a model was fitted to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bdjax.types import Array


class Axes(NamedTuple):
    """Principal axes of standardized figures."""

    mean: Array  # float (d,)
    scale: Array  # float (d,)
    axis: Array  # float (d, d), a column an axis, the widest first
    variance: Array  # float (d,), along each
    used: Array  # bool (d,), the axes that count, none without variance


def fit_axes(figures: Array, member: Array, dims: int = 0) -> Axes:
    """The axes of the members, bool (n,), among figures float (n, d); constant figures are only centered.

    dims: axes that count; 0: as many as `evidence` is largest for.
    """
    weight = member.astype(figures.dtype)[:, None]
    count = jnp.maximum(jnp.sum(weight), 2)
    mean = jnp.sum(weight * figures, 0) / count
    deviation = jnp.sqrt(jnp.sum(weight * (figures - mean) ** 2, 0) / count)
    scale = jnp.where(deviation > 1e-12, deviation, 1)
    inside = weight * (figures - mean) / scale
    variance, axis = jnp.linalg.eigh(inside.T @ inside / (count - 1))
    variance, axis = jnp.maximum(variance[::-1], 0), axis[:, ::-1]
    peak = jnp.take_along_axis(axis, jnp.argmax(jnp.abs(axis), axis=0)[None], axis=0)
    axis = axis * jnp.where(peak < 0, -1, 1)  # as scikit-learn has them
    number = dims or jnp.argmax(evidence(variance, count)) + 1
    return Axes(mean, scale, axis, variance, (jnp.arange(variance.size) < number) & (variance > 1e-9))


def evidence(variance: Array, count: Array) -> Array:
    """The log evidence for 1, .., d - 1 axes, float (d - 1,), of variances (d,), falling, over `count` rows.

    Minka, Automatic Choice of Dimensionality for PCA, NIPS 2000, equation 30.
    """
    size, tiny = variance.size, jnp.finfo(variance.dtype).tiny
    place = jnp.arange(size)
    free = (size - place) / 2
    volume = jnp.cumsum(jax.scipy.special.gammaln(free) - jnp.log(jnp.pi) * free)

    def of(number: Array) -> Array:
        first, rest = place < number, size - number
        noise = jnp.maximum(jnp.sum(jnp.where(first, 0, variance)) / rest, 1e-15)
        fitted = jnp.maximum(jnp.where(first, variance, noise), tiny)
        pairs = first[:, None] & (place[None] > place[:, None])
        apart = (variance[:, None] - variance[None]) * (1 / fitted[None] - 1 / fitted[:, None])
        curvature = jnp.sum(jnp.where(pairs, jnp.log(jnp.maximum(apart, tiny)) + jnp.log(count), 0))
        kept = jnp.sum(jnp.where(first, jnp.log(jnp.maximum(variance, tiny)), 0))
        parameters = size * number - number * (number + 1) / 2 + number
        found = volume[number - 1] - number * jnp.log(2.0) - count / 2 * (kept + rest * jnp.log(noise))
        found += (jnp.log(2 * jnp.pi) * parameters - curvature - number * jnp.log(count)) / 2
        return jnp.where(variance[number - 1] < 1e-15, -jnp.inf, found)

    return jax.vmap(of)(jnp.arange(1, size))


def reach(axes: Axes, figures: Array) -> Array:
    """The sum over axes of squared projections by variance, float (b,), of figures (b, d).

    Shyu, Chen, Sarinnapakorn, Chang, A Novel Anomaly Detection Scheme Based on Principal Component Classifier, 2003.
    """
    place = (figures - axes.mean) / axes.scale @ axes.axis
    return jnp.sum(jnp.where(axes.used, place**2 / jnp.maximum(axes.variance, 1e-12), 0), axis=1)


def spread(axes: Axes, figures: Array) -> Array:
    """The sum over axes of the distance to the axis's unit vector by its share of the variance, as PyOD has it."""
    figures = (figures - axes.mean) / axes.scale
    square = jnp.sum(figures**2, axis=1, keepdims=True) - 2 * figures @ axes.axis + 1
    share = axes.variance / jnp.maximum(jnp.sum(axes.variance), 1e-9)
    distance = jnp.sqrt(jnp.maximum(square, 0)) / jnp.maximum(share, 1e-12)
    return jnp.sum(jnp.where(axes.used, distance, 0), axis=1)
