"""How a classifier is trained: what a recipe sets, and the schedule, the rates and the slow weights behind it.

The speed recipe: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, 2024, with its author's
released numbers. Slow weights: Zhang, Lucas, Hinton, Ba, "Lookahead Optimizer: k Steps Forward, 1 Step Back", NeurIPS
2019, arXiv:1907.08610, with a weight that grows as Jordan has it.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bdjax.cards import Setting
from bdjax.types import Array, Net, PyTree, Weights, real

RECIPE = {
    "epochs": Setting(100, "passes over the rows", "epochs", low=1),
    "batch": Setting(128, "rows a step; the whole source where that is smaller", "rows", low=1),
    "learning_rate": Setting(0.01, "at the start; under triangle the highest", low=0.0),
    "momentum": Setting(0.9, "of SGD", low=0.0, high=1.0),
    "weight_decay": Setting(5e-4, "coupled L2 on every parameter, those of BatchNorm included", low=0.0),
    "schedule": Setting(
        "epoch",
        "cosine advanced each epoch or step, constant, or up and down again",
        choices=("epoch", "step", "constant", "triangle"),
    ),
    "period": Setting(0, "half period of the cosine in units of schedule; 0: the length of the stage", low=0),
    "drop_last": Setting(False, "leave out the rows that do not fill a batch"),
}
"""The settings of `train.supervised`. Half periods shorter than the stage make the rate rise again."""

VICTIM = RECIPE | {
    "nesterov": Setting(False, "momentum looks ahead, as Nesterov has it"),
    "bias_rate": Setting(
        1.0, "factor on the learning rate of BatchNorm's biases, whose decay is divided by it", low=0.0
    ),
    "scale_rate": Setting(1.0, "the same for BatchNorm's scales; 0 leaves them as they begin", low=0.0),
    "lookahead": Setting(0, "steps between two updates of slow weights, which the others return to; 0: none", low=0),
}
"""The settings of whoever trains a victim from its beginning, defender or attacker."""

SPEED = {
    "epochs": 10,
    "batch": 1024,
    "learning_rate": 1.5,
    "momentum": 0.85,
    "weight_decay": 0.00133,
    "schedule": "triangle",
    "nesterov": True,
    "bias_rate": 64.0,
    "scale_rate": 0.0,
    "lookahead": 5,
}
"""The speed recipe as far as VICTIM goes, for the network `airbench`.

The release sums losses over the batch and takes 11.5 for 1,024 rows apart from momentum m, by 1 + 1/(1 - m): 1.5 for
mean losses. Its decay of 0.0153, taken apart in the same way, is 0.00133 beside the gradient.
"""

SHORT = {"epochs": 40, "learning_rate": 0.1, "schedule": "triangle", "nesterov": True}
"""Two fifths of the epochs of the field's recipe, for the networks that it is made for, as far as VICTIM goes."""

FIRST, PEAK, LAST = 0.2, 0.23, 0.07
"""The triangle: the factor at the first step, the share of the steps after which it is 1, the factor at the end."""


def rate(step: Array, steps: int, epochs: int, schedule: str, period: int) -> Array | float:
    """The factor on the learning rate at a step.

    Under a cosine 1/2 (1 + cos(pi t / T)), t in epochs or steps, periodic beyond T; under `triangle` from FIRST to 1
    and down to LAST.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "triangle":
        peak = max(1, int(PEAK * epochs * steps))
        step = jnp.asarray(step, real())
        rising, falling = step / peak, (step - peak) / (epochs * steps - peak or 1)
        return jnp.where(step < peak, FIRST + (1 - FIRST) * rising, 1 + (LAST - 1) * falling)
    time, length = (step // steps, epochs) if schedule == "epoch" else (step, epochs * steps)
    return 0.5 * (1 + jnp.cos(jnp.pi * time / (period or length)))


def factors(net: Net, params: PyTree, settings: Mapping[str, Array]) -> PyTree:
    """The factor on the learning rate of every parameter, from `bias_rate` and `scale_rate` where they are set."""
    one = jnp.ones((), real())
    norms = [layer.path for layer in net.layers if layer.kind == "norm"]
    own = {(*path, leaf): settings.get(f"{leaf}_rate", one) for path in norms for leaf in ("bias", "scale")}

    def factor(path, _) -> Array:
        return own.get(tuple(getattr(entry, "key", None) for entry in path), one)

    return jax.tree_util.tree_map_with_path(factor, params)


def look_ahead(slow: Weights, fast: Weights, step: Array, steps: int, every: int) -> tuple[Weights, Weights]:
    """Slow and fast weights after a step of `steps`, counted from 1.

    Every `every` steps: slow <- fast + share (slow - fast), then fast <- slow, where share = 0.95^5 (step / steps)^3;
    after the last step fast <- slow.
    """
    share, due = 0.95**5 * (step.astype(real()) / steps) ** 3, step % every == 0
    moved = jax.tree.map(lambda old, new: jnp.where(due, new + share * (old - new), old), slow, fast)
    return moved, jax.tree.map(lambda old, new: jnp.where(due | (step == steps), old, new), moved, fast)
