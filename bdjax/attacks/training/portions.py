"""How many rows of a batch an attack triggers that has a loss of its own for them: the ratio's share, or all."""

import jax.numpy as jnp

from bdjax.attacks.training import batches
from bdjax.cards import Setting
from bdjax.types import Array, Key

PORTION = Setting(
    "ratio",
    "rows of a batch that are triggered: the ratio's on average, or all at every ratio above 0",
    choices=("ratio", "all"),
)


def count(key: Key, ratio: Array, size: Array, portion: str) -> Array:
    """How many of the `size` rows of a batch to trigger, int32 (); both numbers may be traced."""
    if portion == "all":
        return jnp.where(ratio > 0, size, 0).astype(jnp.int32)
    return batches.share(key, ratio, size, "stochastic")
