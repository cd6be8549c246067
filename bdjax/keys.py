"""Random streams by name, so that adding a seed, a ratio or a method changes no other cell.

Keys are threefry, named outright: the only kind that draws the same numbers inside and outside `vmap`.
"""

import hashlib

import jax

from bdjax.types import Array, Key


def root(seed: int | Array) -> Key:
    """The key of a cell. seed: a non-negative integer below 2**31, may be traced."""
    return jax.random.key(seed, impl="threefry2x32")


def stream(key: Key, name: str) -> Key:
    """The stream called `name`, by a hash that is the same on every machine and in every process."""
    digest = hashlib.sha256(name.encode()).digest()
    return jax.random.fold_in(key, int.from_bytes(digest[:4], "big"))
