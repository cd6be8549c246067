"""The head of a network, its last linear layer: where it is, a new one, and one of another's length."""

from functools import reduce

import jax
import jax.numpy as jnp

from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.types import Array, Key, Net, PyTree

Head = dict[str, Array]
"""kernel float (features, classes) and bias float (classes,)."""


def place(net: Net) -> tuple[str, ...]:
    """Where in params the head is.

    Raises:
        InvalidInput: the network has no linear layer.
    """
    paths = [layer.path for layer in net.layers if layer.kind == "linear"]
    if not paths:
        raise InvalidInput("the network has no layer of kind linear, so no head to tune; choose another network")
    return paths[-1]


def reads(net: Net, method: str) -> str:
    """The tap that the head reads.

    Raises:
        InvalidInput: the network has no linear layer, or none before it that `method` could look at.
    """
    path = place(net)
    before = [layer.tap for layer in net.layers][: [layer.path for layer in net.layers].index(path)]
    if not before:
        raise InvalidInput(f"{method}: the linear layer reads the image itself; choose a network with layers before")
    return before[-1]


def at(params: PyTree, path: tuple[str, ...]) -> Head:
    """What is at a path into params; the head at `place`."""
    return reduce(lambda tree, name: tree[name], path, params)


def put(params: PyTree, path: tuple[str, ...], head: Head) -> PyTree:
    """The parameters with something else at a path, such as another head."""
    if not path:
        return head
    return {**params, path[0]: put(params[path[0]], path[1:], head)}


def drawn(key: Key, head: Head) -> Head:
    """A new head of the same shape, all of it U(-1/sqrt(d), 1/sqrt(d)) for d features, as PyTorch initialises it."""
    width = len(head["kernel"]) ** -0.5

    def uniform(name: str, like: Array) -> Array:
        return jax.random.uniform(stream(key, name), like.shape, like.dtype, -width, width)

    return {name: uniform(name, like) for name, like in head.items()}


def scaled(head: Head, like: Head) -> Head:
    """The head with its kernel brought to the Frobenius norm of another's; the bias stays."""
    factor = jnp.linalg.norm(like["kernel"]) / jnp.linalg.norm(head["kernel"])
    return {**head, "kernel": head["kernel"] * factor}
