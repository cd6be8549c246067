"""From a linen module of several inputs to two pure functions."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax

from bdjax.models.layers import Pass
from bdjax.types import Array, Key, PyTree, real


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
    inputs = [jax.ShapeDtypeStruct((1, *shape), real()) for shape in shapes]
    survey = Pass()
    jax.eval_shape(lambda key, inputs: module.init(key, *inputs, survey), jax.random.key(0), inputs)

    def init(key: Key) -> PyTree:
        run = Pass(noise=jax.random.uniform(key, (survey.drawn,), real(), -1, 1))
        return module.lazy_init(key, *inputs, method=lambda module, *inputs: module(*inputs, run))["params"]

    def apply(params: PyTree, *inputs: Array) -> Array:
        return module.apply({"params": params}, *inputs, Pass())

    return Generator(init, apply)
