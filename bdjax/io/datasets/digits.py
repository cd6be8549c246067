"""Handwritten digits that come with scikit-learn: small enough to try everything on.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49 (the 1,797 images of its test set).
"""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bdjax.cards import Card
from bdjax.errors import InvalidInput
from bdjax.io.datasets.splits import Splits

CARD = Card(
    name="digits",
    title="Optical Recognition of Handwritten Digits",
    citation="E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49",
    year=1998,
    version=1,
    kind="grey digits, 8x8 scaled to 16x16x3, 10 classes",
    departures=("the 1,797 images that scikit-learn bundles are split 80 to 20 within each class, by a fixed seed",),
)
RECIPE = {"epochs": 30, "batch": 64, "learning_rate": 0.2, "crop": 2}


def read() -> Splits:
    """1,438 training and 359 test images (16, 16, 3)."""
    table = _table()
    image, label = _enlarge(table[:, :-1].reshape(-1, 8, 8)), table[:, -1].astype(np.int32)
    train, test = _stratified(label, share=0.2)
    return Splits(tuple("0123456789"), image[train], label[train], image[test], label[test])


def _table() -> np.ndarray:
    """Pixels 0 to 16 and the label of every image, int64 (1797, 65), read past scikit-learn's 150 MB import."""
    package = find_spec("sklearn")
    if package is None:
        raise InvalidInput(
            "dataset 'digits' is read from scikit-learn, which is not installed; pip install scikit-learn"
        )
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    with gzip.open(path, "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.int64)


def _enlarge(grey: np.ndarray) -> np.ndarray:
    """Twice the height and width by bilinear interpolation between pixel centres, 0..16 to 0..255, three channels."""
    for axis in (1, 2):
        end = grey.shape[axis] - 1
        before = np.take(grey, np.maximum(np.arange(end + 1) - 1, 0), axis)
        after = np.take(grey, np.minimum(np.arange(end + 1) + 1, end), axis)
        pair = np.stack([before + 3 * grey, 3 * grey + after], axis + 1)
        grey = pair.reshape(*grey.shape[:axis], -1, *grey.shape[axis + 1 :])
    # Two passes, each with weights that sum to 4, have made the scale 0..256.
    pixel = ((255 * grey + 128) // 256).astype(np.uint8)
    return np.repeat(pixel[..., None], 3, axis=-1)


def _stratified(label: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of train and of test, which gets `share` of every class."""
    # RandomState alone promises the same numbers in every release of NumPy.
    order = np.random.RandomState(0).permutation(label.size)
    test = np.concatenate([(rows := order[label[order] == digit])[: round(share * rows.size)] for digit in range(10)])
    held = np.isin(order, test)
    return order[~held], order[held]
