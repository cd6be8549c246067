"""CLP: prune, without any data, the channels that are most sensitive to what comes in.

Zheng, Tang, Li, Liu, Data-free Backdoor Removal Based on Channel Lipschitzness, ECCV 2022, arXiv:2208.03111, sections 3
and 4: a channel's Lipschitz constant is bounded by the largest singular value of its convolution's filter, as a matrix
(channels in, height * width), times the scale |gamma / sigma| of the normalisation that follows. In each layer those
are pruned that lie more than u standard deviations above the layer's mean.
"""

from itertools import groupby

import jax
import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.defenses.parts import thresholds
from bdjax.defenses.parts.pruning import MILDEST, by_outliers
from bdjax.errors import InvalidInput
from bdjax.models.parts.norms import entries
from bdjax.types import Array, Layer, Net, Weights

CARD = Card(
    name="clp",
    title="CLP",
    citation="Zheng, Tang, Li, Liu, Data-free Backdoor Removal Based on Channel Lipschitzness, ECCV 2022, "
    "arXiv:2208.03111",
    year=2022,
    version=1,
    kind="pruning",
    stage="post-training",
    needs=("victim",),
    more_needs=thresholds.MORE_NEEDS,
    changes="scales and biases of batch normalisation, to 0",
    settings={
        "u": Setting(3.0, "channels so far above their layer's mean are pruned", "standard deviations", low=0.0),
        "epsilon": Setting(1e-5, "added to running variances, as the network does", low=0.0),
        "shortcuts_last": Setting(False, "count a block's shortcut as its last convolution"),
        **thresholds.SETTINGS,
    },
    presets={"paper": {}, "benchmark": {"epsilon": 0.0, "shortcuts_last": True}},
    departures=(
        "The released code leaves out the epsilon of normalisation, so that a dead channel, whose variance is almost "
        "0, hides the others of its layer: `benchmark` alone does.",
        "The authors prune networks whose normalisation follows the convolution. In a pre-activation network the first "
        "of a block sees a sum: it goes with the last convolution of the block before. The benchmark takes modules as "
        "they are registered, which is the shortcut's 1x1 convolution where there is one: `benchmark` alone does.",
        f"Both fix u, at 3 (5 for Tiny ImageNet). choose=valid tries {MILDEST:g} and less, down to u, and then needs "
        "data. A layer of n channels has none above (n - 1) / sqrt(n) deviations: with 8, u=3 prunes nothing.",
    ),
)


def pairs(net: Net, shortcuts_last: bool = False) -> tuple[tuple[Layer, Layer], ...]:
    """Each normalisation layer with the last convolution before it; those before any convolution are left out.

    shortcuts_last: within a block, as PyTorch registers modules, shortcuts come after all else.

    Raises:
        InvalidInput: there is no such pair.
    """
    blocks = groupby(net.layers, lambda layer: layer.name.rpartition(".")[0])
    ordered = [layer for _, block in blocks for layer in sorted(block, key=_late if shortcuts_last else _alike)]
    found, conv = [], None
    for layer in ordered:
        conv = layer if layer.kind == "conv" else conv
        if layer.kind == "norm" and conv is not None:
            found.append((layer, conv))
    if not found:
        raise InvalidInput("clp: no normalisation follows a convolution; choose another model or defense")
    return tuple(found)


def _check_channels(net: Net, paired: tuple[tuple[Layer, Layer], ...]) -> None:
    weights = jax.eval_shape(net.init, jax.random.key(0))
    scale = entries(tuple(norm for norm, _ in paired), weights.params, "scale")
    kernel = entries(tuple(conv for _, conv in paired), weights.params, "kernel")
    for norm, conv in paired:
        if scale[norm.name].size != kernel[conv.name].shape[-1]:
            raise InvalidInput(
                f"clp: {norm.name} normalizes other channels than those of {conv.name}, the convolution before it; "
                "choose another model or defense"
            )


def _late(layer: Layer) -> bool:
    return "shortcut" in layer.name


def _alike(layer: Layer) -> bool:
    del layer
    return False


def spectral(kernel: Array) -> Array:
    """The largest singular value of each output channel's (channels in, height * width) matrix, float (out,).

    kernel: float (height, width, in, out).
    """
    matrix = kernel.reshape(-1, *kernel.shape[2:])
    gram = jnp.einsum("sio,tio->ost", matrix, matrix)
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(gram)[:, -1], 0))


def bounds(weights: Weights, paired: tuple[tuple[Layer, Layer], ...], epsilon: Array) -> dict[str, Array]:
    """The Lipschitz bound of every channel: name of its normalisation layer -> float (channels,)."""
    layers = tuple(norm for norm, _ in paired)
    scale, variance = entries(layers, weights.params, "scale"), entries(layers, weights.batch_stats, "var")
    kernel = entries(tuple(conv for _, conv in paired), weights.params, "kernel")

    def bound(norm: Layer, conv: Layer) -> Array:
        return spectral(kernel[conv.name]) * jnp.abs(scale[norm.name]) / jnp.sqrt(variance[norm.name] + epsilon)

    return {norm.name: bound(norm, conv) for norm, conv in paired}


def make(net, shape, classes, *, shortcuts_last, choose, tried, relative):
    """Pruning in one step."""
    del shape, classes
    paired = pairs(net, shortcuts_last)
    _check_channels(net, paired)
    layers = tuple(norm for norm, _ in paired)

    def measure(_key, given, victim):
        return bounds(victim, paired, given.settings["epsilon"])

    return (by_outliers(net, layers, measure, choose, tried, relative, biases=True),)


CLP = Method(CARD, make)
