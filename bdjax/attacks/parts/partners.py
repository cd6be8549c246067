"""Other images: a cover sample of some attacks carries what the trigger makes of an image that is not its own."""

import jax
import jax.numpy as jnp

from bdjax.attacks.parts.common import row_key
from bdjax.types import Array, Data, Key, Net, PyTree, real

COUNT = 256
"""Images among which the cover rows on record have theirs; training draws from the whole split."""


def prepare(key: Key, net: Net, data: Data, settings) -> dict[str, Array]:
    """Random images of the training split, each once: the assets that `partner` reads."""
    del net, settings
    size = data.label.size
    rows = jax.random.permutation(key, size)[: min(COUNT, size)]
    return {"image": data.image[rows], "row": rows.astype(jnp.int32)}


def partner(assets: PyTree, key: Array, row: Array) -> Array:
    """The other image of a row, float (height, width, channels) in [0, 1]: always the same, and never its own.

    key: uint32 (2,) as `common.saved` makes it.
    """
    count = assets["row"].size
    index = jax.random.randint(row_key(key, row), (), 0, count)
    index = jnp.where(assets["row"][index] == row, (index + 1) % count, index)
    return assets["image"][index].astype(real()) / 255
