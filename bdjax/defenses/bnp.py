"""BNP: prune the channels whose running statistics tell of other images than the clean ones.

Zheng, Tang, Li, Liu, Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022: running
statistics were gathered on the poisoned training set. In each layer those channels are pruned whose divergence of
N(mean, variance on clean rows) from N(running mean, running variance) lies more than u standard deviations above the
layer's mean.
"""

import jax
import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.defenses.parts import thresholds
from bdjax.defenses.parts.pruning import MILDEST, by_outliers
from bdjax.keys import stream
from bdjax.models.parts.norms import entries, inputs, norms
from bdjax.types import Array, Given, Key, Source

CARD = Card(
    name="bnp",
    title="BNP",
    citation="Zheng, Tang, Li, Liu, Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022, "
    "https://proceedings.neurips.cc/paper_files/paper/2022/hash/76917808731dae9e6d62c2a7a6afb542-Abstract-Conference.html"
    "; also called MBNS, mismatched statistics of batch normalization",
    year=2022,
    version=1,
    kind="pruning",
    stage="post-training",
    needs=("clean", "victim"),
    more_needs=thresholds.MORE_NEEDS | {"rows_from=train": ("train",)},
    changes="scales of batch normalization, to 0",
    settings={
        "u": Setting(3.0, "channels so far above their layer's mean are pruned", "standard deviations", low=0.0),
        "rows": Setting(500, "random rows whose statistics are compared, in one batch, at most", "rows", low=2),
        "rows_from": Setting("clean", "the clean rows, or the training set as it is", choices=("clean", "train")),
        "log_weight": Setting(0.5, "factor on ln(running variance / variance) in the divergence", low=0.0),
        "biases": Setting(False, "whether pruned channels lose their biases too"),
        "augment": Setting(False, "whether images are augmented"),
        **thresholds.SETTINGS,
    },
    presets={
        "paper": {},
        "benchmark": {"rows": 256, "rows_from": "train", "log_weight": 1.0, "biases": True, "augment": True},
    },
    departures=(
        "The benchmark overwrites the statistics of clean rows by those of training rows before it compares, so that "
        "nothing stands out, and leaves out the factor 1/2 of the logarithm: `benchmark` alone does.",
        f"Both fix u, at 3 (the benchmark 4 for Tiny ImageNet). choose=valid tries {MILDEST:g} and less, down to u.",
    ),
)


def draw(key: Key, source: Source, count: int, given: Given, augment: bool) -> Array:
    """Images of random rows, float (count, height, width, channels); all rows where there are fewer."""
    rows = jax.random.permutation(stream(key, "rows"), jnp.arange(source.size, dtype=jnp.int32))[:count]
    image = source.read(rows).image
    return given.augment(stream(key, "augment"), image) if augment else image


def divergence(mean: Array, variance: Array, running_mean: Array, running_variance: Array, log_weight: Array) -> Array:
    """KL(N(mean, variance) || N(running)) of every channel where `log_weight` is 1/2."""
    apart = (variance + (mean - running_mean) ** 2) / (2 * running_variance)
    return log_weight * jnp.log(running_variance / variance) + apart - 0.5


def make(net, shape, classes, *, rows, rows_from, biases, augment, choose, tried, relative):
    """Pruning in one step."""
    del shape, classes
    layers = norms(net, "bnp")

    def measure(key, given, victim):
        image = draw(key, getattr(given, rows_from), rows, given, augment)
        mean, variance = (entries(layers, victim.batch_stats, leaf) for leaf in ("mean", "var"))

        def of_layer(name: str, x: Array) -> Array:
            x = x.reshape(-1, x.shape[-1])
            own = jnp.mean(x, 0), jnp.var(x, 0, ddof=1)
            return divergence(*own, mean[name], variance[name], given.settings["log_weight"])

        return {name: of_layer(name, x) for name, x in inputs(net, layers, victim, image).items()}

    return (by_outliers(net, layers, measure, choose, tried, relative, biases),)


BNP = Method(CARD, make)
