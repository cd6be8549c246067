"""Permutations of a network's channels that leave its function as it is: which channels move together, and how far.

Ainsworth, Hayase, Srinivasa, Git Re-Basin: Merging Models modulo Permutation Symmetries, ICLR 2023, arXiv:2209.04836:
what a layer gives may come in any order if all that read it take it in that order, and a sum of branches has one order
for all of them. Section 3.1 pairs the channels of two models by the correlation of what they give on the same rows.
"""

import math
from typing import NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bdjax.data import sources
from bdjax.errors import InvalidInput
from bdjax.host import call_on_host
from bdjax.models.parts.batch_norm import moments
from bdjax.models.parts.taps import shapes
from bdjax.types import Array, Batch, Net, PyTree, Source, Weights, real

IMAGE, LOGITS = "image of the network", "logits of the network"
CHANNELWISE = ("norm", "relu", "gelu", "add", "pool")
"""Kinds of layers whose channels are those that they read."""

FIXED = 0
"""The number of the channels that must stay in their order."""

DIGITS = 6
"""Places of a likeness that count. Of a model and its copy an order and its inverse tie, and noise would decide."""


class Group(NamedTuple):
    """Channels that have one order in common."""

    tap: str  # of the first convolution larger than 1x1 that gives them, else of the first layer
    size: int
    axes: tuple[tuple[tuple[str, ...], int], ...]  # path into params or batch_stats, that name first, and the axis


def reads(net: Net, shape: tuple[int, ...]) -> dict[str, set[str]]:
    """The taps that each layer reads without another between, by its own tap; IMAGE and LOGITS are among the names."""
    sizes = shapes(net, shape) | {IMAGE: shape}
    known = {name: jax.ShapeDtypeStruct((1, *size), real()) for name, size in sizes.items()}

    def cut(known: dict[str, Array]) -> dict[str, Array]:
        seen = {}

        def between(name: str):
            def change(x: Array) -> Array:
                seen[name] = x
                return known[name]

            return change

        edit = {layer.tap: between(layer.tap) for layer in net.layers}
        logits = net.apply(net.init(jax.random.key(0)), known[IMAGE], edit=edit)[0]
        return seen | {LOGITS: logits}

    traced, given = jax.make_jaxpr(cut, return_shape=True)(known)
    inputs, outputs = (jax.tree.leaves({name: name for name in tree}) for tree in (known, given))  # ordered as leaves
    found = {var: {name} for var, name in zip(traced.jaxpr.invars, inputs, strict=True)}
    for step in traced.jaxpr.eqns:
        read = [found.get(var, set()) for var in step.invars if not isinstance(var, jax.extend.core.Literal)]
        found |= dict.fromkeys(step.outvars, set().union(*read))
    return {name: found.get(var, set()) for var, name in zip(traced.jaxpr.outvars, outputs, strict=True)}


