"""Datasets by name: registered ones, class folders, `.npz` files and prepared TFDS datasets, all as one type."""

import os
import re
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from bdjax.cards import Method, lookup
from bdjax.errors import InvalidInput
from bdjax.io.datasets import decode, digits, folders, npz, tfds
from bdjax.io.datasets.cache import cached
from bdjax.io.datasets.splits import Splits, digest
from bdjax.paths import local, portable
from bdjax.types import Data

MIRRORED = frozenset({"cifar10", "cifar100", "cinic10", "stl10", "tiny_imagenet", "imagenette"})
"""Datasets of natural images, in which the field trains with horizontal flips."""

TFDS_NAME = re.compile(r"[A-Za-z]\w*(/[\w.-]+)?(:[\d.]+)?")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Two splits and what training on them needs to know."""

    name: str
    version: str
    digest: str  # sha256 of pixels, labels, shapes and class names
    classes: tuple[str, ...]
    train: Data  # numpy arrays, not yet on a device
    test: Data
    padding: int  # pixels by which the augmentation's crop may shift an image
    flip: bool  # whether the augmentation mirrors images
    mean: tuple[float, ...]  # a channel, of the training split, in [0, 1]
    std: tuple[float, ...]  # a channel, at least 0.001
    recipe: dict[str, float | int] = field(default_factory=dict)  # victim-training settings that suit it
    queries: Data | None = None  # images with somebody's trigger and their true labels, -1 where nobody knows them

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return self.train.image.shape[1:]

    @property
    def count(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @cached_property
    def covariance(self) -> np.ndarray:
        """The second moments of 2x2 training pixels less `mean`, by `std`: float64 (4 channels, 4 channels).

        Pixels are ordered by row, column and channel; of more than 5,000 images as many evenly apart are taken.
        """
        size = len(self.train.image)
        image = self.train.image[np.arange(min(size, 5000)) * size // min(size, 5000)]
        image = (image / np.float32(255) - np.float32(self.mean)) / np.float32(self.std)
        corners = [image[:, row : row - 1 or None, column : column - 1 or None] for row in (0, 1) for column in (0, 1)]
        patches = np.concatenate(corners, -1).reshape(-1, 4 * image.shape[-1])
        return (patches.T @ patches / len(patches)).astype(float)


def dataset(splits: Splits, name: str, version: str, flip: bool | None = None, recipe: dict | None = None) -> Dataset:
    """Splits with their hash, their statistics and the field's augmentation.

    Args:
        splits: the arrays, checked.
        name: what the dataset is called in tables.
        version: of the reader or the source.
        flip: whether training mirrors images; None: where `name` is in MIRRORED.
        recipe: victim-training settings; None leaves the card's own.
    """
    mean, std = _moments(splits.train_image)
    return Dataset(
        name=name,
        version=version,
        digest=digest(splits),
        classes=splits.classes,
        train=Data(splits.train_image, splits.train_label),
        test=Data(splits.test_image, splits.test_label),
        padding=2 if min(splits.train_image.shape[1:3]) <= 16 else 4,
        flip=name in MIRRORED if flip is None else flip,
        mean=mean,
        std=std,
        recipe=recipe or {},
    )


def _moments(image: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel in [0, 1], by way of how often each of the 256 levels occurs."""
    levels = np.arange(256)
    often = np.zeros((image.shape[-1], 256), np.int64)
    for start in range(0, len(image), 1024):
        for channel, pixel in enumerate(np.moveaxis(image[start : start + 1024], -1, 0)):
            often[channel] += np.bincount(pixel.reshape(-1), minlength=256)
    count = image.size // image.shape[-1]
    mean = often @ levels / count
    std = np.sqrt(np.maximum(often @ levels**2 / count - mean**2, 0))
    return tuple((mean / 255).tolist()), tuple(np.maximum(std / 255, 1e-3).tolist())


def _digits() -> Dataset:
    return dataset(digits.read(), "digits", str(digits.CARD.version), flip=False, recipe=digits.RECIPE)


DATASETS: dict[str, Method] = {"digits": Method(digits.CARD, _digits)}


def load(text: str, flip: bool | None = None, cache: Path | None = None) -> Dataset:
    """The dataset that `text` names: one of DATASETS, else a path that exists, else a prepared TFDS dataset.

    Args:
        text: a name, or a folder of `train/<class>/*` and `test/<class>/*`, or an `.npz` file.
        flip: whether training mirrors images; None: what suits the dataset, and for a folder or a file what suits the
            dataset of the same name in MIRRORED, else no.
        cache: the folder in which decoded images are kept; None for the user's cache folder.

    Raises:
        InvalidInput: there is no such dataset, or it cannot be used.
    """
    if text.partition(":")[0] in DATASETS:
        spec = lookup(text, DATASETS, "dataset")
        made = DATASETS[spec.name].make(**spec.static, **spec.traced)
        return made if flip is None else replace(made, flip=flip)
    path = Path(os.path.expanduser(local(text)))
    if text and os.path.isdir(path):
        found = folders.listing(path)
        read = partial(folders.read_splits, path, found)
        name = path.resolve().name
        return dataset(cached(name, path, found.stamps, decode.VERSION, read, cache), name, decode.VERSION, flip)
    if os.path.isfile(path) and path.suffix.lower() == ".npz":
        return dataset(npz.read_splits(path), path.stem, npz.VERSION, flip)
    if local(text) != text:
        raise InvalidInput(f"{text}: there is no {local(text)} in the working folder; go where these images lie")
    if os.path.exists(path) or not TFDS_NAME.fullmatch(text):
        raise InvalidInput(f"no dataset or path {text!r}; give {_allowed()}")
    found = tfds.builder(text, DATASETS)
    splits = cached(
        text, Path(found.data_path), tfds.stamps(found), tfds.VERSION, partial(tfds.read_splits, found), cache
    )
    return dataset(splits, found.name, str(found.version), flip)


def shown(text: str, found: Dataset) -> str:
    """What results say of a dataset that was loaded by `text`: a name as it is, a path without its folders."""
    known = text.partition(":")[0] in DATASETS or not os.path.exists(os.path.expanduser(local(text)))
    return text if known else portable(text, found.digest)


def _allowed() -> str:
    return (
        f"{', '.join(DATASETS)}, a folder of train/<class>/* and test/<class>/*, an .npz file, or a prepared TFDS name"
    )
