"""Loss landscape: the normalized directions of the authors' code, and the loss of the models that they lead to.

Li et al., NeurIPS 2018; `net_plotter.py` of tomgoldstein/loss-landscape, which the benchmark calls.
"""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from bdjax.analysis import landscape
from experiments.fidelity import common

ROWS, SIZE = 16, 16
PLACES = ((0.0, 0.0), (0.5, -0.2), (-1.0, 1.0))


def compare(folder):
    """Relative differences of two directions, and of the loss at three places."""
    names = ("get_weights", "set_weights", "normalize_direction", "normalize_directions_for_weights")
    code = common.pieces(folder, "net_plotter.py", *names)
    image, label = common.batch(ROWS, SIZE)
    made = common.keen(common.pair("preact_resnet18", 4, SIZE), image)
    draw, own = np.random.RandomState(0), code.get_weights(made.module)
    theirs, mine = [], []
    for _ in range(2):
        direction = [torch.tensor(draw.normal(size=tuple(value.shape))) for value in own]
        mine.append(landscape.normalized(_ours(made, direction), made.weights.params))
        code.normalize_directions_for_weights(direction, own)
        theirs.append(direction)
    figures = {"two directions": common.relative(mine, [_ours(made, direction) for direction in theirs])}

    def loss(place):
        params = jax.tree.map(lambda w, a, b: w + place[0] * a + place[1] * b, made.weights.params, *mine)
        logits = made.net.apply(made.weights.replace(params=params), image)[0]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, label))

    found, other = jax.jit(jax.vmap(loss))(jnp.array(PLACES)), []
    for place in PLACES:
        module = copy.deepcopy(made.module).eval()
        arrays = [[each.numpy() for each in direction] for direction in theirs]
        code.set_weights(module, own, arrays, place)
        with torch.no_grad():
            logits = module(common.to_torch(image))
            other.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(label).long())))
    return figures | {"loss at three places": common.relative(found, np.array(other))}


def _ours(made, values):
    """Values in the order of the module's parameters as our tree."""
    module = copy.deepcopy(made.module)
    with torch.no_grad():
        for own, value in zip(module.parameters(), values, strict=True):
            own.copy_(value)
    return common.weights(made.net, module).params


COMPARISON = common.Comparison(
    "tomgoldstein/loss-landscape",
    "64ef4d57f8dabe79b57a637819c44e48eda98f33",
    compare,
    ("Their directions are added in float32.",),
)
