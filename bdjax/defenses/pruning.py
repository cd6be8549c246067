"""What pruning defenses share: scaled channels of normalisation layers, and a stage of one step without batches."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import traverse_util

from bdjax.errors import InvalidInput
from bdjax.types import Array, Batch, Layer, Net, Procedure, PyTree, Source, Trained, Weights, real


def norms(net: Net, method: str) -> tuple[Layer, ...]:
    """The normalisation layers of a network, in forward order.

    Raises:
        InvalidInput: there is none for `method` to prune.
    """
    found = tuple(layer for layer in net.layers if layer.kind == "norm")
    if not found:
        raise InvalidInput(f"{method}: the network has no normalisation layer to prune; choose another model")
    return found


def entries(layers: tuple[Layer, ...], tree: PyTree, leaf: str) -> dict[str, Array]:
    """The arrays called `leaf` of some layers, by the layer's name; tree: `params` or `batch_stats` of the network."""
    flat = traverse_util.flatten_dict(tree)
    return {layer.name: flat[*layer.path, leaf] for layer in layers}


def scaled(net: Net, params: PyTree, scale: Mapping[str, Array], bias: Mapping[str, Array]) -> PyTree:
    """Parameters with the scales and biases of normalisation layers multiplied, channel by channel.

    scale, bias: name of a layer -> float (channels,); layers that are not named stay as they are.
    """
    paths = {layer.name: layer.path for layer in net.layers}
    factors = {(*paths[name], "scale"): factor for name, factor in scale.items()}
    factors |= {(*paths[name], "bias"): factor for name, factor in bias.items()}
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(flat | {path: flat[path] * factor for path, factor in factors.items()})


def share(layers: tuple[Layer, ...], before: Weights, after: Weights) -> Array:
    """The share of all channels of these normalisation layers whose scale has changed, float ()."""
    old, new = (entries(layers, weights.params, "scale") for weights in (before, after))
    return jnp.mean(jnp.concatenate([(old[name] != new[name]).astype(real()) for name in old]))


def once(change: Callable[..., tuple[Weights, dict[str, Array]]]) -> Procedure:
    """A stage of one step that reads no batch: change(key, given, previous: Trained) -> (weights, info).

    What the stage before carried is carried on.
    """

    def read(row: Array) -> Batch:
        empty = jnp.zeros(row.shape, real())
        return Batch(empty.reshape(-1, 1, 1, 1), jnp.zeros_like(row), row, empty)

    def init(key, given, previous):
        del key
        return Trained(given.victim) if previous is None else previous

    def order(key, state, epoch, given):
        del key, state, epoch, given
        return jnp.full((1, 1), -1, jnp.int32)

    def step(key, state, batch, given):
        del batch
        weights, info = change(key, given, state)
        return state.replace(weights=weights), info

    def finish(key, state, given):
        del key, given
        return state

    return Procedure(lambda given: Source(1, read), 1, init, order, step, finish)