def groups(net: Net, shape: tuple[int, ...], method: str) -> tuple[Group, ...]:
    """The channels of a network that may be permuted, in forward order, those with one order in common together.

    Channels of the image, the logits and layers of other kinds than those known here stay in their order.

    Args:
        net: the network.
        shape: of an image, (height, width, channels).
        method: what asks, for the error.

    Raises:
        InvalidInput: there are none for `method` to permute.
    """
    weights = jax.eval_shape(net.init, jax.random.key(0))
    leaves, sizes, read = _flat(weights), shapes(net, shape) | {IMAGE: shape}, reads(net, shape)
    number = {IMAGE: FIXED} | {layer.tap: place for place, layer in enumerate(net.layers, 1)}
    axes: list[tuple[str, tuple[str, ...], int]] = []  # the tap whose channels they are, path, axis

    def join(*taps: str) -> None:
        joined = {number[tap] for tap in taps}
        number.update({tap: min(joined) for tap, own in number.items() if own in joined})

    def kernel(layer) -> tuple[int, ...]:
        return leaves["params", *layer.path, "kernel"].shape

    for layer in net.layers:
        inner, tap = sorted(read[layer.tap]), layer.tap
        own = {path: leaf.ndim - 1 for path, leaf in leaves.items() if layer.path and path[1:-1] == layer.path}
        if layer.kind in CHANNELWISE:
            join(tap, *inner)
        elif layer.kind in ("conv", "linear") and {sizes[name][-1] for name in inner} == {kernel(layer)[-2]}:
            join(*inner)
            axes.append((inner[0], ("params", *layer.path, "kernel"), len(kernel(layer)) - 2))
        else:
            join(IMAGE, tap, *inner)
        axes += [(tap, path, axis) for path, axis in own.items()]
    join(IMAGE, *read[LOGITS])

    found = []
    for one in sorted(set(number.values()) - {FIXED}):
        makers = [layer for layer in net.layers if number[layer.tap] == one and layer.kind in ("conv", "linear")]
        tap = next((layer for layer in makers if math.prod(kernel(layer)[:-2]) > 1), makers[0]).tap
        own = tuple((path, axis) for name, path, axis in axes if number[name] == one)
        found.append(Group(tap, sizes[tap][-1], own))
    if not found:
        raise InvalidInput(f"{method}: no channels of the network can be permuted; choose another network")
    return tuple(found)


def permuted(found: tuple[Group, ...], weights: Weights, orders: tuple[Array, ...]) -> Weights:
    """The weights with the channels of each group in another order, int32 (size,): channel i is what order[i] was."""
    leaves = _flat(weights)
    for group, order in zip(found, orders, strict=True):
        leaves |= {path: jnp.take(leaves[path], order, axis) for path, axis in group.axes}
    tree = traverse_util.unflatten_dict(leaves)
    return weights.replace(params=tree["params"], batch_stats=tree.get("batch_stats", weights.batch_stats))


def correlations(
    net: Net, found: tuple[Group, ...], one: Weights, two: Weights, source: Source, batch: int
) -> tuple[Array, ...]:
    """How much the channels of two models are alike on rows, for each group float (size of `one`, size of `two`).

    Means, standard deviations and products over rows and places are made a batch and averaged over batches.
    """

    def seen(rows: Batch) -> list[PyTree]:
        taps = [net.apply(weights, rows.image)[2] for weights in (one, two)]

        def of_group(group: Group) -> PyTree:
            pair = [each[group.tap].astype(real()) for each in taps]
            mean, deviation = [], []
            for x in pair:
                middle, variance, count = moments(x, rows.weight)
                mean.append(middle)
                deviation.append(jnp.sqrt(variance * count / jnp.maximum(count - 1, 1)))
            first, second = (x.reshape(len(x), -1, group.size) for x in pair)
            product = jnp.einsum("bpi,bpj,b->ij", first, second, rows.weight) / count
            return {"mean": mean, "deviation": deviation, "product": product}

        return [of_group(group) for group in found]

    steps = len(sources.in_turn(source.size, batch))
    sums = jax.tree.map(lambda leaf: leaf / steps, sources.total(source, seen, batch))

    def correlation(of: PyTree) -> Array:
        return (of["product"] - jnp.outer(*of["mean"])) / (jnp.outer(*of["deviation"]) + 1e-4)

    return tuple(correlation(of) for of in sums)


def assigned(matrices: tuple[Array, ...], alike: bool) -> tuple[Array, ...]:
    """For every row of each matrix a column of its own, int32 (size,), so that the sum is the largest or the least.

    Entries count to `DIGITS` places.
    """

    def solve(matrices: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        from scipy.optimize import linear_sum_assignment

        rounded = (np.round(np.nan_to_num(matrix), DIGITS) for matrix in matrices)
        return tuple(linear_sum_assignment(matrix, maximize=alike)[1] for matrix in rounded)

    return call_on_host(solve, tuple(jax.ShapeDtypeStruct((len(each),), jnp.int32) for each in matrices), matrices)


def _flat(weights: Weights) -> dict[tuple[str, ...], Array]:
    return traverse_util.flatten_dict({"params": weights.params, "batch_stats": weights.batch_stats})
