"""In which order the rows of a source are read in an epoch: int32 (steps, batch), of one shape in every epoch."""

import jax
import jax.numpy as jnp

from bdjax.types import Array, Key, real


def steps_per_epoch(size: int, batch: int, drop_last: bool = False) -> int:
    """Steps in an epoch over `size` rows; a batch is never larger than the source."""
    batch = min(batch, size)
    return size // batch if drop_last else -(-size // batch)


def shuffled(key: Key, size: int, batch: int, drop_last: bool = False) -> Array:
    """A random order of the rows 0 to size - 1, int32 (steps, batch); -1 pads the last batch."""
    steps, batch = steps_per_epoch(size, batch, drop_last), min(batch, size)
    rows = jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))[: steps * batch]
    return jnp.pad(rows, (0, steps * batch - rows.size), constant_values=-1).reshape(steps, batch)


def chosen(key: Key, mask: Array, batch: int) -> Array:
    """A random order of the rows where mask bool (n,) is true, int32 (steps, batch), as many steps as for all n rows.

    -1 pads the batch in which they end and all later ones, which then change nothing.
    """
    size = mask.size
    steps, batch = steps_per_epoch(size, batch), min(batch, size)
    order = jnp.lexsort((jax.random.uniform(key, mask.shape, real()), ~mask)).astype(jnp.int32)
    order = jnp.where(jnp.arange(size) < jnp.sum(mask), order, -1)
    return jnp.pad(order, (0, steps * batch - size), constant_values=-1).reshape(steps, batch)


def drawn_partners(key: Key, weight: Array) -> Array:
    """With which row each is mixed, int32 (m,): a random order of the rows, which leaves padding among itself."""
    padding = weight == 0
    order = jnp.lexsort((jax.random.uniform(key, weight.shape, real()), padding))
    return jnp.zeros_like(order).at[jnp.argsort(padding)].set(order)


def cycled(key: Key, mask: Array, batch: int, steps: int) -> Array:
    """The rows where mask bool (n,) is true, over and over, int32 (steps, batch): passes in random orders of their own.

    A pass leaves out the rows that do not fill a batch; where fewer than a batch are true, -1 pads each.
    """
    size = mask.size
    batch, count = min(batch, size), jnp.sum(mask, dtype=jnp.int32)
    length = jnp.maximum(count // batch, 1) * batch

    def add(number: Array, rows: Array) -> Array:
        chance = jax.random.uniform(jax.random.fold_in(key, number), mask.shape, real())
        order = jnp.lexsort((chance, ~mask)).astype(jnp.int32)
        return jax.lax.dynamic_update_slice(rows, jnp.where(jnp.arange(size) < count, order, -1), (number * length,))

    # What a pass writes beyond its length the next one overwrites.
    rows = jnp.full(steps * batch + size, -1, jnp.int32)
    rows = jax.lax.fori_loop(0, -(-steps * batch // length), add, rows)
    return rows[: steps * batch].reshape(steps, batch)
