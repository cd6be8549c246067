"""TeCo: under some corruptions a triggered image keeps its prediction for long, under others it loses it at once.

Liu, Li, Wang, Hu, Ye, Jin, Wu, Xiao, Detecting Backdoors During the Inference Stage Based on Corruption Robustness
Consistency, CVPR 2023, arXiv:2303.18191. For each of fifteen corruptions the first of five severities that changes the
prediction is noted, 6 where none does; the score is the standard deviation of the fifteen.
"""

import jax
import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.data.corruptions import CORRUPTIONS, LEVELS
from bdjax.detection.parts.decisions import above_clean
from bdjax.keys import stream
from bdjax.types import Array, Detector, Key

CARD = Card(
    name="teco",
    title="TeCo",
    citation="Liu, Li, Wang, Hu, Ye, Jin, Wu, Xiao, Detecting Backdoors During the Inference Stage Based on Corruption "
    "Robustness Consistency, CVPR 2023, arXiv:2303.18191",
    year=2023,
    version=1,
    kind="consistency under corruptions",
    stage="inference",
    needs=("victim", "valid"),
    settings={
        "cumulative": Setting(False, "corrupt the image that the corruption before left, not the original one"),
        "fpr": Setting(0.1, "share of clean rows that may be flagged", low=0.0, high=1.0),
    },
    presets={"paper": {}, "benchmark": {"cumulative": True}},
    departures=(
        "The released code and the benchmark write corrupted images back, so that all 75 add up: cumulative=true.",
        "Frost is made of a height map in place of photographs, glass displaces all pixels of a pass at once, and JPEG "
        "repeats chroma pixels; the other corruptions follow the package imagecorruptions.",
        "Neither the paper nor the benchmark decides; a threshold on the scores of clean rows is added.",
    ),
)


def corrupt(key: Key, image: Array, row: Array, index: Array) -> Array:
    """Images (b, ...) under corruption and severity number `index`, int32 (), of 75, to whole levels of 256."""

    def under(function):
        def one(image: Array, row: Array) -> Array:
            own = jax.random.fold_in(jax.random.fold_in(key, row), index)
            return function(own, image, index % LEVELS).astype(image.dtype)

        return lambda: jax.vmap(one)(image, row)

    found = jax.lax.switch(index // LEVELS, [under(function) for function in CORRUPTIONS.values()])
    return jnp.floor(255 * found + 1e-3) / 255


def first_flip(changed: Array) -> Array:
    """The first severity, from 1, at which a prediction changes, LEVELS + 1 where none does.

    changed: bool (corruptions, LEVELS, b); the result is int32 (corruptions, b).
    """
    return jnp.where(jnp.any(changed, axis=1), jnp.argmax(changed, axis=1) + 1, LEVELS + 1)


def make(net, shape, classes, *, cumulative):
    """The standard deviation of first severities."""
    del shape, classes

    def score(key, net, trained, _found, rows, _given):
        def predict(image: Array) -> Array:
            return jnp.argmax(net.apply(trained.weights, image)[0], axis=1)

        def ask(image: Array, index: Array) -> tuple[Array, Array]:
            found = corrupt(stream(key, "corruption"), image, rows.row, index)
            return found if cumulative else image, predict(found)

        label = predict(rows.image)
        asked = jnp.arange(len(CORRUPTIONS) * LEVELS)
        changed = jax.lax.scan(ask, rows.image, asked)[1] != label
        severity = first_flip(changed.reshape(-1, LEVELS, label.size))
        return jnp.std(severity.astype(rows.image.dtype), axis=0)

    def threshold(_found, score, clean, given):
        return above_clean(score, clean, given.settings["fpr"])

    return Detector(("queries",), score, None, threshold, calibrate="valid")


TECO = Method(CARD, make)
