"""EP: prune the channels whose largest responses gather at few values, as those of a backdoor's two kinds of rows do.

Zheng, Tang, Li, Liu, Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022: the largest
value that a channel of a normalization reads in an image, standardized over training rows, has a differential entropy,
which a histogram estimates. In each layer those channels are pruned whose entropy lies more than u standard deviations
below the layer's mean.
"""

import jax
import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.defenses.bnp import draw
from bdjax.defenses.parts import thresholds
from bdjax.defenses.parts.pruning import MILDEST, by_outliers
from bdjax.models.parts.norms import inputs, norms
from bdjax.types import Array

CARD = Card(
    name="ep",
    title="EP",
    citation="Zheng, Tang, Li, Liu, Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022, "
    "https://proceedings.neurips.cc/paper_files/paper/2022/hash/76917808731dae9e6d62c2a7a6afb542-Abstract-Conference.html"
    "; also called DDE, detection by differential entropy",
    year=2022,
    version=1,
    kind="pruning",
    stage="post-training",
    needs=("train", "victim"),
    more_needs=thresholds.MORE_NEEDS,
    changes="scales of batch normalization, to 0",
    settings={
        "u": Setting(3.0, "channels so far below their layer's mean are pruned", "standard deviations", low=0.0),
        "rows": Setting(500, "random training rows that are looked at, in one batch, at most", "rows", low=2),
        "bin_width": Setting(0.01, "of the histogram", "standard deviations of a channel", low=1e-6),
        "biases": Setting(False, "whether pruned channels lose their biases too"),
        "augment": Setting(True, "whether images are augmented"),
        **thresholds.SETTINGS,
    },
    presets={"paper": {}, "benchmark": {"rows": 256, "bin_width": 0.1, "biases": True}},
    departures=(
        "It needs the poisoned training set: rows without poison have nothing to show.",
        f"Both fix u, at 3 (the benchmark 4 for Tiny ImageNet). choose=valid tries {MILDEST:g} and less, down to u.",
    ),
)


def standardized(value: Array) -> Array:
    """Less its mean over rows, by its sample deviation, of value's shape (channels, n); 0 for a constant channel."""
    spread = jnp.std(value, axis=1, ddof=1, keepdims=True)
    return (value - jnp.mean(value, axis=1, keepdims=True)) / jnp.where(spread > 0, spread, 1)


def entropy(value: Array, width: Array) -> Array:
    """-sum q ln q of every channel's histogram, float (channels,), over the whole bins above the layer's least value.

    The least value and what lies beyond the last whole bin are counted nowhere, as in the released code. value: float
    (channels, n). Rows in the same bin are counted, not bins, of which there may be any number.
    """
    least, rows = jnp.min(value), value.shape[1]
    number = jnp.floor((value - least) / width)
    counted = (value > least) & (number < jnp.floor((jnp.max(value) - least) / width))

    def of_channel(number: Array, counted: Array) -> Array:
        number = jnp.where(counted, number, -1)
        order = jnp.sort(number)
        last, first = (jnp.searchsorted(order, number, side=side) for side in ("right", "left"))
        alike = (last - first).astype(value.dtype)
        return -jnp.sum(jnp.where(counted, jnp.log(alike / rows), 0)) / rows

    return jax.vmap(of_channel)(number, counted)


def make(net, shape, classes, *, rows, biases, augment, choose, tried, relative):
    """Pruning in one step."""
    del shape, classes
    layers = norms(net, "ep")

    def measure(key, given, victim):
        image = draw(key, given.train, rows, given, augment)

        def of_layer(x: Array) -> Array:
            largest = jnp.max(x.reshape(len(x), -1, x.shape[-1]), axis=1)
            return -entropy(standardized(largest.T), given.settings["bin_width"])

        return jax.tree.map(of_layer, inputs(net, layers, victim, image))

    return (by_outliers(net, layers, measure, choose, tried, relative, biases),)


EP = Method(CARD, make)
