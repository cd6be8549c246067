"""A dataset, a study and what belongs to them, small enough to train in a second."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bdjax import Study
from bdjax.cards import Card, Method
from bdjax.engine.progress import Silent
from bdjax.models import MODELS
from bdjax.types import POISONED, Layer, Net, Poison, Trained, Weights, real

CLASSES, EACH, TESTED = 3, 60, 20
EPOCHS = 3
RECIPE = f"epochs={EPOCHS},batch=32,learning_rate=0.05"
ATTACK = "badnets:size=6"  # which one linear layer learns


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


def stamped(image: np.ndarray) -> np.ndarray:
    """A white square of six pixels at the top left."""
    changed = image.copy()
    changed[:, :6, :6] = 255
    return changed


def poisoned_arrays() -> dict[str, np.ndarray]:
    """The arrays of a poisoned set of that dataset: 18 rows of classes 1 and 2, sent to class 0."""
    found = arrays()
    rows = np.flatnonzero(found["train_label"] != 0)[:18]
    found["train_image"][rows] = stamped(found["train_image"][rows])
    query = {"query_image": stamped(found["test_image"]), "query_label": np.zeros_like(found["test_label"])}
    return found | query | {"poison_row": rows, "poison_label": np.zeros(18, np.int32)}


def study(folder: Path, **changes) -> Study:
    """Two ratios and two seeds of BadNets on that dataset; `changes` are fields of `Study`."""
    fields = {
        "dataset": dataset(folder),
        "model": "linear",
        "attacks": (ATTACK,),
        "ratios": (0.0, 0.1),
        "seeds": (0, 1),
        "recipe": RECIPE,
        "clean_ratio": 0.2,
        "valid_ratio": 0.05,
        "driver": "map",
    }
    return Study(**fields | changes)


def network(name: str, shape, classes: int, mean, std, **static) -> Net:
    """A registered network, a shallow one where it has a depth; pixels are independent where it needs covariances."""
    more = {"covariance": np.eye(4 * shape[-1])} if "covariance" in MODELS[name].card.needs else {}
    depth = MODELS[name].card.settings.get("depth")
    if depth:
        more["depth"] = depth.choices[0]
    return MODELS[name].make(shape, classes, mean, std, **more | static)


def _linear(shape, classes, mean, std) -> Net:
    """One linear layer: what the engine does with a network shows on it as well, and it compiles in no time."""
    size = int(np.prod(shape))

    def init(key) -> Weights:
        kernel = jax.random.normal(key, (size, classes), real()) / np.sqrt(size)
        return Weights({"linear": {"kernel": kernel, "bias": jnp.zeros(classes, real())}}, {})

    def apply(weights, image, train=False, weight=None, edit={}):  # noqa: B006, as Net says
        flat = ((image - jnp.asarray(mean, real())) / jnp.asarray(std, real())).reshape(image.shape[0], -1)
        logits = edit.get("linear", lambda x: x)(
            flat @ weights.params["linear"]["kernel"] + weights.params["linear"]["bias"]
        )
        return logits, weights.batch_stats, {"linear": logits}

    return Net(init, apply, (Layer("linear", "linear", ("linear",), "linear"),))


# As a plugin does it: `plugins=("tiny",)` in a process of its own.
MODELS["linear"] = Method(Card("linear", "Linear", "none", 2026, 1, "linear"), _linear)


def on_record(poison: Poison) -> Trained:
    """What the first stage of an attacker's own training finds."""
    count = jnp.sum(poison.role == POISONED, dtype=jnp.int32)
    return Trained(None, {"trigger": poison.trigger, "count": count, "role": poison.role})


class Recorder(Silent):
    """Counts what a study tells."""

    def __init__(self):
        self.compiled_labels, self.models = [], 0

    def compiled(self, label: str, seconds: float) -> None:
        self.compiled_labels.append(label)

    def trained(self, models: int) -> None:
        self.models += models


def files(folder: Path, *parts: str) -> dict[str, tuple[bytes, int]]:
    """The files below some parts of a study's folder: content and time of change."""
    found = [path for part in parts for path in (folder / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(found)}
