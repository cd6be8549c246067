"""Networks whose activation functions give no more than upper bounds that are stored with the weights.

The bounds are parameters under `bounds`, one array for each bounded tap. A bounded tap gives what the network goes on
with, after the bound; an edit of it comes last.
"""

import jax.numpy as jnp

from bdjax.errors import InvalidInput
from bdjax.models.parts.layers import NO_EDIT
from bdjax.types import Array, Key, Layer, Net, Weights, real

OWN = "bounds"
ACTIVATIONS = ("relu", "gelu")


def activations(net: Net, method: str) -> list[str]:
    """The taps of all activation functions, in forward order.

    Raises:
        InvalidInput: there is none for `method` to bound.
    """
    found = [layer.tap for layer in net.layers if layer.kind in ACTIVATIONS]
    if not found:
        raise InvalidInput(f"{method}: the network has no {' or '.join(ACTIVATIONS)}; choose another model")
    return found


def stage_inputs(net: Net, count: int, method: str) -> list[str]:
    """The taps of the last activation functions before the first `count` stages that come after one.

    A stage is the blocks with one name before their numbers, such as `layer2_0` and `layer2_1`; a convolution outside
    any block is one by itself.

    Raises:
        InvalidInput: no stage comes after an activation function.
    """
    found: dict[str, str] = {}
    last = ""
    for layer in net.layers:
        if layer.kind in ACTIVATIONS:
            last = layer.tap
        elif layer.kind == "conv":
            found.setdefault(layer.path[0].partition("_")[0], last)
    places = [tap for tap in dict.fromkeys(found.values()) if tap][:count]
    if not places:
        raise InvalidInput(f"{method}: no convolution comes after a {' or '.join(ACTIVATIONS)}; choose another model")
    return places


def clip(x: Array, bound: Array) -> Array:
    """The smaller of each value (..., channels) and its bound; where they are equal the slope is that of the value."""
    return jnp.where(x > bound, bound, x)


def bounded(net: Net, sizes: dict[str, tuple[int, ...]]) -> Net:
    """The network with bounds of these shapes, by tap: (channels,), or (height, width, channels) for every place.

    A new network has bounds that nothing exceeds.
    """

    def init(key: Key) -> Weights:
        largest = jnp.finfo(real()).max
        return with_bounds(net.init(key), {tap: jnp.full(size, largest, real()) for tap, size in sizes.items()})

    def apply(weights, image, train=False, weight=None, edit=NO_EDIT):
        rest = {name: value for name, value in weights.params.items() if name != OWN}

        def change(tap: str):
            last = edit.get(tap, lambda x: x)
            return lambda x: last(clip(x, weights.params[OWN][tap]))

        changes = {**edit, **{tap: change(tap) for tap in sizes}}
        return net.apply(Weights(rest, weights.batch_stats), image, train=train, weight=weight, edit=changes)

    def own(layer: Layer) -> Layer:
        return layer._replace(path=(OWN, layer.tap)) if layer.tap in sizes else layer

    return Net(init, apply, tuple(map(own, net.layers)))


def with_bounds(weights: Weights, bounds: dict[str, Array]) -> Weights:
    """Weights of a bounded network: those of the plain one, and the bounds by tap."""
    return weights.replace(params={**weights.params, OWN: bounds})
