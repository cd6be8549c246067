"""Which test images an analysis looks at, clean and with the trigger."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bdjax.data import sources
from bdjax.data.poison import counted
from bdjax.types import Array, Given, Key, Source, real

IMAGES = ("clean", "triggered")
"""The coordinate of the same test images without and with the trigger."""


class Twins(NamedTuple):
    """The same test images twice."""

    clean: Source
    triggered: Source  # with their true labels
    moved: Array  # bool (size,): which of them the attack has to move


def draw(key: Key, given: Given, rows: int) -> Twins:
    """At most `rows` random test images, those first that the attack has to move.

    given: `test`, `queries` and `target` of it are read.
    """
    every = jnp.arange(given.test.size, dtype=jnp.int32)
    moved = counted(given.test.read(every).label, given.target)
    order = jnp.lexsort((jax.random.uniform(key, moved.shape, real()), ~moved))[:rows].astype(jnp.int32)
    return Twins(sources.subset(given.test, order), sources.subset(given.queries, order), moved[order])
