"""Beatrix: the correlations between feature maps of a triggered image are not those of the class it is taken for.

Ma, Wang, Sun, Xue, Wen, Xiang, The "Beatrix" Resurrections: Robust Backdoor Detection via Gram Matrices, NDSS 2023,
arXiv:2209.11715: Gram matrices of several orders, bounds on their entries from medians over clean rows of a class, and
how far an image is outside them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.models.parts import taps
from bdjax.types import Array, Detector, Net, Weights

CARD = Card(
    name="beatrix",
    title="Beatrix",
    citation='Ma, Wang, Sun, Xue, Wen, Xiang, The "Beatrix" Resurrections: Robust Backdoor Detection via Gram '
    "Matrices, NDSS 2023, arXiv:2209.11715",
    year=2023,
    version=1,
    kind="Gram matrices of feature maps",
    stage="inference",
    needs=("victim", "clean"),
    settings={
        "orders": Setting(8, "highest order of Gram matrices; all from 1 on are used", "orders", low=1),
        "elementwise_power": Setting(True, "raise feature maps to the order before they are multiplied"),
        "width": Setting(10.0, "median absolute deviations between the median and a bound", low=0.0),
        "quantile": Setting(0.95, "of held-out clean deviations; more is flagged", low=0.0, high=1.0),
        "per_class": Setting(30, "clean rows used of those predicted as a class", "rows", low=5),
        "tap": Setting("", "layer whose output is correlated; empty: what the last convolution reads"),
    },
    presets={"paper": {}, "benchmark": {"elementwise_power": False}},
    departures=(
        "Clean rows are the defender's share of the training split; the benchmark takes clean test images.",
        "The authors read the input of the last stage: tap=layer3_1.add of PreActResNet18, layer3_1.relu2 of ResNet18.",
        "The score is the deviation divided by the threshold of the predicted class, so that classes can be merged.",
        "A row predicted as a class of fewer than five clean rows is judged by the bounds of all clean rows.",
        "Which class is infected, by a kernel distance between flagged rows and others, is not asked.",
    ),
)

FOLDS = 5


def correlate(activation: Array, order: int, elementwise_power: bool) -> Array:
    """Gram matrices of an order, float (b, c (c + 1) / 2), their upper triangles row by row: equation 5 of the paper.

    activation: float (b, ..., c). The entries' signed root of that order is taken.
    """
    flat = activation.reshape(len(activation), -1, activation.shape[-1])
    flat = flat**order if elementwise_power else flat
    gram = jnp.einsum("bpc,bpd->bcd", flat, flat)[:, *np.triu_indices(flat.shape[-1])]
    return jnp.sign(gram) * jnp.abs(gram) ** (1 / order)


def lower_median(value: Array, member: Array) -> Array:
    """The lower median (k,) over the members of value (n, k); 0 of none. member: bool (n,)."""
    ordered = jnp.sort(jnp.where(member[:, None], value, jnp.inf), axis=0)
    count = jnp.sum(member)
    return jnp.where(count > 0, ordered[jnp.maximum(count - 1, 0) // 2], 0)


def bound(gram: Array, member: Array, width: Array) -> Array:
    """The bounds below and above, float (2, k), that the members of gram (n, k) put on its entries."""
    median = lower_median(gram, member)
    deviation = lower_median(jnp.abs(gram - median), member)
    return jnp.stack([median - width * deviation, median + width * deviation])


def exceed(gram: Array, low: Array, high: Array) -> Array:
    """How far rows (n, k) are outside their bounds, relative to these and summed over entries: float (n,)."""
    below = jax.nn.relu(low - gram) / jnp.abs(low + 1e-6)
    return jnp.sum(below + jax.nn.relu(gram - high) / jnp.abs(high + 1e-6), axis=-1)


def fit_class(activation: Array, count: Array, orders: int, elementwise_power: bool, width: Array, quantile: Array):
    """(bounds float (orders, 2, k), threshold ()) of a class from its clean rows.

    activation: float (m, ..., c), of which the first `count` rows are of the class. The threshold is a quantile of
    sums over orders of what each of five folds exceeds the bounds that the others put; infinite of fewer than five.
    """
    place, fold = jnp.arange(len(activation)), count // FOLDS
    held = (place // jnp.maximum(fold, 1) == jnp.arange(FOLDS + 1)[:, None]) & (place < fold * FOLDS)
    bounds, excess = [], 0
    for order in range(1, orders + 1):
        gram = correlate(activation, order, elementwise_power)
        found = jax.lax.map(lambda out, gram=gram: bound(gram, (place < count) & ~out, width), held)
        excess += jax.lax.map(lambda fold, gram=gram: exceed(gram, *fold), found[:FOLDS])
        bounds.append(found[FOLDS])
    own = jnp.sum(jnp.where(held[:FOLDS], excess, 0), 0)
    ordered = jnp.sort(jnp.where(place < fold * FOLDS, own, jnp.inf))
    index = jnp.minimum((fold * FOLDS * quantile).astype(jnp.int32), fold * FOLDS - 1)
    return jnp.stack(bounds), jnp.where(fold > 0, jnp.maximum(ordered[index], 1e-12), jnp.inf)


def make(net, shape, classes, *, orders, elementwise_power, per_class, tap):
    """Bounds for every class from clean rows; the excess over those of the class that a row is taken for."""
    tap = taps.checked_map(net, shape, tap or taps.before_last_convolution(net, "beatrix"), "beatrix")

    def read(net: Net, weights: Weights, rows):
        logits, _, found = net.apply(weights, rows.image)
        return found[tap], jnp.argmax(logits, axis=1)

    def fit(_key, net, trained, given):
        activation, predicted = sources.each(
            sources.shuffled(given.clean), lambda rows: read(net, trained.weights, rows)
        )
        settings = given.settings

        def of_class(number: Array):
            own = predicted == number
            member = own | (jnp.sum(own) < FOLDS)
            rows = jnp.argsort(~member, stable=True)[:per_class]
            count = jnp.minimum(jnp.sum(member), len(rows))
            width, quantile = settings["width"], settings["quantile"]
            return fit_class(activation[rows], count, orders, elementwise_power, width, quantile)

        bounds, threshold = jax.lax.map(of_class, jnp.arange(classes))
        return {"bounds": bounds, "threshold": threshold}

    def score(_key, net, trained, found, rows, _given):
        activation, predicted = read(net, trained.weights, rows)
        excess = 0
        for order in range(1, orders + 1):
            own = found["bounds"][:, order - 1][predicted]
            excess += exceed(correlate(activation, order, elementwise_power), own[:, 0], own[:, 1])
        return excess / found["threshold"][predicted]

    def threshold(_found, score, _clean, _given):
        return score > 1

    return Detector(("rows", "queries"), score, fit, threshold, batch=64)


BEATRIX = Method(CARD, make)
