"""How far numbers lie outside a skewed distribution of their own.

Hubert, Vandervieren, An Adjusted Boxplot for Skewed Distributions, Computational Statistics & Data Analysis, 2008,
section 3; Brys, Hubert, Struyf, A Robust Measure of Skewness, JCGS 2004, for the medcouple.
"""

import jax.numpy as jnp

from bdjax.types import Array


def quantile(value: Array, member: Array, share: float) -> Array:
    """A quantile of the members, linearly interpolated; value float (n,), member bool (n,)."""
    ordered = jnp.sort(jnp.where(member, value, jnp.inf), axis=None)
    place = jnp.maximum(jnp.sum(member) - 1, 0) * share
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.ceil(place).astype(jnp.int32)
    gap = jnp.where(high > low, ordered[high] - ordered[low], 0)
    return ordered[low] + (place - low) * gap


def medcouple(value: Array, member: Array) -> Array:
    """The skewness of the members in [-1, 1]: the median of ((b - m) - (m - a)) / (b - a) over a <= m <= b."""
    order = jnp.argsort(jnp.where(member, value, jnp.inf))
    value, member = value[order], member[order]
    value = jnp.where(member, value - quantile(value, member, 0.5), 0)
    upper, lower = value[:, None], value[None]
    pairs = (member & (value >= 0))[:, None] & (member & (value <= 0))
    ties = member & (value == 0)
    tie = jnp.cumsum(ties) - 1
    sign = jnp.sign(tie[:, None] + tie - jnp.sum(ties) + 1)
    both = ties[:, None] & ties
    kernel = jnp.where(both, sign, (upper + lower) / jnp.where(upper > lower, upper - lower, 1))
    return quantile(kernel, pairs, 0.5)


def outlyingness(value: Array, member: Array) -> Array:
    """The distance to the median by that of the adjusted boxplot's whisker on the same side, float (n,)."""
    median = jnp.sort(jnp.where(member, value, jnp.inf))[jnp.maximum(jnp.sum(member) - 1, 0) // 2]
    first, third = quantile(value, member, 0.25), quantile(value, member, 0.75)
    skew = medcouple(value, member)
    short, long = jnp.where(skew > 0, -4, -3), jnp.where(skew > 0, 3, 4)
    low = first - 1.5 * jnp.exp(short * skew) * (third - first)
    high = third + 1.5 * jnp.exp(long * skew) * (third - first)
    above, below = (value - median) / (high - median), (median - value) / (median - low)
    return jnp.where(value > median, above, below)
