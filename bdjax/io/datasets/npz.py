"""A dataset in one `.npz` file: `train_image, train_label, test_image, test_label`.

Images are uint8 (n, height, width, channels) with 1 or 3 channels, or (n, height, width) for one; labels are whole
numbers from 0.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.datasets.arrays import Declared, declared, read
from bdjax.io.datasets.splits import Splits, check

VERSION = "npz-1"
NAMES = ("train_image", "train_label", "test_image", "test_label")


def read_splits(path: Path) -> Splits:
    """The dataset in the file at `path`; classes are called by their numbers.

    Raises:
        InvalidInput: the file is damaged or lacks an array, an array is of another type or shape than the module
            says, or the arrays are no dataset (see `splits.check`).
    """
    where = repr(str(path))
    headers = declared(path, NAMES)
    check_images(headers, ("train_image", "test_image"), where)
    check_whole(headers, ("train_label", "test_label"), where)
    arrays = read(path, NAMES)
    labels = arrays["train_label"], arrays["test_label"]
    low, top = min(int(label.min(initial=0)) for label in labels), max(int(label.max(initial=0)) for label in labels)
    if low < 0 or top >= len(labels[0]):  # before the cast to int32, in which they could wrap
        raise InvalidInput(f"{where}: labels from {low} to {top}; number classes from 0, each with a training image")
    train_label, test_label = (label.astype(np.int32) for label in labels)
    train_image, test_image = (with_channels(arrays[name]) for name in ("train_image", "test_image"))
    return check(Splits(tuple(map(str, range(top + 1))), train_image, train_label, test_image, test_label), where)


def check_images(headers: Mapping[str, Declared], names: tuple[str, ...], where: str) -> None:
    """Each of `names` is declared as images.

    Raises:
        InvalidInput: it is not uint8 of 3 or 4 dimensions.
    """
    for name in names:
        shape, kind = headers[name]
        if kind != np.uint8:
            raise InvalidInput(f"{where}: {name} is {kind}; give uint8 from 0 to 255")
        if len(shape) not in (3, 4):
            raise InvalidInput(f"{where}: {name} is of shape {shape}; give (images, height, width, channels)")


def check_whole(headers: Mapping[str, Declared], names: tuple[str, ...], where: str) -> None:
    """Each of `names` is declared as a row of whole numbers.

    Raises:
        InvalidInput: it is not one-dimensional or of another type.
    """
    for name in names:
        shape, kind = headers[name]
        if kind.kind not in "iu" or len(shape) != 1:
            raise InvalidInput(f"{where}: {name} is {kind} of shape {shape}; give whole numbers of shape (images,)")


def with_channels(image: np.ndarray) -> np.ndarray:
    """Images (n, height, width, channels), also from (n, height, width)."""
    return image[..., None] if image.ndim == 3 else image
