"""Random streams by name, so that adding a seed, a ratio or a method changes no other cell.

Keys are threefry, named outright: the only kind that draws the same numbers inside and outside `vmap`.
"""

import hashlib

import jax
import numpy as np

from bdjax.types import Array, Key


def root(seed: int | Array) -> Key:
    """The key of a cell. seed: a non-negative integer below 2**31, may be traced."""
    return jax.random.key(seed, impl="threefry2x32")


def number(name: str) -> np.int32:
    """The number of the stream called `name`: a hash that is the same on every machine and in every process."""
    return np.int32(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big", signed=True))


def stream(key: Key, name: str | Array) -> Key:
    """The stream called `name`, or that of such a `number`, which may be traced."""
    return jax.random.fold_in(key, number(name) if isinstance(name, str) else name)
