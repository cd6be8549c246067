"""IBD-PSC: a triggered image keeps its confidence when the last normalization layers are amplified, a clean one not.

Hou, Feng, Hua, Luo, Zhang, Li, IBD-PSC: Input-level Backdoor Detection via Parameter-oriented Scaling Consistency,
ICML 2024, arXiv:2405.09786, section 4: of the last k layers scale and bias are multiplied by a factor, for several k
from the smallest on under which clean images are mostly misclassified (algorithm 1); the score is equation 4.
"""

import jax
import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.errors import InvalidInput
from bdjax.models.parts import heads
from bdjax.types import Array, Detector, Net, Weights

CARD = Card(
    name="ibd_psc",
    title="IBD-PSC",
    citation="Hou, Feng, Hua, Luo, Zhang, Li, IBD-PSC: Input-level Backdoor Detection via Parameter-oriented Scaling "
    "Consistency, ICML 2024, arXiv:2405.09786",
    year=2024,
    version=1,
    kind="consistency under amplified parameters",
    stage="inference",
    needs=("victim", "valid"),
    settings={
        "models": Setting(5, "amplified models, each with one more amplified layer than the one before", low=1),
        "factor": Setting(1.5, "factor on scale and bias of an amplified normalization layer", low=0.0),
        "error": Setting(
            0.6, "share of misclassified clean images that the first amplified model exceeds", low=0.0, high=1.0
        ),
        "bound": Setting(0.9, "mean probability of the predicted label from which an image is flagged"),
        "offset": Setting(0, "further layers that every amplified model has beyond what `error` asks for", low=0),
    },
    presets={"paper": {}, "toolbox": {"offset": 1}},
    departures=(
        "The released code amplifies one layer more than it finds to be enough: offset=1, preset=toolbox.",
        "Where no number of layers makes enough errors, all but the first are amplified; the released code fails.",
        "Slices past the first layer repeat the model in which all are amplified, as in the released code.",
        "Layers are counted as in the forward pass, the last first.",
    ),
)


def amplify(net: Net, weights: Weights, count: Array, factor: Array) -> Weights:
    """The weights with scale and bias of the last `count` normalization layers, int32 (), multiplied by `factor`."""
    params = weights.params
    for place, path in enumerate(reversed(norms(net))):
        own = jnp.where(place < count, factor, 1)
        params = heads.put(params, path, jax.tree.map(lambda leaf, own=own: own * leaf, heads.at(params, path)))
    return weights.replace(params=params)


def norms(net: Net) -> list[tuple[str, ...]]:
    """Where in params the normalization layers are, in forward order."""
    return [layer.path for layer in net.layers if layer.kind == "norm"]


def first_count(error: Array, bound: Array) -> Array:
    """The smallest number of layers with more than `bound` errors, int32 (); error float (m,), of 1 to m layers."""
    enough = error > bound
    return jnp.where(jnp.any(enough), jnp.argmax(enough) + 1, error.size).astype(jnp.int32)


def make(net, shape, classes, *, models, offset):
    """The mean probability of the predicted label under amplified models."""
    del shape, classes
    layers = len(norms(net))
    if layers < 2:
        raise InvalidInput(
            "ibd_psc amplifies normalization layers, of which the network has fewer than two; choose another network"
        )

    def fit(_key, net, trained, given):
        def wrong(count: Array) -> Array:
            weights = amplify(net, trained.weights, count, given.settings["factor"])

            def errors(rows):
                return jnp.sum((jnp.argmax(net.apply(weights, rows.image)[0], axis=1) != rows.label) * rows.weight)

            return sources.total(given.valid, errors) / given.valid.size

        return {"count": first_count(jax.lax.map(wrong, jnp.arange(1, layers)), given.settings["error"])}

    def score(_key, net, trained, found, rows, given):
        label = jnp.argmax(net.apply(trained.weights, rows.image)[0], axis=1)

        def confidence(count: Array) -> Array:
            logits = net.apply(amplify(net, trained.weights, count, given.settings["factor"]), rows.image)[0]
            return jnp.take_along_axis(jax.nn.softmax(logits), label[:, None], axis=1)[:, 0]

        return jnp.mean(jax.lax.map(confidence, found["count"] + offset + jnp.arange(models)), axis=0)

    def threshold(_found, score, _clean, given):
        return score >= given.settings["bound"]

    return Detector(("queries",), score, fit, threshold)


IBD_PSC = Method(CARD, make)
