"""How many rows a ratio poisons, for every attack of a study."""

from collections.abc import Mapping

import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.datasets import Dataset
from bdjax.study import Study
from bdjax.types import Attack


def counts(
    study: Study, text: str, names: Mapping[str, str], attack: Attack, dataset: Dataset, held: int
) -> dict[float, int]:
    """The ratios of an attack and the rows that each poisons.

    names: of all attacks of the study, by text. held: rows that are kept for the defender.

    Raises:
        InvalidInput: a ratio is no fraction, poisons no row, or more rows than there are.
    """
    name = names[text]
    if name == "set":
        return _set_counts(study, attack, dataset)
    own, common = [], []
    for entry in study.ratios:
        head, equals, tail = str(entry).rpartition("=")
        if equals and head not in {*names, *names.values()}:
            raise InvalidInput(f"ratio {entry!r}: the study has no attack {head!r}; it has {', '.join(names)}")
        try:
            value = float(tail)
        except ValueError:
            raise InvalidInput(f"ratio {entry!r}; give fractions, or attack=fraction") from None
        if not equals:
            common.append(value)
        elif head in (text, name):
            own.append(value)
    label = dataset.train.label
    size, limit = label.size, int(np.sum(np.asarray(attack.eligible(label)))) - held
    found = {}
    for ratio in own or common:
        if not 0 <= ratio <= 1:  # also false for NaN
            raise InvalidInput(f"ratio {ratio:g}; give a fraction of the training set, from 0 to 1")
        count = round(ratio * size)
        if count > limit:
            largest = int(limit / size * 1e4) / 1e4
            raise InvalidInput(
                f"{text} at ratio {ratio:g} poisons {count} rows; {limit} can be; the largest ratio is {largest:g}, "
                f"which among the ratios {name}={largest:g} gives to this attack alone"
            )
        if ratio > 0 and count == 0:
            raise InvalidInput(f"ratio {ratio:g} of {size} rows is none; the smallest ratio is {0.5 / size:.2g}")
        found[float(ratio)] = count
    if not found:
        raise InvalidInput(f"no ratios for {text}; give some that are not another attack's own")
    return found


def _set_counts(study: Study, attack: Attack, dataset: Dataset) -> dict[float, int]:
    """A poisoned set has one ratio, its own; 0 is its baseline where the study asks for that."""
    count = int(np.sum(np.asarray(attack.eligible(dataset.train.label))))
    baseline = {0.0: 0} if any(str(entry) in ("0", "0.0") for entry in study.ratios) else {}
    return baseline | {count / dataset.train.label.size: count}
