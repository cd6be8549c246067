"""SCALE-UP: a triggered image keeps its prediction when its pixels are multiplied, a clean one loses it.

Guo, Li, Chen, Guo, Sun, Liu, SCALE-UP: An Efficient Black-box Input-level Backdoor Detection via Analyzing Scaled
Prediction Consistency, ICLR 2023, arXiv:2302.03251, section 4.
"""

import jax
import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.types import Array, Detector, Net, Weights

CARD = Card(
    name="scale_up",
    title="SCALE-UP",
    citation="Guo, Li, Chen, Guo, Sun, Liu, SCALE-UP: An Efficient Black-box Input-level Backdoor Detection via "
    "Analyzing Scaled Prediction Consistency, ICLR 2023, arXiv:2302.03251",
    year=2023,
    version=1,
    kind="consistency under amplification",
    stage="inference",
    needs=("victim", "valid"),
    settings={
        "smallest": Setting(3, "smallest factor on the pixels", low=1),
        "largest": Setting(11, "largest factor", low=1),
        "step": Setting(2, "from one factor to the next", low=1),
        "noise": Setting(0.0, "uniform noise that is added first, at most", "pixels in [0, 1]", low=0.0),
        "bound": Setting(0.5, "share of factors that keep the prediction, from which an image is flagged"),
        "standardized": Setting(True, "compare (share - mean) / deviation over clean rows with the bound"),
    },
    presets={"paper": {}, "authors_code": {"smallest": 1, "step": 1, "noise": 0.02}},
    departures=(
        "The paper's data-limited setting standardizes by class; the public versions, and this one, over all clean "
        "rows. standardized=false is its data-free setting.",
        "On clean rows the scaled predictions are compared with the true label, as in the public versions.",
    ),
)


def consistency(net: Net, weights: Weights, image: Array, label: Array, factors: Array) -> Array:
    """The share of factors under which images keep their label, float (b,): equation 2.

    image: float (b, height, width, channels) in [0, 1]; label: int32 (b,), -1 for what the images are predicted as;
    factors: float (s,).
    """
    label = jnp.where(label < 0, jnp.argmax(net.apply(weights, image)[0], axis=1), label)

    def kept(factor: Array) -> Array:
        return jnp.argmax(net.apply(weights, jnp.clip(factor * image, 0, 1))[0], axis=1) == label

    return jnp.mean(jax.lax.map(kept, factors), axis=0, dtype=image.dtype)


def make(net, shape, classes, *, smallest, largest, step, standardized):
    """The share of factors that keep the prediction."""
    del net, shape, classes
    if largest < smallest:
        raise InvalidInput(f"scale_up:largest={largest} is below smallest={smallest}; give factors in order")

    def score(key, net, trained, _found, rows, given):
        def noisy(image: Array, row: Array) -> Array:
            noise = jax.random.uniform(jax.random.fold_in(stream(key, "noise"), row), image.shape, image.dtype)
            return image + given.settings["noise"] * noise

        image = jnp.clip(jax.vmap(noisy)(rows.image, rows.row), 0, 1)
        factors = jnp.arange(smallest, largest + 1, step).astype(image.dtype)
        return consistency(net, trained.weights, image, rows.label, factors)

    def threshold(_found, score, clean, given):
        if standardized:
            score = (score - jnp.mean(clean)) / jnp.maximum(jnp.std(clean, ddof=1), 1e-12)
        return score >= given.settings["bound"]

    return Detector(("queries",), score, None, threshold, calibrate="valid")


SCALE_UP = Method(CARD, make)
