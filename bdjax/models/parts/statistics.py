"""Statistics of batch normalisation made anew for weights that were never trained, such as points between two models.

Izmailov, Podoprikhin, Garipov, Vetrov, Wilson, Averaging Weights Leads to Wider Optima and Better Generalization, UAI
2018, arXiv:1803.05407, section 3.2: one pass over the rows, every row of the same weight, instead of the exponential
average of training.
"""

import jax
import jax.numpy as jnp

from bdjax.data import sources
from bdjax.types import Batch, Net, PyTree, Source, Weights


def reestimated(net: Net, weights: Weights, source: Source, batch: int = 256) -> Weights:
    """The weights with the mean over batches of each batch's own statistics, batches weighted by their rows.

    Args:
        net: the network.
        weights: of it; their statistics are not looked at.
        source: the rows, read in order and not augmented.
        batch: rows a pass.
    """
    # Training mode keeps a share of the old moving statistics, each layer its own, and takes the rest from the batch:
    # from 0, what it leaves is that rest, and the derivative along 1 is the share kept.
    zeros, ones = (jax.tree.map(like, weights.batch_stats) for like in (jnp.zeros_like, jnp.ones_like))

    def seen(rows: Batch) -> tuple[PyTree, PyTree]:
        def moved(old: PyTree) -> PyTree:
            return net.apply(weights.replace(batch_stats=old), rows.image, train=True, weight=rows.weight)[1]

        taken, kept = jax.jvp(moved, (zeros,), (ones,))
        shares = jax.tree.map(lambda leaf: 1 - leaf, kept)
        return jax.tree.map(lambda leaf: leaf * jnp.sum(rows.weight), (taken, shares))

    taken, shares = sources.total(source, seen, batch)
    return weights.replace(batch_stats=jax.tree.map(jnp.divide, taken, shares))
