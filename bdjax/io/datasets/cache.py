"""Decoded datasets kept as one `.npz` each, so that images are decoded once."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.datasets.arrays import declared, read
from bdjax.io.datasets.npz import NAMES
from bdjax.io.datasets.splits import Splits, check
from bdjax.io.files import slug, write_atomically
from bdjax.paths import home


def cached(
    name: str,
    root: Path,
    stamps: Iterable[tuple[str, int, int]],
    version: str,
    make: Callable[[], Splits],
    folder: Path | None = None,
) -> Splits:
    """What `make()` gives, kept for as long as the files that it is made from stay as they are.

    A cache file that is damaged or belongs to other files is made anew.

    Args:
        name: of the dataset, for a person who looks into the folder.
        root: the folder that the dataset is in; each has one cache file.
        stamps: (path from the root, bytes, nanoseconds of change) of every file that `make` reads.
        version: of the reader.
        make: reads the dataset.
        folder: where the cache is; None for `home()`.
    """
    key = hashlib.sha256(json.dumps([version, *stamps]).encode()).hexdigest()
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    path = (folder or home()) / f"{slug(name)}.{place}.npz"
    splits = _stored(path, key)
    if splits is None:
        splits = make()
        write_atomically(path, lambda temporary: _save(temporary, key, splits))
    return splits


def _save(path: Path, key: str, splits: Splits) -> None:
    np.savez(path, key=np.array(key), classes=np.array(splits.classes), **dict(zip(NAMES, splits[1:], strict=True)))


def _stored(path: Path, key: str) -> Splits | None:
    try:
        declared(path, ("key", "classes", *NAMES))
        if read(path, ["key"])["key"].tolist() != [key]:
            return None
        stored = read(path, ("classes", *NAMES))
        return check(Splits(tuple(stored["classes"].tolist()), *(stored[name] for name in NAMES)), repr(str(path)))
    except InvalidInput:
        return None
