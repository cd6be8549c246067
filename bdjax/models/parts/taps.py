"""Which activation of a network a method looks at, and what shape it has."""

import math

import jax

from bdjax.errors import InvalidInput
from bdjax.types import Layer, Net, real


def shapes(net: Net, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shape of what every tap gives for one image of `shape` (height, width, channels), without its batch axis."""

    def taps(key, image):
        return net.apply(net.init(key), image)[2]

    found = jax.eval_shape(taps, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), real()))
    return {name: value.shape[1:] for name, value in found.items()}


def checked(net: Net, tap: str, method: str) -> str:
    """The tap, if the network has it.

    Raises:
        InvalidInput: it has none of that name.
    """
    names = [layer.tap for layer in net.layers]
    if tap not in names:
        raise InvalidInput(f"{method}: no tap {tap!r}; the network's taps are {', '.join(names)}; choose one of them")
    return tap


def checked_map(net: Net, shape: tuple[int, ...], tap: str, method: str) -> str:
    """The tap, if what it gives has height, width and channels.

    Raises:
        InvalidInput: the network has no such tap, or its output is no map.
    """
    if len(shapes(net, shape)[checked(net, tap, method)]) != 3:
        raise InvalidInput(f"{method}: the output of {tap} has no height and width; choose a tap before the pooling")
    return tap


def convolution_layers(net: Net, method: str) -> tuple[Layer, ...]:
    """All convolutions, in forward order.

    Raises:
        InvalidInput: the network has none.
    """
    return _some(tuple(layer for layer in net.layers if layer.kind == "conv"), method)


def convolutions(net: Net, method: str) -> list[str]:
    """The taps of convolutions larger than 1x1, in forward order.

    Raises:
        InvalidInput: the network has none.
    """
    params = jax.eval_shape(net.init, jax.random.key(0)).params

    def size(path: tuple[str, ...]) -> int:
        node = params
        for name in path:
            node = node[name]
        return math.prod(node["kernel"].shape[:2])

    return _some([layer.tap for layer in convolution_layers(net, method) if size(layer.path) > 1], method)


def _some(found, method: str):
    if not found:
        raise InvalidInput(f"{method}: the network has no convolution; choose a convolutional network")
    return found


def before_last_convolution(net: Net, method: str) -> str:
    """The tap that the last convolution larger than 1x1 reads.

    Raises:
        InvalidInput: the network has no convolution that reads a layer.
    """
    names = [layer.tap for layer in net.layers]
    place = names.index(convolutions(net, method)[-1])
    if not place:
        raise InvalidInput(f"{method}: the only convolution reads the image; choose a deeper network")
    return names[place - 1]
