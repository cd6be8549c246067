"""The channels of a network's normalization layers: which there are, and how their scales and biases are changed."""

from collections.abc import Mapping

from flax import traverse_util

from bdjax.errors import InvalidInput
from bdjax.types import Array, Layer, Net, PyTree


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
