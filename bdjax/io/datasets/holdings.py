"""What somebody holds beside a suspicious model: clean images, perhaps some to test it on, perhaps triggered ones.

Every folder holds class folders, `<class>/*`, in the formats of the module `folders`. Classes may have different
numbers of images, and some may have none. A folder of triggered images may also hold the images themselves, where
nobody knows what they show.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.datasets import decode, folders
from bdjax.io.files import check_memory
from bdjax.types import Data

SHARE = 5
"""One in so many clean images of a class chooses thresholds where nobody gives others."""

FORM = "it holds a folder for each class, and images in those"
UNKNOWN = -1
"""The label of an image of which nobody knows what it shows."""


class Holdings(NamedTuple):
    """Images uint8 (n, height, width, channels) of one size and their labels int32 (n,), numpy arrays."""

    classes: tuple[str, ...]
    clean: Data
    valid: Data  # on which thresholds are chosen
    test: Data | None = None
    triggered: Data | None = None  # labels are the true ones, UNKNOWN where nobody knows them

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes of which there is no clean image."""
        often = np.bincount(self.clean.label, minlength=len(self.classes))
        return tuple(name for name, count in zip(self.classes, often, strict=True) if not count)

    def colored(self) -> "Holdings":
        """The same with three channels, alike where images are gray."""
        return Holdings(self.classes, *(data and _colored(data) for data in self[1:]))

    def digest(self) -> str:
        """sha256 of class names, shapes, labels and pixels, split by split."""
        content = hashlib.sha256(repr(self.classes).encode())
        for data in self[1:]:
            content.update(repr(None if data is None else data.image.shape).encode())
            for array in () if data is None else (data.image, data.label):
                content.update(np.ascontiguousarray(array).tobytes())
        return content.hexdigest()


def read(
    clean: Path,
    valid: Path | None = None,
    test: Path | None = None,
    triggered: Path | None = None,
    *,
    count: int,
    classes: tuple[str, ...] = (),
) -> Holdings:
    """The images in somebody's folders.

    Args:
        clean, valid, test, triggered: folders; without `valid` every fifth clean image of a class, drawn at random.
        count: classes that the model knows.
        classes: their names in the model's order; () for the order of the folders' names, see `class_order`.

    Raises:
        InvalidInput: a folder is empty or holds something else, the images differ in size, or classes are unclear.
    """
    named = {"clean": clean, "valid": valid, "test": test}
    known = {split: [entry.name for entry in _folders(path)] for split, path in named.items() if path}
    if triggered and not _is_flat(triggered):
        known["triggered"] = [entry.name for entry in _folders(triggered)]
    classes = class_order(
        sorted(set().union(*known.values())), count, classes, _places(named | {"triggered": triggered})
    )
    size = decode.image(first(clean)).shape[:2]
    found = {split: _labeled(named.get(split, triggered), known[split], classes, size) for split in known}
    if triggered and "triggered" not in found:
        found["triggered"] = _unlabeled(triggered, size)
    found = _alike(found)
    if "valid" not in found:
        found["clean"], found["valid"] = parted(found["clean"])
    return Holdings(classes, **found)


def class_order(names: list[str], count: int, classes: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The names of all classes in the model's order.

    Those that are given; else folders that are called by numbers below `count` are those numbers, others are in the
    order of their names, of which there must be as many as classes.

    Raises:
        InvalidInput: names are given that are too few or too many or lack a folder's, or the order is not clear.
    """
    if classes:
        if len(classes) != count or len(set(classes)) != count:
            raise InvalidInput(f"{len(set(classes))} class names; the model has {count} classes; give each a name")
        if other := sorted(set(names) - set(classes)):
            raise InvalidInput(f"{where}: folder {other[0]!r} is none of the class names {', '.join(classes)[:200]}")
        return classes
    if all(name.isdecimal() and int(name) < count for name in names) and len(set(map(int, names))) == len(names):
        held = {int(name): name for name in names}
        return tuple(held.get(place, str(place)) for place in range(count))
    if len(names) == count:
        return tuple(names)
    raise InvalidInput(
        f"{where}: {len(names)} class folders and a model of {count} classes; name all classes in the model's order"
    )


def _places(folders: dict[str, Path | None]) -> str:
    """The folders that class names were read from, for errors."""
    return ", ".join(dict.fromkeys(str(path) for path in folders.values() if path))


def parted(data: Data) -> tuple[Data, Data]:
    """Clean images and those for thresholds: of each class one in SHARE, drawn at random, always the same; of a class
    with a single image none."""
    order = np.asarray(jax.random.permutation(jax.random.key(0), len(data.label)))
    taken = np.zeros(len(data.label), bool)
    for label in np.unique(data.label):
        rows = order[data.label[order] == label]
        taken[rows[: max(len(rows) // SHARE, int(len(rows) > 1))]] = True
    if not taken.any():
        raise InvalidInput("no class has two clean images; give more, or a folder of others for thresholds")
    return Data(data.image[~taken], data.label[~taken]), Data(data.image[taken], data.label[taken])


def _folders(path: Path) -> list:
    found = folders.entries(path, "", folders=True, form=FORM)
    if not found:
        raise InvalidInput(f"{str(path)!r}: empty; {FORM}")
    return found


def _is_flat(path: Path) -> bool:
    """Whether a folder holds images themselves."""
    try:
        return not any(one.is_dir() for one in Path(path).iterdir() if not one.name.startswith("."))
    except OSError as error:
        raise InvalidInput(f"{str(path)!r}: {error.strerror}; {FORM}") from error


def first(path: Path) -> Path:
    """The first image in a folder of class folders.

    Raises:
        InvalidInput: there is none.
    """
    for folder in _folders(path):
        for entry in folders.entries(path, folder.name, folders=False, form=FORM):
            return Path(entry.path)
    raise InvalidInput(f"{str(path)!r}: no image in it; {FORM}")


def _labeled(path: Path, names: list[str], classes: tuple[str, ...], size: tuple[int, int]) -> Data:
    label = {name: classes.index(name) for name in names}
    files = [
        (f"{name}/{entry.name}", label[name])
        for name in names
        for entry in folders.entries(path, name, folders=False, form=FORM)
    ]
    return _read(path, files, size)


def _unlabeled(path: Path, size: tuple[int, int]) -> Data:
    found = folders.entries(path, "", folders=False, form=FORM)
    return _read(path, [(entry.name, UNKNOWN) for entry in found], size)


def _read(path: Path, files: list[tuple[str, int]], size: tuple[int, int]) -> Data:
    if not files:
        raise InvalidInput(f"{str(path)!r}: no image in it; {FORM}")
    check_memory(3 * len(files) * size[0] * size[1], repr(str(path)))
    image = folders.read_images(path, files, *size)
    return Data(image, np.array([label for _, label in files], np.int32))


def _alike(found: dict[str, Data]) -> dict[str, Data]:
    """All splits with three channels where one has colors."""
    if len({data.image.shape[-1] for data in found.values()}) == 1:
        return found
    return {split: _colored(data) for split, data in found.items()}


def _colored(data: Data) -> Data:
    return Data(np.ascontiguousarray(np.broadcast_to(data.image, (*data.image.shape[:3], 3))), data.label)
