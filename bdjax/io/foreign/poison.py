"""Poison of other tools laid over a clean data set: the arrays of a user's own poisoned set (see `poisoned_sets`)."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.datasets import Dataset
from bdjax.io.foreign import records, torch_files
from bdjax.io.foreign.records import Changed, Record


class Laid(NamedTuple):
    """A poisoned set and what was found on the way."""

    arrays: dict[str, np.ndarray]
    counts: dict[str, int | float]


def from_record(record: Record, data: Dataset, where: str) -> Laid:
    """The poisoned set of a record over the clean data set that it was made from.

    A changed row is poisoned where it does not show its true label. Attacks that train on noise rows, which keep their
    label, mark those alike: they are left out, and so are then changed rows of the target class, which may be either.
    Where no row shows another label, the attack keeps labels and all changed rows are poisoned.

    Raises:
        InvalidInput: it was made from another data set or from other rows of it, there is no poisoned set, or some
            test images of a class have no trigger though others have.
    """
    if record.train is None:
        raise InvalidInput(
            f"{where}: the attack poisons batch by batch, so there is no poisoned set; leave out --dataset"
        )
    _check_dataset(record, data, where)
    _check_rows(record.train, data.train.label, f"{where}: training")
    _check_rows(record.test, data.test.label, f"{where}: test")
    image, query = (records.images(split, record.size) for split in (record.train, record.test))
    _check_images(image, record.train, data.train.image, where)
    moved = record.train.shown != record.train.true
    target = np.isin(record.train.true, record.train.shown[moved])
    noisy = moved.any() and (record.crossed or (~moved & ~target).any())
    same = ~moved if noisy else np.zeros_like(moved)
    arrays = _clean(data)
    arrays["train_image"][record.train.row[~same]] = image[~same]
    arrays |= {"poison_row": record.train.row[~same], "poison_label": record.train.shown[~same]}
    arrays |= {"query_image": data.test.image.copy(), "query_label": data.test.label.copy()}
    arrays["query_image"][record.test.row] = query
    arrays["query_label"][record.test.row] = record.test.shown
    counts = {
        "rows": record.rows,
        "changed": int(moved.size),
        "poisoned": int((~same).sum()),
        "noise": int((same & ~target).sum()),
        "undecided": int((same & target).sum()),
        "ratio": float((~same).sum() / record.rows),
        "triggered": int(record.test.row.size),
    }
    return Laid(arrays, counts)


def _clean(data: Dataset) -> dict[str, np.ndarray]:
    return {
        "train_image": data.train.image.copy(),
        "train_label": data.train.label,
        "test_image": data.test.image,
        "test_label": data.test.label,
    }


def _check_dataset(record: Record, data: Dataset, where: str) -> None:
    given = {"classes": data.count, "image size": data.shape}
    given |= {"training rows": data.train.label.size, "test rows": data.test.label.size}
    wanted = (record.classes, record.size, record.rows, record.tests)
    for (name, value), other in zip(given.items(), wanted, strict=True):
        if value != other:
            raise InvalidInput(f"{where}: {name} {other}, of the data set {value}; give the one that it was made from")


def _check_rows(changed: Changed, label: np.ndarray, where: str) -> None:
    """The true labels on record are those of the data set."""
    wrong = np.flatnonzero(label[changed.row] != changed.true)
    if wrong.size:
        row = changed.row[wrong[0]]
        raise InvalidInput(
            f"{where} rows are in another order: {wrong.size} of {changed.row.size} have another label, row {row} has "
            f"{label[row]} instead of {changed.true[wrong[0]]}; give the data set in the tool's order"
        )


def _check_images(image: np.ndarray, changed: Changed, clean: np.ndarray, where: str) -> None:
    """A poisoned image resembles its own clean row more than another row of its class, as most of them do."""
    order = np.argsort(changed.true, kind="stable")
    pairs = [(one, two) for one, two in itertools.pairwise(order) if changed.true[one] == changed.true[two]]
    if not pairs:
        return
    one, two = np.array(pairs[:2000]).T

    def distance(rows: np.ndarray) -> np.ndarray:
        return np.abs(image[one].astype(np.int16) - clean[changed.row[rows]]).mean((1, 2, 3))

    near = distance(one) <= distance(two)
    if near.mean() < 0.5:
        raise InvalidInput(
            f"{where}: {100 * near.mean():.0f}% of the poisoned images resemble their clean rows; rows are in another "
            "order within classes; give the data set in the tool's order"
        )


def from_toolbox(folder: Path, data: Dataset) -> Laid:
    """The rows of a poisoned set of backdoor-toolbox over its clean data set; it has no triggered test images.

    Returns:
        arrays: those of a clean data set with the tool's training images, poison_row and poison_label, and cover_row
            where there are covers, which keep their label.

    Raises:
        InvalidInput: torch is not installed, a file is missing or damaged, images are normalized, or rows differ from
            the data set that are neither poisoned nor covers.
    """
    where, names = str(folder), ("imgs", "labels", "poison_indices")
    held = {name: torch_files.load(folder / name, "save plain tensors") for name in names}
    cover = torch_files.load(folder / "cover_indices") if (folder / "cover_indices").exists() else []
    image = _pixels(held["imgs"], f"{where}/imgs")
    label = _whole(held["labels"], f"{where}/labels")
    poisoned, cover = _whole(held["poison_indices"], f"{where}/poison_indices"), _whole(cover, f"{where}/cover_indices")
    count = data.train.label.size
    if image.shape != data.train.image.shape or label.shape != (count,):
        raise InvalidInput(
            f"{where}: images {image.shape} and {label.size} labels; the data set's {data.train.image.shape}"
        )
    both = np.concatenate([poisoned, cover])
    if not poisoned.size or np.unique(both).size < both.size or not 0 <= both.min() <= both.max() < count:
        raise InvalidInput(f"{where}: poison_indices or cover_indices are no rows, or a row is there twice")
    if not 0 <= label.min() <= label.max() < data.count:
        raise InvalidInput(
            f"{where}: labels from {label.min()} to {label.max()}; classes go from 0 to {data.count - 1}"
        )
    kept = np.ones(count, bool)
    kept[both] = False
    wrong = (label != data.train.label) | (image != data.train.image).any((1, 2, 3))
    if (wrong & kept).any():
        found = f"{int((wrong & kept).sum())} rows that are not poisoned differ from the data set"
        raise InvalidInput(f"{where}: {found}; give the one that it was made from, in its order")
    arrays = _clean(data) | {"train_image": image, "poison_row": poisoned, "poison_label": label[poisoned]}
    counts = {"rows": count, "poisoned": int(poisoned.size), "covers": int(cover.size), "ratio": poisoned.size / count}
    return Laid(arrays | ({"cover_row": cover} if cover.size else {}), counts)


def _pixels(value: Any, where: str) -> np.ndarray:
    """Float images (n, channels, height, width) in [0, 1] as uint8 (n, height, width, channels)."""
    if not torch_files.is_tensor(value) or value.ndim != 4 or not value.is_floating_point():
        raise InvalidInput(f"{where}: no tensor of float images (n, channels, height, width)")
    image = torch_files.array(value, where)
    if not image.size or not -1e-3 <= image.min() <= image.max() <= 1.001:  # a warp may round beyond the ends
        given = "none" if not image.size else f"values from {image.min():g} to {image.max():g}"
        raise InvalidInput(f"{where}: {given}; give images in [0, 1], not normalized")
    return np.ascontiguousarray(np.round(image.clip(0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1))


def _whole(value: Any, where: str) -> np.ndarray:
    """Whole numbers from a tensor, an array or a list, int64 (n,)."""
    found = torch_files.array(value, where) if torch_files.is_tensor(value) else None
    if found is None:
        try:
            found = np.asarray([int(one) for one in value], np.int64)
        except (TypeError, ValueError, OverflowError):
            found = np.zeros((0, 0))
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise InvalidInput(f"{where}: no whole numbers; give the tool's own file")
    return found.astype(np.int64)
