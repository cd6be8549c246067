"""Which rows a covariance should be made of when a few of them may be anything.

Diakonikolas, Kamath, Kane, Li, Moitra, Stewart, Being Robust (in High Dimensions) Can Be Practical, ICML 2017,
arXiv:1703.00893, algorithm 3: rows far out go, then those far out along the direction, a quadratic form, in which the
fourth moments are least like a normal distribution's.
"""

from functools import partial

import jax
import jax.numpy as jnp

from bdjax.detection.parts.classes import largest
from bdjax.types import Array

STEPS = 60
FACTOR, OFFSET, FAILURE = 10, 3, 0.1
"""Constants of the algorithm and the probability with which it may fail, as all public versions have them."""


def covariance(place: Array, member: Array) -> Array:
    """The sample covariance (k, k) of the members of place (n, k)."""
    weight = member.astype(place.dtype)[:, None]
    centered = weight * (place - jnp.sum(weight * place, 0) / jnp.maximum(jnp.sum(weight), 1))
    return centered.T @ centered / jnp.maximum(jnp.sum(weight) - 1, 1)


def inverse_root(matrix: Array) -> Array:
    """The symmetric S^(-1/2) of a covariance (k, k); 0 along directions without variance."""
    value, axes = jnp.linalg.eigh(matrix)
    kept = value > value[-1] * len(value) * jnp.finfo(value.dtype).eps
    return (axes * jnp.where(kept, jax.lax.rsqrt(jnp.where(kept, value, 1)), 0)) @ axes.T


def top_form(white: Array, weight: Array) -> tuple[Array, Array]:
    """The largest eigenvalue () and its symmetric V (k, k), of norm 1, of the mean of (zz) (zz)^T less (I) (I)^T.

    white: float (n, k); weight: float (n,), the share of each row z. By Lanczos' method, so that k^2 x k^2 numbers are
    never made.
    """
    dims = white.shape[1]
    steps = min(STEPS, dims * (dims + 1) // 2)

    def apply(form: Array) -> Array:
        form = form.reshape(dims, dims)
        along = weight * jnp.sum(white @ form * white, 1)
        return (white.T @ (along[:, None] * white) - jnp.trace(form) * jnp.eye(dims, dtype=white.dtype)).ravel()

    def step(index: Array, state):
        basis, images, new = state
        size = jnp.linalg.norm(new)
        for _ in range(2):  # once more, for rounding
            new -= basis.T @ (basis @ new)
        left = jnp.linalg.norm(new)
        new = jnp.where(left > 1e3 * jnp.finfo(new.dtype).eps * size, new / jnp.where(left > 0, left, 1), 0)
        image = apply(new)
        return basis.at[index].set(new), images.at[index].set(image), image

    start = jax.random.normal(jax.random.key(0), (dims, dims), white.dtype)
    empty = jnp.zeros((steps, dims**2), white.dtype)
    basis, images, _ = jax.lax.fori_loop(0, steps, step, (empty, empty, (start + start.T).ravel()))
    small = basis @ images.T
    value, axes = jnp.linalg.eigh((small + small.T) / 2)
    return value[-1], (basis.T @ axes[:, -1]).reshape(dims, dims)


def median(value: Array, member: Array) -> Array:
    """The median of the members of value (n,)."""
    ordered, count = jnp.sort(jnp.where(member, value, jnp.inf)), jnp.sum(member)
    return (ordered[jnp.maximum(count - 1, 0) // 2] + ordered[count // 2]) / 2


def filter_once(place: Array, kept: Array, limit: Array, share: Array, rule: str) -> tuple[Array, Array]:
    """(kept bool (n,), whether it is done): one pass of algorithm 3 over the rows kept so far, `limit` going at most.

    share: float (), of poisoned rows; rule: `rank` or `rest`, see `keep`.
    """
    dims, count = place.shape[1], jnp.sum(kept)
    weight = kept / jnp.maximum(count, 1).astype(place.dtype)
    white = place @ inverse_root(place.T @ (weight[:, None] * place))
    norm = jnp.sum(white**2, 1)
    far = kept & (norm >= FACTOR * dims * jnp.log(count / FAILURE))
    value, form = top_form(white, weight)
    accepted = value <= (1 + FACTOR * share * jnp.log(share) ** 2) * jnp.sum(form**2)
    moment = (jnp.sum(white @ form * white, 1) - jnp.trace(form)) / jnp.sqrt(2)
    deviation = jnp.abs(moment - median(moment, kept))
    ordered = jnp.sort(jnp.where(kept, deviation, jnp.inf))
    height, place_in = ordered - OFFSET, jnp.arange(len(ordered))
    safe = jnp.where(height > 1, height, jnp.e)
    tail = jnp.where(height <= -FACTOR * jnp.log(share), 1, 3 * share / (safe * jnp.log(safe)) ** 2)
    reached = (place_in + 1) / count if rule == "rank" else 1 - place_in / count
    cuts = (place_in < count) & (height > 0) & (reached >= tail)
    early = jnp.any(far)
    inside = jnp.where(early, ~far, deviation <= height[jnp.argmax(cuts)])
    lowest = largest(-jnp.where(early, norm, deviation), kept, jnp.maximum(count - limit, 0))
    ends = ~early & (accepted | ~jnp.any(cuts))
    return jnp.where(ends, kept, kept & (inside | lowest)), ends


def keep(place: Array, member: Array, poisoned: Array, rule: str) -> Array:
    """The rows of a class of which a covariance should be made, bool (n,).

    Args:
        place: float (n, k), centered.
        member: bool (n,).
        poisoned: float (), how many rows are; twice as many may go.
        rule: what of the i-th of n sorted deviations must reach the tail: `rank`, i/n, as in SPECTRE's own code, or
            `rest`, 1 - i/n, the share beyond it.
    """
    share = jnp.maximum(poisoned, 1) / jnp.maximum(jnp.sum(member), 1)
    once = partial(filter_once, place, share=share.astype(place.dtype), rule=rule)

    def again(state):
        kept, limit, _ = state
        after, ends = once(kept, limit)
        limit -= jnp.sum(kept & ~after, dtype=limit.dtype)
        return after, limit, ends | (limit <= 0)

    limit = jnp.round(2 * poisoned).astype(jnp.int32)
    return jax.lax.while_loop(lambda state: ~state[2], again, (member, limit, limit <= 0))[0]
