"""SentiNet: what a network looks at in a triggered image takes over any other image, and does so by its content.

Chou, Tramèr, Pellegrino, SentiNet: Detecting Localized Universal Attacks Against Deep Learning Systems, SPW 2020,
arXiv:1812.00292. The region that Grad-CAM finds is pasted on clean images: the share that it fools, and the confidence
where noise is pasted in its place. A curve through the highest clean points is the boundary (section 4.3).
"""

import jax
import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.detection.parts import gradcam
from bdjax.detection.parts.decisions import above_clean
from bdjax.keys import stream
from bdjax.models.parts import taps
from bdjax.types import Array, Detector, Key

CARD = Card(
    name="sentinet",
    title="SentiNet",
    citation="Chou, Tramèr, Pellegrino, SentiNet: Detecting Localized Universal Attacks Against Deep Learning Systems, "
    "SPW 2020, arXiv:1812.00292",
    year=2020,
    version=1,
    kind="salient regions pasted on clean images",
    stage="inference",
    needs=("victim", "clean", "valid"),
    settings={
        "overlays": Setting(100, "clean images that regions are pasted on; all where there are fewer", "images", low=1),
        "tap": Setting("", "layer whose map Grad-CAM weighs; empty: what global pooling reads"),
        "region": Setting(
            "largest",
            "which pixels are pasted: those of largest heat, or those above a heat",
            choices=("largest", "hot"),
        ),
        "extent": Setting(
            0.15, "share of pixels that are pasted; under region=hot the heat from which", low=0.0, high=1.0
        ),
        "inert": Setting(
            "patch", "where noise is: in the region, on clean images, or around it", choices=("patch", "background")
        ),
        "rule": Setting(
            "boundary",
            "the score: distance above a curve through clean rows, or mean confidence under noise",
            choices=("boundary", "confidence"),
        ),
        "empty": Setting(False, "whether the curve also goes through 0 at confidences that no clean row has"),
        "limit": Setting(
            0.05,
            "share of clean rows that may be flagged; under rule=confidence the confidence above which an image is",
            low=0.0,
            high=1.0,
        ),
    },
    presets={
        "paper": {},
        "toolbox": {"empty": True},
        "benchmark": {"region": "hot", "extent": 0.85, "inert": "background", "rule": "confidence", "limit": 0.9},
    },
    departures=(
        "The curve is fitted to the defender's validation rows, and the threshold is a quantile of their distances, "
        "as in backdoor-toolbox; the paper takes the mean distance of rows below the curve.",
        "Distances to the curve are found on a grid and by Newton's method.",
        "backdoor-toolbox counts how often validation images' true label is met, here it is the prediction.",
        "The benchmark normalizes pasted images by pixel column in place of channel, which is not repeated.",
        "The benchmark's Grad-CAM weighs the block's output on a CPU and its last convolution's on a GPU: tap says it.",
    ),
)

WIDTH, BINS, GRID = 0.02, 51, 2001
"""Confidences that share a bin, how many there are in [0, 1], and points at which distance to the curve is tried."""


def choose(heat: Array, region: str, extent: Array) -> Array:
    """The pixels that are pasted, bool (b, height, width); of `largest` those above the last of that share."""
    if region == "hot":
        return heat >= extent
    flat = -jnp.sort(-heat.reshape(len(heat), -1), axis=1)
    last = jnp.maximum(jnp.floor(extent * flat.shape[1]).astype(jnp.int32) - 1, 0)
    return heat > flat[:, last][:, None, None]


def fit_curve(confidence: Array, fooled: Array, empty: bool) -> Array:
    """The quadratic (constant, linear, square) through the highest point of each bin of confidence, float (3,)."""
    first = jnp.min(confidence)
    place = jnp.clip(jnp.floor((confidence - first) / WIDTH).astype(jnp.int32), 0, BINS - 1)
    highest = jax.ops.segment_max(fooled, place, BINS)
    used = jnp.isfinite(highest) | (empty & (jnp.arange(BINS) <= jnp.max(place)))
    highest = jnp.where(jnp.isfinite(highest), highest, 0)
    middle = first + (jnp.arange(BINS) + 0.5) * WIDTH
    powers = middle[:, None] ** jnp.arange(3) * used[:, None]
    return jnp.linalg.pinv(powers) @ jnp.where(used, highest, 0)


def distance(curve: Array, confidence: Array, fooled: Array) -> Array:
    """How far points (b,) lie above the curve, float (b,); below it negative."""

    def height(at: Array) -> Array:
        return curve[0] + curve[1] * at + curve[2] * at**2

    def one(x: Array, y: Array) -> Array:
        grid = jnp.linspace(-1, 2, GRID)
        at = grid[jnp.argmin((grid - x) ** 2 + (height(grid) - y) ** 2)]
        for _ in range(4):  # of the squared distance's derivative
            slope, bend, gap = curve[1] + 2 * curve[2] * at, 2 * curve[2], height(at) - y
            at -= (at - x + gap * slope) / jnp.maximum(1 + slope**2 + gap * bend, 1e-6)
        found = jnp.sqrt((at - x) ** 2 + (height(at) - y) ** 2)
        return jnp.where(y < height(x), -found, found)

    return jax.vmap(one)(confidence, fooled)


def make(net, shape, classes, *, overlays, tap, region, inert, rule, empty):
    """Grad-CAM once, then two passes an overlay."""
    del classes
    tap = taps.checked_map(net, shape, tap or gradcam.last_map(net), "sentinet")

    def draw(key: Key, row: Array, number: Array) -> Array:
        def one(row: Array) -> Array:
            own = jax.random.fold_in(jax.random.fold_in(key, row), number)
            return jnp.floor(255 * jax.random.uniform(own, shape)) / 255

        return jax.vmap(one)(row)

    def points(key: Key, weights, rows, given) -> tuple[Array, Array]:
        """Mean confidence under noise and the share of overlays that are fooled, float (b,) each."""
        clean = sources.shuffled(given.clean)
        mask = choose(gradcam.heat(net, weights, rows.image, tap), region, given.settings["extent"])[..., None]
        label = jnp.argmax(net.apply(weights, rows.image)[0], axis=1)

        def on(number: Array) -> tuple[Array, Array]:
            overlay = clean.read(number[None]).image
            noise = draw(key, rows.row, number).astype(rows.image.dtype)
            still = jnp.where(mask, noise, overlay) if inert == "patch" else jnp.where(mask, rows.image, noise)
            fooled = jnp.argmax(net.apply(weights, jnp.where(mask, rows.image, overlay))[0], axis=1) == label
            return jnp.max(jax.nn.softmax(net.apply(weights, still)[0]), axis=1), fooled

        confidence, fooled = jax.lax.map(on, jnp.arange(min(overlays, clean.size), dtype=jnp.int32))
        return jnp.mean(confidence, axis=0), jnp.mean(fooled, axis=0, dtype=confidence.dtype)

    def fit(key, _net, trained, given):
        own = stream(key, "noise")
        found = sources.each(given.valid, lambda rows: points(own, trained.weights, rows, given))
        curve = fit_curve(*found, empty)
        return {"curve": curve, "clean": distance(curve, *found)}

    def score(key, _net, trained, found, rows, given):
        confidence, fooled = points(stream(key, "noise"), trained.weights, rows, given)
        return confidence if rule == "confidence" else distance(found["curve"], confidence, fooled)

    def threshold(found, score, _clean, given):
        limit = given.settings["limit"]
        return score > limit if rule == "confidence" else above_clean(score, found["clean"], limit)

    return Detector(("queries",), score, None if rule == "confidence" else fit, threshold)


SENTINET = Method(CARD, make)
