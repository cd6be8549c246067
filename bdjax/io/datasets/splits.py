"""The arrays of a dataset as every reader hands them over, what must hold of them, and the hash of their content."""

import hashlib
from typing import NamedTuple

import numpy as np

from bdjax.errors import InvalidInput


class Splits(NamedTuple):
    """A training and a test split."""

    classes: tuple[str, ...]  # name of class 0, 1, ...
    train_image: np.ndarray  # uint8 (n, height, width, channels), channels 1 or 3
    train_label: np.ndarray  # int32 (n,), 0 to classes - 1
    test_image: np.ndarray  # uint8 (m, height, width, channels)
    test_label: np.ndarray  # int32 (m,)


def check_classes(split: str, label: np.ndarray, classes: tuple[str, ...], where: str) -> None:
    """Every class has an image, every image a class.

    Raises:
        InvalidInput: a label is below 0 or at least the number of classes, or a class has no image.
    """
    if label.size and not 0 <= label.min() <= label.max() < len(classes):
        wrong = int(label.min()) if label.min() < 0 else int(label.max())
        raise InvalidInput(f"{where}: {split} has the label {wrong}; labels go from 0 to {len(classes) - 1}")
    missing = np.flatnonzero(np.bincount(label, minlength=len(classes)) == 0)
    if missing.size:
        name = classes[missing[0]]
        raise InvalidInput(
            f"{where}: class {name!r} has no image in {split}; every class needs one in train and in test"
        )


def check(splits: Splits, where: str) -> Splits:
    """The splits, found usable.

    Args:
        splits: what a reader made.
        where: the name or path that they were read from, for the error.

    Raises:
        InvalidInput: fewer than two classes, a class without images, a label out of range, images and labels of
            different number, or images that are not of one size with 1 or 3 channels.
    """
    if len(splits.classes) < 2:
        raise InvalidInput(f"{where}: {len(splits.classes)} class; a classifier needs at least 2")
    for split, image, label in (("train", *splits[1:3]), ("test", *splits[3:5])):
        if image.ndim != 4 or image.shape[-1] not in (1, 3) or 0 in image.shape[1:]:
            raise InvalidInput(
                f"{where}: {split} images are of shape {image.shape}; give (images, height, width, 1 or 3 channels)"
            )
        if label.shape != image.shape[:1]:
            raise InvalidInput(
                f"{where}: {split} has {len(image)} images and labels of shape {label.shape}; give one label an image"
            )
        check_classes(split, label, splits.classes, where)
    if splits.train_image.shape[1:] != splits.test_image.shape[1:]:
        one, two = splits.train_image.shape[1:], splits.test_image.shape[1:]
        raise InvalidInput(
            f"{where}: train images are {one} and test images {two} (height, width, channels); make them the same"
        )
    return splits


def digest(splits: Splits) -> str:
    """sha256 of class names, shapes, labels and pixels: the same wherever and however the dataset is stored."""
    content = hashlib.sha256(repr(splits.classes).encode())
    for array, kind in zip(splits[1:], ("|u1", "<i4", "|u1", "<i4"), strict=True):
        content.update(repr(array.shape).encode())
        content.update(np.ascontiguousarray(array, kind).reshape(-1).data)
    return content.hexdigest()
