"""Users' own poisoned sets in a study: which attacks they are, and which rows the defender must not get."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bdjax.attacks.poisoned_set import CARD, poisoned_set
from bdjax.cards import Spec
from bdjax.errors import InvalidInput
from bdjax.io.datasets import Dataset
from bdjax.io.datasets.poisoned_sets import PoisonedSet, check_matches, load_set
from bdjax.io.datasets.splits import Splits
from bdjax.paths import local, portable
from bdjax.study import Study
from bdjax.types import Attack

PREFIX = "set:"


def load(study: Study, dataset: Dataset) -> dict[str, PoisonedSet]:
    """The sets among a study's attacks, by their text.

    Raises:
        InvalidInput: a file is no poisoned set of this dataset, or the study asks of it what it cannot be.
    """
    return {text: _load(text, study, dataset) for text in study.attacks if text.startswith(PREFIX)}


def _load(text: str, study: Study, dataset: Dataset) -> PoisonedSet:
    found = load_set(Path(local(text.removeprefix(PREFIX))))
    splits = Splits(dataset.classes, dataset.train.image, dataset.train.label, dataset.test.image, dataset.test.label)
    check_matches(found, splits, text)
    if _is_dataset(found, dataset):
        zero = [entry for entry in study.ratios if str(entry).rpartition("=")[2] in ("0", "0.0")]
        if len(study.attacks) > 1 or zero:
            other = "ratio 0" if zero else next(other for other in study.attacks if other != text)
            raise InvalidInput(
                f"{text} is the dataset too, poisoned rows and all, so {other} cannot be run on it; "
                "give the clean dataset"
            )
    return found


def _is_dataset(poisoned: PoisonedSet, dataset: Dataset) -> bool:
    return np.array_equal(poisoned.splits.train_image, dataset.train.image)


def barred(study: Study, dataset: Dataset, sets: Mapping[str, PoisonedSet]) -> np.ndarray:
    """Rows that the defender does not get because a poisoned set has them: all it has, or all where they are images."""
    rows = np.zeros(dataset.train.label.shape, bool)
    for poisoned in sets.values():
        if study.clean == "reserved" or _is_dataset(poisoned, dataset):
            rows[poisoned.row] = True
    return rows


def attack(text: str, poisoned: PoisonedSet) -> tuple[Spec, Attack]:
    """A set as an attack; its content, not its path, is what results depend on, and what its text says."""
    arrays = [poisoned.row, poisoned.label, poisoned.image, poisoned.query_image, poisoned.goal]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
    name = PREFIX + portable(text.removeprefix(PREFIX), digest)
    spec = Spec(name, "set", {"digest": digest}, {}, CARD.version)
    return spec, poisoned_set(*arrays)
