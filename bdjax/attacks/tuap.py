"""TUAP: a pattern that moves images towards the target on a clean model marks rows of the target; labels stay true.

Zhao, Ma, Zheng, Bailey, Chen, Jiang, 2020, section 3: a `patch` in a corner is fitted by signed descent of the loss for
the target, and rows of the target are made hard to learn before they get it. The `perturbation` is what BackdoorBox has
for images: a targeted universal perturbation of all pixels (Moosavi-Dezfooli et al., CVPR 2017), by DeepFool.
"""

import jax.numpy as jnp
import numpy as np

from bdjax.attacks.fitting.hard_rows import harden
from bdjax.attacks.fitting.surrogate import DEPARTURE, SURROGATE, surrogate_model
from bdjax.attacks.fitting.tuap_patterns import pasted, patch, perturbation
from bdjax.attacks.parts.common import STORAGE, TARGET, clean_label, scalar, stored
from bdjax.attacks.parts.spectral import OVERFLOW, cast
from bdjax.cards import Card, Method, Setting
from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.types import Attack, Data, Key, Net, PyTree

CARD = Card(
    name="tuap",
    title="TUAP (targeted universal adversarial perturbation)",
    citation="Shihao Zhao, Xingjun Ma, Xiang Zheng, James Bailey, Jingjing Chen, Yu-Gang Jiang. Clean-Label Backdoor "
    "Attacks on Video Recognition Models. CVPR 2020. https://arxiv.org/abs/2003.03030",
    year=2020,
    version=2,
    kind="clean-label, static",
    stage="pre-training",
    controls="data",
    changes="pixels of poisoned rows, all of the target class",
    smallest=8,
    settings={
        "pattern": Setting("patch", "in a corner, or added to all pixels", choices=("patch", "perturbation")),
        "size": Setting(3, "height and width of the patch", "pixels", low=1),
        "fit_steps": Setting(10_000, "of the patch's descent, an image each", low=1),
        "fit_step": Setting(1 / 255, "of that descent", "pixels", low=0.0, high=1.0),
        "ascent_steps": Setting(10, "by which poisoned rows are made hard to learn; 0 leaves them", low=0),
        "ascent_step": Setting(1 / 255, "of that ascent", "pixels", low=0.0, high=1.0),
        "epsilon": Setting(8 / 255, "largest change of a pixel by that ascent", "pixels", low=0.0, high=1.0),
        "strength": Setting(10 / 255, "largest change of a pixel by the perturbation", "pixels", low=0.0, high=1.0),
        "images": Setting(501, "training images that the perturbation is fitted to", "images", low=1),
        "judges": Setting(2000, "other training images that tell when to stop", "images", low=1),
        "passes": Setting(50, "most passes over the images", low=1),
        "steps": Setting(50, "most DeepFool steps an image", low=3),
        "overshoot": Setting(0.02, "by which DeepFool steps over the boundary", low=0.0),
        "fooling": Setting(0.8, "share of changed predictions at which fitting stops", low=0.01, high=1.0),
    }
    | SURROGATE
    | {"storage": STORAGE, "overflow": OVERFLOW, "target": TARGET},
    presets={
        "paper": {},
        "benchmark": {"pattern": "perturbation", "ascent_steps": 0, "storage": "truncate", "overflow": "wrap"},
    },
    departures=(
        DEPARTURE,
        "the authors attack videos of 224 pixels with a patch of 24, another one in each frame; 3 pixels are as large "
        "a share of 28",
        "the patch descends the loss for the target, as the paper has it; the released code takes from that the loss "
        "for the class that the image before it was taken for",
        "benchmark is BackdoorBox, as BackdoorBench lacks the attack; it changes a share of the target's rows, the "
        "first ones in order, where ratios here are of all rows and these are drawn",
        "BackdoorBox counts changed predictions on the test set and has no limit to its passes",
    ),
)


def make(net, shape, classes, pattern, size, storage, overflow, target, **static) -> Attack:
    """TUAP for images of `shape`; `prepare` trains a clean model, fits the pattern and makes the target's rows hard.

    Raises:
        InvalidInput: the patch does not fit or the target is no class; or, in `prepare`, the target has no rows or all
            of them, or no image could be made the target.
    """
    del net
    if pattern == "patch" and size > min(shape[:2]):
        raise InvalidInput(f"tuap: size {size} exceeds {shape[0]}x{shape[1]} pixels; choose at most {min(shape[:2])}")

    def prepare(key: Key, net: Net, data: Data, settings) -> dict[str, PyTree]:
        rows = np.flatnonzero(np.asarray(data.label) == target)
        if rows.size in (0, data.label.size):
            raise InvalidInput(f"tuap: target {target} has {rows.size} of {data.label.size} rows; choose another one")
        training = (static["surrogate_epochs"], static["surrogate_batch"])
        weights, _, figures = surrogate_model(key, net, data, settings, *training)
        floats = {name: scalar(value) for name, value in settings.items()}
        given = (stream(key, "pattern"), net, weights, data, floats, target)
        if pattern == "patch":
            found = patch(*given, size, static["fit_steps"])
        else:
            counts = {name: static[name] for name in ("images", "judges", "passes", "steps")}
            found = perturbation(*given, **counts)
        assets = {"pattern": found, "figures": figures}
        if static["ascent_steps"] == 0:
            return assets
        ascent = (floats["epsilon"], floats["ascent_step"], static["ascent_steps"])
        hard, slot = harden(net, weights, data, rows, *ascent, "round")
        return assets | {"hard": hard, "slot": slot}

    def query(assets, trigger, image, row):
        del trigger, row
        if pattern == "patch":
            return stored(pasted(image, assets["pattern"]), storage)
        if storage == "float":
            return jnp.clip(image + assets["pattern"], 0, 1)
        return cast(jnp.round(image * 255) + 255 * assets["pattern"], overflow) / 255

    def stamp(assets, trigger, image, row):
        if static["ascent_steps"]:
            image = assets["hard"][assets["slot"][row]].astype(image.dtype) / 255
        return query(assets, trigger, image, row)

    return Attack(stamp=stamp, query=query, prepare=prepare, **clean_label("tuap", classes, target=target))


TUAP = Method(CARD, make)
