"""The attacker's own clean model, from which some attacks compute their triggers before anything is poisoned."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from bdjax import metrics
from bdjax.attacks.fitting.learned import parted
from bdjax.attacks.parts.common import scalar
from bdjax.cards import Setting
from bdjax.data.images import augmentation
from bdjax.data.sources import split
from bdjax.keys import stream
from bdjax.train import fit, supervised
from bdjax.types import Array, Data, Given, Key, Net, Weights

SURROGATE = {
    "surrogate_epochs": Setting(100, "passes that train the attacker's model, cosine annealed", "epochs", low=1),
    "surrogate_batch": Setting(128, "rows a step of that training", "rows", low=1),
    "surrogate_learning_rate": Setting(0.01, "of that training, at the start", low=0.0),
    "surrogate_momentum": Setting(0.9, "of that training", low=0.0, high=1.0),
    "surrogate_weight_decay": Setting(5e-4, "of that training", low=0.0),
}
"""The settings of `surrogate_model`, for cards."""

DEPARTURE = (
    "the attacker's model is of the victim's architecture and is trained here, on random crops without flips, without "
    "the rows that it is then measured on: a tenth, at most 512"
)


class Surrogate(NamedTuple):
    """The attacker's model, the rows that it did not learn from, and its accuracy on them, for the report."""

    weights: Weights
    held: Data
    figures: dict[str, Array]


def accuracy(net: Net, weights: Weights, data: Data) -> Array:
    """The share of images that a model gives their label, float ()."""
    return jax.jit(lambda weights, data: metrics.accuracy(net, weights, split(data)))(weights, data)


def surrogate_model(
    key: Key,
    net: Net,
    data: Data,
    settings: Mapping[str, Array],
    epochs: int,
    batch: int,
    gradient: Callable | None = None,
) -> Surrogate:
    """`net` trained on most of the clean split and measured on the rest; crops shift by an eighth of the height.

    Args:
        key: of the attack's preparation.
        net, data: the network and the split.
        settings: the attack's float settings, those of SURROGATE among them.
        epochs, batch: see SURROGATE.
        gradient: as for `bdjax.train.supervised`; plain training where None.
    """
    hook = {} if gradient is None else {"gradient": gradient}
    stage = supervised(net, lambda given: given.clean, epochs=epochs, batch=batch, fresh=True, **hook)
    prefix = "surrogate_"
    own = {name.removeprefix(prefix): scalar(value) for name, value in settings.items() if name.startswith(prefix)}
    augment = augmentation(data.image.shape[1] // 8, False)
    key = stream(key, "surrogate")
    learned, held = (Data(data.image[rows], data.label[rows]) for rows in parted(stream(key, "held"), data.label.size))

    def given(operands) -> Given:
        rows, floats = operands
        return Given(floats, augment, clean=split(rows))

    weights = fit(key, stage, given, (learned, own)).weights
    return Surrogate(weights, held, {"surrogate_accuracy": accuracy(net, weights, held)})
