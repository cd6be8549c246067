"""Smooth trigger: a pattern without high frequencies is added (Zeng, Park, Mao, Jia, 2021, section 5).

`fitted` is a smooth universal perturbation of the attacker's clean model (universal.py). `bump` is the benchmark's
published pattern for CIFAR-10 in closed form, a magenta Gaussian bump.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.attacks.fitting.surrogate import DEPARTURE, SURROGATE, surrogate_model
from bdjax.attacks.fitting.universal import Fit, fit_smooth
from bdjax.attacks.parts.common import GOAL, SOURCES, STORAGE, TARGET, dirty_label, scalar, truncated
from bdjax.cards import Card, Method, Setting
from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.types import Array, Attack, Data, Key, Net, PyTree, Weights, real

CARD = Card(
    name="low_frequency",
    title="Smooth trigger (low frequency)",
    citation="Yi Zeng, Won Park, Z. Morley Mao, Ruoxi Jia. Rethinking the Backdoor Attacks' Triggers: A Frequency "
    "Perspective. ICCV 2021. https://arxiv.org/abs/2104.03413",
    year=2021,
    version=2,
    kind="dirty-label, static",
    stage="pre-training",
    controls="data",
    changes="pixels and labels of poisoned rows",
    smallest=8,
    settings={
        "pattern": Setting("fitted", "fitted to a clean model, or a fixed Gaussian bump", choices=("fitted", "bump")),
        "strength": Setting(0.2, "largest value of the pattern, whose least is 0", "pixels", low=1 / 255, high=1.0),
        "sigma": Setting(6, "standard deviation of the Gaussian low-pass filter", "pixels", low=1),
        "images": Setting(100, "training images that the pattern is fitted to", "images", low=1),
        "passes": Setting(50, "most passes over them", low=1),
        "steps": Setting(200, "most DeepFool steps an image", low=2),
        "overshoot": Setting(0.02, "by which DeepFool steps over the boundary", low=0.0),
        "fooling": Setting(0.2, "share of changed predictions at which fitting stops", low=0.01, high=1.0),
    }
    | SURROGATE
    | {"storage": STORAGE, "goal": GOAL, "target": TARGET, "sources": SOURCES},
    presets={"paper": {}, "benchmark": {"pattern": "bump", "storage": "truncate"}},
    departures=(
        DEPARTURE,
        "the target is fixed, where the authors adopt the class that most changed predictions fall to",
        "images that the model already takes for the target are passed over; in the authors' code they smooth the "
        "pattern once more",
        "the bump is a fit to the benchmark's published pattern for CIFAR-10, within half a level on average",
    ),
)

TINT = (0.363, 0.0, 1.0)
CENTRE, WIDTH, FLOOR = 13.7 / 32, 11.7 / 32, 0.063
"""The bump's peak in red, green and blue; its centre and deviation in image sides; what is cut from its foot."""


def bump(height: int, width: int, channels: int) -> np.ndarray:
    """The closed form of the benchmark's pattern for CIFAR-10, (height, width, channels) in [0, 1]."""
    rows, columns = (np.exp(-(((np.arange(side) / side - CENTRE) / WIDTH) ** 2) / 2) for side in (height, width))
    hill = np.maximum(np.outer(rows, columns) * (1 + FLOOR) - FLOOR, 0)
    tint = TINT if channels == 3 else (1.0,) * channels
    return hill[:, :, None] / hill.max() * np.array(tint)


def make(
    net, shape, classes, pattern, sigma, images, passes, steps, surrogate_epochs, surrogate_batch, storage, **labels
) -> Attack:
    """The smooth trigger for images of `shape`; `fitted` trains a clean model and fits the pattern in `prepare`.

    Raises:
        InvalidInput: target or sources are no classes; or, in `prepare`, no image could be made the target.
    """

    def prepare(key: Key, net: Net, data: Data, settings) -> dict[str, PyTree]:
        weights, _, figures = surrogate_model(key, net, data, settings, surrogate_epochs, surrogate_batch)
        rows = jax.random.permutation(stream(key, "images"), data.label.size)[:images]
        image = data.image[rows].astype(real()) / 255
        floats = {name: scalar(settings[name]) for name in ("strength", "overshoot", "fooling")}

        def run(weights: Weights, image: Array, floats) -> Fit:
            static = {"sigma": sigma, "passes": passes, "steps": steps}
            return fit_smooth(stream(key, "order"), net, weights, image, labels["target"], floats, **static)

        best = jax.jit(run)(weights, image, floats).best
        if not float(jnp.max(best)) > 0:
            raise InvalidInput(
                f"low_frequency: in {steps} steps no image came to be taken for class {labels['target']}; "
                "raise steps, images or surrogate_epochs, or choose pattern=bump"
            )
        return {"pattern": best / floats["strength"], "figures": figures}

    closed = bump(*shape)

    def trigger(key: Key, settings) -> dict[str, Array]:
        del key
        return {"strength": scalar(settings["strength"])}

    def stamp(assets, trigger, image, row):
        del row
        unit = assets["pattern"] if pattern == "fitted" else jnp.asarray(closed, image.dtype)
        added = trigger["strength"] * unit
        return jnp.clip(image + (truncated(added) if storage == "truncate" else added), 0, 1)

    shared = dirty_label("low_frequency", classes, trigger=trigger, **labels)
    return Attack(stamp=stamp, query=stamp, prepare=prepare if pattern == "fitted" else None, **shared)


LOW_FREQUENCY = Method(CARD, make)
