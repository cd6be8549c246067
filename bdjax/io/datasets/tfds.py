"""Datasets of TensorFlow Datasets that are prepared on disk as array_record, read without tensorflow.

https://www.tensorflow.org/datasets. Preparing a dataset of its catalogue needs tensorflow, once and anywhere; the
prepared folder can then be copied. Rows are in the order in which the builder's version stores them.
"""

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from bdjax.errors import InvalidInput, meant
from bdjax.io.datasets.splits import Splits, check
from bdjax.io.files import check_memory

VERSION = "tfds-1"
"""Raised when the same records would give other arrays, so that caches are made anew."""

READ = 1024
"""Records fetched together: much faster than one by one, and small beside the dataset."""


def builder(name: str, others: Collection[str] = ()):
    """The builder of a dataset that is prepared as array_record.

    Args:
        name: `dataset[/config][:version]`, as tensorflow_datasets writes it.
        others: names of datasets that it may have been meant for, beside those of tensorflow_datasets.

    Raises:
        InvalidInput: tensorflow_datasets is not installed or does not know the name, or the dataset is not prepared.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise InvalidInput(
            f"dataset {name!r}: tensorflow_datasets is not installed; pip install tensorflow-datasets"
            + _near(name, others)
        ) from error
    try:
        found = tensorflow_datasets.builder(name)
    except (ValueError, AssertionError, ImportError) as error:
        near = _near(name, [*others, *tensorflow_datasets.list_builders(with_community_datasets=False)])
        raise InvalidInput(
            f"no dataset {name!r}{near}"
            if near
            else f"no dataset {name!r}: no such path, and TFDS knows no such name, config or version; "
            "give a folder of train/<class>/* and test/<class>/*, an .npz file, or a name from `bdjax list datasets`"
        ) from error
    if not found.info.splits or found.info.file_format.value != "array_record":
        place = Path(found.data_path)
        raise InvalidInput(
            f"dataset {name!r} is not prepared as array_record in {str(place)!r}; where tensorflow is installed run "
            f'tfds.builder({name!r}, file_format="array_record").download_and_prepare() and copy that folder there'
        )
    return found


def _near(name: str, known: Collection[str]) -> str:
    """As `meant`, of the name without config and version; nothing where that is known."""
    plain = re.split("[/:]", name)[0]
    return "" if plain in known else meant(plain, known)


def stamps(found) -> list[tuple[str, int, int]]:
    """(name, bytes, nanoseconds of change) of every file of a prepared dataset."""
    files = sorted(path for path in Path(found.data_path).iterdir() if path.is_file())
    return [(path.name, (state := path.stat()).st_size, state.st_mtime_ns) for path in files]


def read_splits(found) -> Splits:
    """The splits `train` and `test` (`validation` where there is no test) of a prepared dataset.

    Raises:
        InvalidInput: a split is missing, records are missing or damaged, the features `image` and `label` of a
            classifier are missing, or images differ in size.
    """
    features = found.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
        raise InvalidInput(
            f"dataset {found.name!r} has the features {sorted(features)}; an image and a class label are needed"
        )
    held = "test" if "test" in found.info.splits else "validation"
    train, test = _split(found, "train"), _split(found, held)
    return check(Splits(tuple(features["label"].names), *train, *test), f"dataset {found.name!r}")


def _split(found, split: str) -> tuple[np.ndarray, np.ndarray]:
    if split not in found.info.splits:
        raise InvalidInput(
            f"dataset {found.name!r} has the splits {', '.join(found.info.splits)}; train and test are needed"
        )
    where = f"dataset {found.name!r}, split {split!r}"
    recorded = found.info.splits[split].num_examples
    try:
        source = found.as_data_source(split=split)
        if len(source) != recorded:
            raise InvalidInput(
                f"{where}: {len(source)} records on disk and {recorded} recorded; copy or prepare it again"
            )
        shape = np.shape(source[0]["image"])
        check_memory(recorded * int(np.prod(shape)), where)
        image, label = np.empty((recorded, *shape), np.uint8), np.empty(recorded, np.int32)
        for start in range(0, recorded, READ):
            rows = range(start, min(start + READ, recorded))
            for row, record in zip(rows, source.__getitems__(rows), strict=True):
                image[row], label[row] = _pixels(record["image"], shape, where), record["label"]
    except InvalidInput:
        raise
    except Exception as error:  # the readers of shards and images answer damage with almost any exception
        reason = " ".join(str(error).split())[:160]
        raise InvalidInput(f"{where}: not readable ({reason}); copy or prepare it again") from error
    return image, label


def _pixels(image: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    if image.shape != shape or image.dtype != np.uint8:
        raise InvalidInput(
            f"{where}: an image is {image.dtype} {image.shape}, the first uint8 {shape}; all must be of one size"
        )
    return image


def prepared() -> list[str]:
    """Names of the datasets in TFDS's data folder; none where tensorflow_datasets is not installed."""
    try:
        from tensorflow_datasets.core import constants
    except ImportError:
        return []
    root = Path(constants.DATA_DIR).expanduser()
    return sorted({path.relative_to(root).parts[0] for path in root.glob("**/dataset_info.json")})
