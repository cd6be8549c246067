"""From a linen module to a `Net`: two pure functions and the list of layers.

Names. A layer's name, its tap and its place in `params` agree: block and layer joined by a dot, numbered as PyTorch
numbers them, so `layer4_1.relu1` is what the first rectifier of the second block of stage 4 gives, which in a
pre-activation network is the input of `layer4_1.conv1`, whose kernel is `params["layer4_1"]["conv1"]["kernel"]`. Every
network ends in `pool`, the features, and `linear`, the logits.
"""

from collections.abc import Callable

import flax.linen as nn
import jax

from bdjax.errors import InvalidInput
from bdjax.models.parts.layers import NO_EDIT, Pass
from bdjax.types import Key, Layer, Net, PyTree, Weights, real


def survey(module: nn.Module, *shapes: tuple[int, ...]) -> tuple[Callable[[Key], PyTree], tuple[Layer, ...]]:
    """`draw(key) -> variables` of `module(*inputs, run)`, and its layers in forward order.

    shapes: of one row of each of its inputs, which are float (b, *shape).
    """
    inputs = [jax.ShapeDtypeStruct((1, *shape), real()) for shape in shapes]
    first = Pass()
    jax.eval_shape(lambda key, inputs: module.init(key, *inputs, first), jax.random.key(0), inputs)

    def draw(key: Key) -> PyTree:
        run = Pass(noise=jax.random.uniform(key, (first.drawn,), real(), -1, 1))
        return module.lazy_init(key, *inputs, method=lambda module, *inputs: module(*inputs, run))

    return draw, tuple(first.layers)


def network(module: nn.Module, shape: tuple[int, int, int], precision: str = "float") -> Net:
    """The network that `module` describes, for images of `shape` (height, width, channels).

    The module is called as `module(image, run)`, run a `Pass`, and gives logits. precision: see `layers.PRECISION`.
    """
    draw, layers = survey(module, shape)
    names = frozenset(layer.tap for layer in layers)

    def init(key):
        variables = draw(key)
        return Weights(variables["params"], variables.get("batch_stats", {}))

    def apply(weights, image, train=False, weight=None, edit=NO_EDIT):
        for name in edit:
            if name not in names:
                taps = ", ".join(layer.tap for layer in layers)
                raise InvalidInput(f"no tap {name!r} to edit; the network's taps are {taps}; choose one of them")
        run = Pass(train, weight, edit, precision=precision)
        variables = {"params": weights.params, "batch_stats": weights.batch_stats}
        if not train:
            return module.apply(variables, image, run), weights.batch_stats, run.taps
        logits, changed = module.apply(variables, image, run, mutable=["batch_stats"])
        return logits, changed.get("batch_stats", weights.batch_stats), run.taps

    return Net(init, apply, layers)
