"""Sources: rows read inside the trace from data on the device, stamped where they are poisoned."""

import jax
import jax.numpy as jnp

from bdjax.types import COVER, POISONED, Array, Attack, Batch, Data, Poison, PyTree, Source, real


def _batch(image: Array, label: Array, row: Array) -> Batch:
    return Batch(image, label, row, (row >= 0).astype(real()))


def _pixels(data: Data, row: Array) -> Array:
    return data.image[row].astype(real()) / 255


def split(data: Data) -> Source:
    """A split as it is."""
    return Source(data.label.size, lambda row: _batch(_pixels(data, row), data.label[row], row))


def poisoned(data: Data, poison: Poison, attack: Attack, assets: PyTree) -> Source:
    """The training set as the victim sees it: `attack`'s stamps and labels on the rows that `poison` names."""

    def read(row: Array) -> Batch:
        image = _pixels(data, row)
        role = poison.role[row]

        def stamped(stamp, wanted: int, image: Array) -> Array:
            changed = jax.vmap(stamp, in_axes=(None, None, 0, 0))(assets, poison.trigger, image, row)
            return jnp.where((role == wanted)[:, None, None, None], changed, image)

        result = stamped(attack.stamp, POISONED, image)
        if attack.cover is not None:
            result = stamped(attack.cover, COVER, result)
        return _batch(result, poison.label[row], row)

    return Source(data.label.size, read)


def mapped(source: Source, change) -> Source:
    """The source with `change(batch) -> batch` applied to what it reads."""
    return Source(source.size, lambda row: change(source.read(row)))


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
