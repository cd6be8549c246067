"""Work on the rows of one class, given as a mask over all rows so that shapes do not depend on labels."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.types import Array, Key

OUTLYING = float(np.exp(2))
"""From which anomaly on a class stands apart, as Tang et al. (SCAn) and most after them have it."""


def anomaly(value: Array, epsilon: float = 1e-6) -> Array:
    """|v - median| / (1.4826 (MAD + epsilon)) of each value, float (k,); MAD: the median of |v - median|."""
    distance = jnp.abs(value - jnp.median(value))
    return distance / (1.4826 * (jnp.median(distance) + epsilon))


def largest(score: Array, member: Array, count: Array) -> Array:
    """The `count` members with the largest scores, bool (n,), exactly so many; of equal ones the first.

    score: float (n,); member: bool (n,); count: int32 (), all members where there are fewer.
    """
    order = jnp.argsort(jnp.where(member, -score, jnp.inf), stable=True)
    rank = jnp.zeros(score.shape, jnp.int32).at[order].set(jnp.arange(score.size, dtype=jnp.int32))
    return member & (rank < count)


def principal(feature: Array, member: Array, dims: int) -> Array:
    """Coordinates on the members' first principal axes, float (n, dims); fewer where the features are fewer.

    feature: float (n, d), less the members' mean here; member: bool (n,). The entry of an axis that is largest by
    magnitude is positive, the convention of scikit-learn.
    """
    weight = member.astype(feature.dtype)[:, None]
    centered = feature - jnp.sum(weight * feature, 0) / jnp.maximum(jnp.sum(weight), 1)
    inside = weight * centered
    axes = jnp.linalg.eigh(inside.T @ inside)[1][:, ::-1][:, :dims]
    peak = jnp.take_along_axis(axes, jnp.argmax(jnp.abs(axes), axis=0)[None], axis=0)
    return centered @ (axes * jnp.where(peak < 0, -1, 1))


def two_means(key: Key, feature: Array, member: Array, restarts: int, rounds: int = 100) -> tuple[Array, Array]:
    """The members in two clusters: the best of several runs of Lloyd's algorithm.

    Arthur, Vassilvitskii, k-means++: The Advantages of Careful Seeding, SODA 2007, says which rows a run starts from.

    Args:
        key: of the starts.
        feature: float (n, d).
        member: bool (n,).
        restarts: runs, of which the one with the least squared distances is taken.
        rounds: of a run, at most.

    Returns:
        margin float (n,), |x - c0|^2 - |x - c1|^2, positive on the side of the second center, of members and others;
        centers float (2, d).
    """
    weight = member.astype(feature.dtype)
    norm = jnp.sum(feature**2, axis=1)

    def margin(centers: Array) -> Array:
        return 2 * feature @ (centers[1] - centers[0]) - jnp.sum(centers[1] ** 2 - centers[0] ** 2)

    def start(key: Key) -> Array:
        first, second = jax.random.split(key)
        one = feature[jax.random.categorical(first, jnp.log(weight))]
        apart = jnp.maximum(norm - 2 * feature @ one + jnp.sum(one**2), 0)
        return jnp.stack([one, feature[jax.random.categorical(second, jnp.log(weight * apart))]])

    def move(state):
        centers, _, step = state
        second = margin(centers) > 0
        share = weight * jnp.stack([~second, second])
        count = jnp.sum(share, axis=1, keepdims=True)
        return jnp.where(count > 0, share @ feature / jnp.maximum(count, 1), centers), centers, step + 1

    def run(key: Key) -> tuple[Array, Array]:
        centers = start(key)
        state = centers, jnp.full_like(centers, jnp.inf), 0
        centers = jax.lax.while_loop(lambda state: jnp.any(state[0] != state[1]) & (state[2] < rounds), move, state)[0]
        reach = norm - 2 * feature @ centers[0] + jnp.sum(centers[0] ** 2) - jnp.maximum(margin(centers), 0)
        return jnp.sum(weight * reach), centers

    spread, centers = jax.lax.map(run, jax.random.split(key, restarts))
    best = centers[jnp.argmin(spread)]
    return margin(best), best
