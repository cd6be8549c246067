"""Checksums of arrays, kept beside them so that a reader notices a flipped bit."""

import hashlib
from collections.abc import Mapping

import numpy as np

from bdjax.types import Array


def checksum(arrays: Mapping[str, Array], text: str = "") -> str:
    """SHA-256 over a text and the names, types, shapes and bytes of arrays in any order: 64 hexadecimal digits."""
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        value = np.asarray(arrays[name], order="C")
        found.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        found.update(value.reshape(-1).view(np.uint8))
    return found.hexdigest()
