"""The channels of a network's normalization layers: which there are, what they read, and how they are changed."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import traverse_util

from bdjax.errors import InvalidInput
from bdjax.models.parts.batch_norm import EPSILON
from bdjax.types import Array, Layer, Net, PyTree, Weights


def norms(net: Net, method: str) -> tuple[Layer, ...]:
    """The normalization layers of a network, in forward order.

    Raises:
        InvalidInput: there is none for `method` to change.
    """
    found = tuple(layer for layer in net.layers if layer.kind == "norm")
    if not found:
        raise InvalidInput(f"{method}: the network has no normalization layer; choose another model")
    return found


def entries(layers: tuple[Layer, ...], tree: PyTree, leaf: str) -> dict[str, Array]:
    """The arrays called `leaf` of some layers, by the layer's name; tree: `params` or `batch_stats` of the network."""
    flat = traverse_util.flatten_dict(tree)
    return {layer.name: flat[*layer.path, leaf] for layer in layers}


def scaled(net: Net, params: PyTree, scale: Mapping[str, Array], bias: Mapping[str, Array]) -> PyTree:
    """Parameters with the scales and biases of normalization layers multiplied, channel by channel.

    scale, bias: name of a layer -> float (channels,); layers that are not named stay as they are.
    """
    paths = {layer.name: layer.path for layer in net.layers}
    factors = {(*paths[name], "scale"): factor for name, factor in scale.items()}
    factors |= {(*paths[name], "bias"): factor for name, factor in bias.items()}
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(flat | {path: flat[path] * factor for path, factor in factors.items()})


def inputs(net: Net, layers: tuple[Layer, ...], weights: Weights, image: Array) -> dict[str, Array]:
    """What each of some normalization layers reads in inference mode, float (b, ..., channels) by the layer's name.

    A tap gives what a layer hands on. So the layers hand on what they read, and an edit behind each normalizes.
    """
    scale, bias = (entries(layers, weights.params, leaf) for leaf in ("scale", "bias"))
    mean, variance = (entries(layers, weights.batch_stats, leaf) for leaf in ("mean", "var"))
    seen = {}

    def normalize(name: str):
        def change(x: Array) -> Array:
            seen[name] = x
            return (x - mean[name]) * scale[name] * jax.lax.rsqrt(variance[name] + EPSILON) + bias[name]

        return change

    def put(tree: PyTree, leaves: dict[str, float]) -> PyTree:
        flat = dict(traverse_util.flatten_dict(tree))
        for layer in layers:
            for leaf, value in leaves.items():
                flat[*layer.path, leaf] = jnp.full_like(flat[*layer.path, leaf], value)
        return traverse_util.unflatten_dict(flat)

    params = put(weights.params, {"scale": 1.0, "bias": 0.0})
    batch_stats = put(weights.batch_stats, {"mean": 0.0, "var": 1 - EPSILON})
    net.apply(Weights(params, batch_stats), image, edit={layer.tap: normalize(layer.name) for layer in layers})
    return seen
