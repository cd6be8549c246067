"""From a linen module of several inputs to two pure functions."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn

from bdjax.models.parts.layers import Pass
from bdjax.models.parts.network import survey
from bdjax.types import Array, Key, PyTree


class Generator(NamedTuple):
    """A network from images to images as two pure functions.

    `init(key) -> params`; `apply(params, image) -> image`, both float (b, height, width, channels) of any range.
    """

    init: Callable[[Key], PyTree]
    apply: Callable[[PyTree, Array], Array]


def pure(module: nn.Module, *shapes: tuple[int, ...]) -> Generator:
    """`module(*inputs, run)` as `init(key) -> params` and `apply(params, *inputs)`.

    Args:
        module: without batch statistics.
        shapes: of one row of each of its inputs, which are float (b, *shape).
    """
    draw, _ = survey(module, *shapes)

    def init(key: Key) -> PyTree:
        return draw(key)["params"]

    def apply(params: PyTree, *inputs: Array) -> Array:
        return module.apply({"params": params}, *inputs, Pass())

    return Generator(init, apply)
