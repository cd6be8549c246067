"""Weight space: straight paths, curves with bends, planes through three models, and what a path says.

Curves: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs,
NeurIPS 2018, arXiv:1802.10026, section 3.2; planes: its appendix A.1. The barrier: Frankle, Dziugaite, Roy, Carbin,
Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020, arXiv:1912.05671, section 2.
"""

import math
import operator
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bdjax.types import Array, PyTree

FLAT = 1e-5
"""Three points lie on one line where the third is no farther from it than this share of its distance to the first."""


def straight(start: PyTree, end: PyTree, place: Array | float) -> PyTree:
    """(1 - t) start + t end for t = place in [0, 1]; beyond it the line goes on."""
    return jax.tree.map(lambda a, b: (1 - place) * a + place * b, start, end)


def bend(start: PyTree, middle: PyTree, end: PyTree, place: Array | float) -> PyTree:
    """The quadratic Bezier curve (1 - t)^2 start + 2 t (1 - t) middle + t^2 end."""
    return bezier((start, middle, end), place)


def bezier(points: tuple[PyTree, ...], place: Array | float) -> PyTree:
    """The Bezier curve of n + 1 points, sum_i binom(n, i) t^i (1 - t)^(n - i) point_i for t = place in [0, 1]."""
    last = len(points) - 1
    return mixed(points, [math.comb(last, i) * place**i * (1 - place) ** (last - i) for i in range(last + 1)])


def chain(points: tuple[PyTree, ...], place: Array | float) -> PyTree:
    """The polygonal chain through n + 1 points, which it passes at the places i / n."""
    last = len(points) - 1
    return mixed(points, [jnp.maximum(0, 1 - jnp.abs(place * last - i)) for i in range(last + 1)])


def mixed(points: tuple[PyTree, ...], shares: list[Array | float]) -> PyTree:
    """The sum of trees alike, each times its share."""

    def add(*leaves: Array) -> Array:
        return reduce(operator.add, [share * leaf for share, leaf in zip(shares, leaves, strict=True)])

    return jax.tree.map(add, *points)


def dot(one: PyTree, two: PyTree) -> Array:
    """The inner product over all leaves of two trees alike, float ()."""
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, one, two)), start=jnp.zeros(()))


def norm(tree: PyTree) -> Array:
    """The Euclidean length over all leaves, float ()."""
    return jnp.sqrt(dot(tree, tree))


def distance(one: PyTree, two: PyTree) -> Array:
    """The Euclidean distance of two trees alike, float ()."""
    return norm(jax.tree.map(jnp.subtract, one, two))


class Plane(NamedTuple):
    """The plane through three points of weight space."""

    origin: PyTree  # the first of them
    axes: tuple[PyTree, PyTree]  # orthonormal; the first points to the second point
    corners: Array  # float (3, 2): the three points in these coordinates; the third has a second one above 0


def plane(one: PyTree, two: PyTree, three: PyTree) -> Plane:
    """The plane through three trees alike; axes and corners are NaN where the three lie on one line."""
    across, aside = (jax.tree.map(jnp.subtract, other, one) for other in (two, three))
    width = norm(across)
    first = jax.tree.map(lambda leaf: leaf / width, across)
    along = dot(aside, first)
    rest = jax.tree.map(lambda a, b: a - along * b, aside, first)
    height = jnp.where(norm(rest) > FLAT * norm(aside), norm(rest), jnp.nan)
    second = jax.tree.map(lambda leaf: leaf / height, rest)
    zero = jnp.zeros_like(width)
    corners = jnp.array([[zero, zero], [width, zero], [along, height]])
    return Plane(one, (first, second), corners)


def located(plane: Plane, x: Array | float, y: Array | float) -> PyTree:
    """The point of a plane at coordinates x and y."""
    return jax.tree.map(lambda at, first, second: at + x * first + y * second, plane.origin, *plane.axes)


def barrier(error: Array) -> Array:
    """How far the error rises above the chord between a path's ends, float (), at least 0.

    error: float (points,) at places evenly spaced from one end to the other.
    """
    place = jnp.linspace(0, 1, error.size)
    return jnp.max(error - ((1 - place) * error[0] + place * error[-1]))


def share_above(value: Array, level: float = 0.5) -> Array:
    """The share of a path on which a value is above a level, float () in [0, 1].

    value: float (points,) at places evenly spaced, at least two; straight lines between them.
    """
    high, low = jnp.maximum(value[1:], value[:-1]), jnp.minimum(value[1:], value[:-1])
    slope = jnp.where(high > low, high - low, 1)
    crossed = jnp.clip((high - level) / slope, 0, 1)
    return jnp.mean(jnp.where(high > low, crossed, high > level))
