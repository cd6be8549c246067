"""Sources: rows read inside the trace from data on the device, stamped where they are poisoned."""

import jax
import jax.numpy as jnp

from bdjax.types import COVER, POISONED, Array, Attack, Batch, Data, Given, Key, Poison, PyTree, Source, StampFn, real


def _batch(image: Array, label: Array, row: Array) -> Batch:
    return Batch(image, label, row, (row >= 0).astype(real()))


def _pixels(data: Data, row: Array) -> Array:
    return data.image[row].astype(real()) / 255


def split(data: Data) -> Source:
    """A split as it is."""
    if not data.label.size:  # of which no row can be read, not even while it is traced
        data = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), data)
        return Source(0, split(data).read)
    return Source(data.label.size, lambda row: _batch(_pixels(data, row), data.label[row], row))


def numbers(size: int) -> Source:
    """Rows of nothing but their numbers, for a stage that reads no images; they count as padding does."""

    def read(row: Array) -> Batch:
        empty = jnp.zeros(row.shape, real())
        return Batch(empty.reshape(-1, 1, 1, 1), jnp.zeros_like(row), row, empty)

    return Source(size, read)


def poisoned(data: Data, poison: Poison, attack: Attack, assets: PyTree) -> Source:
    """The training set as the victim sees it: `attack`'s stamps and labels on the rows that `poison` names."""

    def read(row: Array) -> Batch:
        image = _pixels(data, row)
        role = poison.role[row]

        def where(wanted: int, stamp, image: Array) -> Array:
            changed = _stamp(stamp, assets, poison, image, row)
            return jnp.where((role == wanted)[:, None, None, None], changed, image)

        result = where(POISONED, attack.stamp, image)
        if attack.cover is not None:
            result = where(COVER, attack.cover, result)
        return _batch(result, poison.label[row], row)

    return Source(data.label.size, read)


def _stamp(stamp: StampFn, assets: PyTree, poison: Poison, image: Array, row: Array) -> Array:
    """Training images (b, height, width, channels) of rows int32 (b,), each under its own variant of the trigger."""

    def one(image: Array, row: Array) -> Array:
        variant = jnp.int8(0) if poison.variant is None else poison.variant[row]
        return stamp(assets, poison.trigger | {"variant": variant}, image, row)

    return jax.vmap(one)(image, row)


def wanted(data: Data, poison: Poison, attack: Attack, assets: PyTree) -> Source:
    """Every row of the training set under `attack`'s stamp and with the label that it wants."""

    def read(row: Array) -> Batch:
        image = _stamp(attack.stamp, assets, poison, _pixels(data, row), row)
        return _batch(image, attack.goal(data.label[row]), row)

    return Source(data.label.size, read)


def stamped(data: Data, trigger: PyTree, stamp: StampFn, assets: PyTree) -> Source:
    """Every row of a split under `stamp`, such as an attack's `query`, with its true label."""

    def change(batch: Batch) -> Batch:
        image = jax.vmap(stamp, in_axes=(None, None, 0, 0))(assets, trigger, batch.image, batch.row)
        return batch.replace(image=image)

    return mapped(split(data), change)


def mapped(source: Source, change) -> Source:
    """The source with `change(batch) -> batch` applied to what it reads."""
    return Source(source.size, lambda row: change(source.read(row)))


def augmented_once(key: Key, source: Source, given: Given) -> Source:
    """The rows under the dataset's augmentation, which is the same whenever the same batches are read."""

    def change(rows: Batch) -> Batch:
        return rows.replace(image=given.augment(jax.random.fold_in(key, rows.row[0]), rows.image))

    return mapped(source, change)


def balanced_rows(key: Key, label: Array, classes: int, counts: tuple[int, ...]) -> tuple[Array, ...]:
    """Disjoint random rows with the same number of every class.

    Args:
        key: of the draw.
        label: int32 (n,), every class at least sum(counts) times; rows labelled `classes` are left out.
        classes: K.
        counts: rows a class in each of the sets.

    Returns:
        For each count c, int32 (K c,) rows in order of class.
    """
    order = jnp.lexsort((jax.random.uniform(key, label.shape, real()), label)).astype(jnp.int32)
    first = jnp.searchsorted(label[order], jnp.arange(classes, dtype=label.dtype))
    drawn, begun = [], 0
    for count in counts:
        drawn.append(order[first[:, None] + begun + jnp.arange(count)].reshape(-1))
        begun += count
    return tuple(drawn)


def subset(source: Source, rows: Array) -> Source:
    """Rows `rows` int32 (m,) of a source, renumbered from 0."""

    def read(row: Array) -> Batch:
        batch = source.read(jnp.where(row < 0, -1, rows[row]))
        return batch.replace(row=row, weight=(row >= 0).astype(batch.weight.dtype))

    return Source(rows.size, read)


def concatenated(first: Source, second: Source) -> Source:
    """The rows of `first`, then those of `second`."""

    def read(row: Array) -> Batch:
        late = row >= first.size
        one = first.read(jnp.where(late, -1, row))
        two = second.read(jnp.where(late, row - first.size, -1))

        def pick(a: Array, b: Array) -> Array:
            return jnp.where(late.reshape(-1, *[1] * (a.ndim - 1)), b, a)

        return _batch(pick(one.image, two.image), pick(one.label, two.label), row)

    return Source(first.size + second.size, read)


def total(source: Source, function, batch: int = 256) -> PyTree:
    """The sum over a source's batches of `function(batch) -> pytree`; rows of weight 0 pad the last batch."""
    batch = max(1, min(batch, source.size))

    def read(index: Array) -> PyTree:
        row = index * batch + jnp.arange(batch, dtype=jnp.int32)
        return function(source.read(jnp.where(row < source.size, row, -1)))

    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(read, jnp.int32(0)))

    def body(index: Array, sums: PyTree) -> PyTree:
        return jax.tree.map(jnp.add, sums, read(index))

    return jax.lax.fori_loop(0, -(-source.size // batch), body, empty)


def in_turn(size: int, batch: int) -> Array:
    """The rows 0 to size - 1 in their order, int32 (steps, batch); -1 pads the last batch."""
    batch = max(1, min(batch, size))
    rows = jnp.arange(-(-size // batch) * batch, dtype=jnp.int32)
    return jnp.where(rows < size, rows, -1).reshape(-1, batch)


def each(source: Source, function, batch: int = 256) -> PyTree:
    """`function(batch) -> pytree` of leaves (b, ...) of all rows of a source: leaves (size, ...) in the rows' order."""
    found = jax.lax.map(lambda row: function(source.read(row)), in_turn(source.size, batch))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: source.size], found)


def shuffled(source: Source) -> Source:
    """The rows in a random order, always the same: a defender's rows come in order of class, and batches must not."""
    return subset(source, jax.random.permutation(jax.random.key(0), source.size))
