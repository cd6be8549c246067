"""A dataset, a study and what belongs to them, small enough to train in a second."""

from pathlib import Path

import numpy as np

from bdjax import Study

CLASSES, EACH, TESTED = 3, 60, 20
RECIPE = "epochs=2,batch=32,learning_rate=0.1"


def images(each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with one bright band of rows a class: uint8 (n, 16, 16, 3) and int32 (n,), classes in turn."""
    label = np.arange(each * CLASSES, dtype=np.int32) % CLASSES
    image = np.random.default_rng(seed).integers(0, 100, (label.size, 16, 16, 3), np.uint8)
    for number in range(CLASSES):
        image[label == number, 5 * number : 5 * number + 4] += 120
    return image, label


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` dataset."""
    (image, label), (test_image, test_label) = images(EACH, seed), images(TESTED, seed + 1)
    return {"train_image": image, "train_label": label, "test_image": test_image, "test_label": test_label}


def dataset(folder: Path, seed: int = 0) -> str:
    """The path of a dataset that is written where it is missing."""
    path = folder / f"bands{seed}.npz"
    if not path.exists():
        np.savez(path, **arrays(seed))
    return str(path)


def study(folder: Path, **changes) -> Study:
    """Two ratios and two seeds of BadNets on that dataset; `changes` are fields of `Study`."""
    fields = {
        "dataset": dataset(folder),
        "model": "small_cnn:width=2",
        "ratios": (0.0, 0.1),
        "seeds": (0, 1),
        "recipe": RECIPE,
        "clean_ratio": 0.2,
        "valid_ratio": 0.05,
        "driver": "map",
    }
    return Study(**fields | changes)
