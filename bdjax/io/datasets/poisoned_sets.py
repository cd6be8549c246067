"""A user's own poisoned set: `--attacks set:PATH`, an attack given by its images instead of by a method.

PATH is an `.npz` file of one dataset, n training and q test images, in the types and shapes that the module `npz` says:

    train_image   the training images as the victim sees them, the poisoned ones in their place
    train_label   their true labels
    test_image    clean
    test_label    true
    poison_row    whole numbers (m,), 0 to n - 1, no row twice: the training rows that are poisoned
    poison_label  whole numbers (m,): the label that the victim sees on each of them
    query_image   like test_image, row by row: each test image with the trigger
    query_label   whole numbers (q,): the label that the attacker wants for each

A test image whose query_label is its test_label is not counted in ASR and RA, and its query_image is not used: copy
the clean image there. What the attacker wants must depend on the true class alone. The same file serves as the
`--dataset` of the study; so does a clean dataset that differs from it in the poisoned rows' images alone.

From clean arrays, and poisoned images with the rows that they belong to, as attack benchmarks export them:

    image = train_image.copy()
    image[poison_row] = poisoned_image
    query_image, query_label = test_image.copy(), test_label.copy()
    query_image[triggered_row] = triggered_image
    query_label[triggered_row] = target
    numpy.savez("set.npz", train_image=image, train_label=train_label, test_image=test_image, test_label=test_label,
                poison_row=poison_row, poison_label=numpy.full(len(poison_row), target),
                query_image=query_image, query_label=query_label)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.datasets import npz
from bdjax.io.datasets.arrays import declared, read
from bdjax.io.datasets.splits import Splits
from bdjax.io.files import write_atomically

OWN = ("poison_row", "poison_label", "query_image", "query_label")


class PoisonedSet(NamedTuple):
    """A poisoned set, checked. m poisoned rows, q test rows, c classes."""

    splits: Splits  # training images as the victim sees them, true labels
    row: np.ndarray  # int32 (m,), rising: the poisoned training rows
    label: np.ndarray  # int32 (m,): what the victim sees on them
    image: np.ndarray  # uint8 (m, height, width, channels): the poisoned images
    query_image: np.ndarray  # uint8 (q, height, width, channels): every test image with the trigger
    goal: np.ndarray  # int32 (c,): the label that the attacker wants for a class


def load_set(path: Path) -> PoisonedSet:
    """The poisoned set in the file at `path`.

    Raises:
        InvalidInput: the file is damaged, or something in it is not as the module says.
    """
    where = repr(str(path))
    splits = npz.read_splits(path)
    headers = declared(path, OWN)
    npz.check_images(headers, ("query_image",), where)
    npz.check_whole(headers, ("poison_row", "poison_label", "query_label"), where)
    own = read(path, OWN)
    row, label = _poison(own["poison_row"], own["poison_label"], splits, where)
    query_image = npz.with_channels(own["query_image"])
    if query_image.shape != splits.test_image.shape:
        given, wanted = query_image.shape, splits.test_image.shape
        raise InvalidInput(f"{where}: query_image is of shape {given}; give one row a test image, {wanted}")
    goal = _goal(own["query_label"], splits, where)
    return PoisonedSet(splits, row, label, splits.train_image[row], query_image, goal)


def save_set(path: Path, arrays: Mapping[str, np.ndarray]) -> PoisonedSet:
    """Write the arrays of a poisoned set to `path`, whole or not at all, and give the set.

    Raises:
        InvalidInput: something in it is not as the module says; nothing is left there then.
    """
    write_atomically(path, lambda temporary: np.savez(temporary, **arrays))
    try:
        return load_set(path)
    except InvalidInput:
        path.unlink()
        raise


def check_matches(poisoned: PoisonedSet, splits: Splits, where: str) -> None:
    """The study's dataset is the one that the set was made from.

    Args:
        poisoned: the set.
        splits: the study's dataset; only images of poisoned rows may differ.
        where: the set's path, for the error.

    Raises:
        InvalidInput: anything else differs.
    """
    own = poisoned.splits
    kept = np.ones(len(own.train_label), bool)
    kept[poisoned.row] = False
    same = own.train_image.shape == splits.train_image.shape and all(
        np.array_equal(one, two) for one, two in zip(own[2:], splits[2:], strict=True)
    )
    if not same or not np.array_equal(own.train_image[kept], splits.train_image[kept]):
        raise InvalidInput(f"{where}: made from another dataset than the study's; give the set itself as the dataset")


def _poison(row: np.ndarray, label: np.ndarray, splits: Splits, where: str) -> tuple[np.ndarray, np.ndarray]:
    count, classes = len(splits.train_label), len(splits.classes)
    if row.shape != label.shape or not 0 < row.size <= count:
        raise InvalidInput(
            f"{where}: {row.size} poison_row and {label.size} poison_label; give both for 1 to {count} rows"
        )
    if not 0 <= row.min() <= row.max() < count:
        raise InvalidInput(f"{where}: poison_row from {row.min()} to {row.max()}; rows go from 0 to {count - 1}")
    if np.unique(row).size < row.size:
        raise InvalidInput(f"{where}: poison_row names a row twice; give each row once")
    _check_labels("poison_label", label, classes, where)
    order = np.argsort(row)
    return row[order].astype(np.int32), label[order].astype(np.int32)


def _check_labels(name: str, label: np.ndarray, classes: int, where: str) -> None:
    if not 0 <= label.min() <= label.max() < classes:
        raise InvalidInput(f"{where}: {name} from {label.min()} to {label.max()}; labels go from 0 to {classes - 1}")


def _goal(query_label: np.ndarray, splits: Splits, where: str) -> np.ndarray:
    """The wanted label of every class, int32 (c,), from that of every test image."""
    true = splits.test_label
    if query_label.shape != true.shape:
        raise InvalidInput(f"{where}: {query_label.size} query_label; give one a test image, {true.size}")
    _check_labels("query_label", query_label, len(splits.classes), where)
    goal = np.zeros(len(splits.classes), np.int32)
    goal[true] = query_label
    mixed = np.flatnonzero(goal[true] != query_label)
    if mixed.size:
        name = splits.classes[true[mixed[0]]]
        raise InvalidInput(f"{where}: query_label differs within class {name!r}; give all images of a class the same")
    if np.array_equal(goal, np.arange(goal.size)):
        raise InvalidInput(f"{where}: every query_label is the true label; give the labels that the attacker wants")
    return goal
