"""Statistics of batch normalisation made anew for weights that were never trained, such as points between two models.

Izmailov, Podoprikhin, Garipov, Vetrov, Wilson, Averaging Weights Leads to Wider Optima and Better Generalization, UAI
2018, arXiv:1803.05407, section 3.2: one pass over the rows, every row of the same weight, instead of the exponential
average of training.
"""

import jax
import jax.numpy as jnp

from bdjax import sources
from bdjax.models.layers import MOMENTUM
from bdjax.types import Array, Batch, Net, PyTree, Source, Weights


def reestimated(net: Net, weights: Weights, source: Source, batch: int = 256) -> Weights:
    """The weights with the mean over batches of each batch's own statistics, batches weighted by their rows.

    Args:
        net: the network.
        weights: of it; their statistics are not looked at.
        source: the rows, read in order and not augmented.
        batch: rows a pass.
    """
    # From moving statistics of 0, training mode leaves each layer's momentum times those of the batch; PyTorch's where
    # a network does not list the layer.
    shares = {layer.path: layer.momentum for layer in net.layers if layer.kind == "norm"}
    blank = weights.replace(batch_stats=jax.tree.map(jnp.zeros_like, weights.batch_stats))

    def seen(rows: Batch) -> PyTree:
        moved = net.apply(blank, rows.image, train=True, weight=rows.weight)[1]
        return jax.tree.map(lambda leaf: leaf * jnp.sum(rows.weight), moved)

    sums = sources.total(source, seen, batch)

    def whole(path, leaf: Array) -> Array:
        return leaf / (shares.get(tuple(entry.key for entry in path[:-1]), MOMENTUM) * source.size)

    return weights.replace(batch_stats=jax.tree_util.tree_map_with_path(whole, sums))
