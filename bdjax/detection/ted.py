"""TED: layer by layer, how near to a query is the next clean image of the class that it is predicted as?

Mo, Zhang, Zhang, Luo, Li, Xiang, Lyu, Robust Backdoor Detection for Deep Learning via Topological Evolution Dynamics,
IEEE S&P 2024, arXiv:2312.02673. In every layer clean rows are sorted by their distance to the query; the place of the
first one with the query's prediction, over all layers, is a trajectory, and the score is how far it lies from those of
clean rows by principal components.
"""

import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.detection.parts import outliers
from bdjax.detection.parts.decisions import above_clean
from bdjax.models.parts import taps
from bdjax.types import Array, Detector, Net, Source, Weights

CARD = Card(
    name="ted",
    title="TED",
    citation="Mo, Zhang, Zhang, Luo, Li, Xiang, Lyu, Robust Backdoor Detection for Deep Learning via Topological "
    "Evolution Dynamics, IEEE S&P 2024, arXiv:2312.02673",
    year=2024,
    version=1,
    kind="ranks of neighbors over layers",
    stage="inference",
    needs=("victim", "clean"),
    settings={
        "references": Setting(1000, "clean rows that queries are compared with; all where there are fewer", low=4),
        "correct": Setting(True, "leave out clean rows that the network misclassifies"),
        "components": Setting(0, "principal components that count; 0: as many as have the largest evidence", low=0),
        "outlier": Setting(
            "projections",
            "what is summed over components: squared projections by variance, or distances to unit vectors by share "
            "of the variance, as the PyOD library has it",
            choices=("projections", "distances"),
        ),
        "contamination": Setting(0.01, "share of clean rows that lies beyond the threshold", low=0.0, high=1.0),
    },
    presets={"paper": {}, "authors_code": {"outlier": "distances"}},
    departures=(
        "Layers are convolutions larger than 1x1, rectifiers and linear layers, as in the released code.",
        "Clean rows with no other of their predicted class are left out, too.",
        "A query whose prediction no clean row has gets the last rank in all layers; the released code leaves it out.",
        "A clean row is never compared with itself; the released code drops whatever comes first.",
    ),
)

CHUNK = 64  # clean rows whose activations are held at a time


def watched(net: Net) -> list[str]:
    """The taps whose activations are compared."""
    found = set(taps.convolutions(net, "ted"))
    return [layer.tap for layer in net.layers if layer.tap in found or layer.kind in ("relu", "linear")]


def distances(net: Net, weights: Weights, image: Array, reference: Source) -> Array:
    """Squared distances of activations to those of images (b, ...), float (m, b, layers), for m rows of a source."""
    names = watched(net)

    def flat(image: Array) -> list[Array]:
        found = net.apply(weights, image)[2]
        return [found[name].reshape(len(image), -1) for name in names]

    asked = flat(image)

    def against(rows) -> Array:
        pairs = zip(flat(rows.image), asked, strict=True)
        return jnp.stack([_norm(one)[:, None] - 2 * one @ two.T + _norm(two) for one, two in pairs], axis=-1)

    return sources.each(reference, against, CHUNK)


def _norm(activation: Array) -> Array:
    return jnp.sum(activation**2, axis=1)


def rank(distance: Array, label: Array, reference: Array, counts: Array) -> Array:
    """The place of the nearest reference of a row's label, from 0, float (b, layers): how many are nearer.

    distance: float (m, b, layers); label: int32 (b,); reference: int32 (m,); counts: bool (m, b), who is compared with.
    """
    same = counts & (reference[:, None] == label)
    nearest = jnp.min(jnp.where(same[..., None], distance, jnp.inf), axis=0)
    return jnp.sum(counts[..., None] & (distance < nearest), axis=0).astype(distance.dtype)


def make(net, shape, classes, *, references, correct, components, outlier):
    """Trajectories of ranks, and how far they lie from clean ones."""
    del shape, classes
    measure = {"projections": outliers.reach, "distances": outliers.spread}[outlier]

    def held_out(given) -> Source:
        return sources.subset(sources.shuffled(given.clean), jnp.arange(min(references, given.clean.size)))

    def predict(weights: Weights, image: Array) -> Array:
        return jnp.argmax(net.apply(weights, image)[0], axis=1)

    def fit(_key, net, trained, given):
        rows, weights = held_out(given), trained.weights
        label, right = sources.each(
            rows, lambda rows: (predict(weights, rows.image), predict(weights, rows.image) == rows.label)
        )
        right = right if correct else jnp.ones_like(right)
        member = right & (jnp.sum((label[:, None] == label) & right, axis=1) > 1)

        def own(batch) -> Array:
            others = member[:, None] & (jnp.arange(rows.size)[:, None] != batch.row)
            return rank(distances(net, weights, batch.image, rows), label[batch.row], label, others)

        figures = sources.each(rows, own, CHUNK)
        axes = outliers.fit_axes(figures, member, components)
        return {"label": label, "member": member, "axes": axes, "score": measure(axes, figures)}

    def score(_key, net, trained, found, rows, given):
        label = predict(trained.weights, rows.image)
        distance = distances(net, trained.weights, rows.image, held_out(given))
        return measure(found["axes"], rank(distance, label, found["label"], found["member"][:, None]))

    def threshold(found, score, _clean, given):
        share = given.settings["contamination"] * jnp.mean(found["member"])
        return above_clean(score, jnp.where(found["member"], found["score"], -jnp.inf), share)

    return Detector(("queries",), score, fit, threshold, batch=128)


TED = Method(CARD, make)
