"""Loss isolation: a network that trains under a floor of its loss falls below it on what is learned first, the poison.

Li, Lyu, Koren, Lyu, Li, Ma, Anti-Backdoor Learning: Training Clean Models on Poisoned Data, NeurIPS 2021,
arXiv:2110.11571, equation 3: local gradient ascent, sign(loss - gamma) loss, which has the gradient of flooding.
"""

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Setting
from bdjax.data import sources
from bdjax.keys import stream
from bdjax.train.descend import BeginFn, LossFn, OrderOfFn, RuleFn
from bdjax.types import Array, FinishFn, Net, Source, SourceFn, Stage, Weights

SETTINGS = {
    "isolation_rate": Setting(0.1, "learning rate under the floor", low=0.0),
    "momentum": Setting(0.9, "of Nesterov's kind", low=0.0, high=1.0),
    "weight_decay": Setting(1e-4, "coupled L2 on every parameter, those of BatchNorm included", low=0.0),
    "gamma": Setting(0.5, "the floor of the loss", "nats", low=0.0),
    "floor": Setting(
        "batch", "whether the mean loss of a batch or that of each row is floored", choices=("batch", "row")
    ),
}
"""What `learn` reads from `given.settings`, and its floor."""

_losses = optax.softmax_cross_entropy_with_integer_labels


def floored(losses: Array, weight: Array, gamma, floor: str) -> Array:
    """|L - gamma| + gamma of the mean loss of a batch, or its mean over rows. losses, weight float (b,)."""
    values = losses if floor == "row" else train.mean(losses, weight)
    # Written out, because the derivative of abs at 0 is 1 here and must be 0.
    sign = jax.lax.stop_gradient(jnp.sign(values - gamma))
    folded = sign * (values - gamma) + gamma
    return train.mean(folded, weight) if floor == "row" else folded


def losses_of(net: Net, weights: Weights, rows) -> Array:
    """The cross-entropy of rows in inference mode, float (b,)."""
    return _losses(net.apply(weights, rows.image)[0], rows.label)


def rank(net: Net, weights: Weights, source: Source, batch: int) -> Array:
    """The rows of a source by rising cross-entropy, int32 (n,), in inference mode; equal ones in their order."""
    losses = sources.each(source, lambda rows: losses_of(net, weights, rows), batch)
    return jnp.argsort(losses).astype(jnp.int32)


def descent(net: Net, objective) -> LossFn:
    """A loss for `descend`: objective(losses float (b,), weight, settings) -> what falls."""

    def loss(_key, params, batch_stats, rows, given):
        logits, batch_stats, _ = net.apply(Weights(params, batch_stats), rows.image, train=True, weight=rows.weight)
        losses = _losses(logits, rows.label)
        accuracy = train.accuracy(logits, rows.label, rows.weight)
        info = {"loss": train.mean(losses, rows.weight), "accuracy": accuracy}
        return objective(losses, rows.weight, given.settings), (batch_stats, info)

    return loss


def anew(net: Net) -> BeginFn:
    """For `descend` with `descent`: a new initialisation."""

    def begin(key, _given, _weights):
        first = net.init(stream(key, "init"))
        return first.params, first.batch_stats

    return begin


def learn(
    net: Net,
    source: SourceFn,
    floor: str,
    leave: FinishFn,
    *,
    epochs: int,
    batch: int,
    rule: RuleFn | None = None,
    order: OrderOfFn | None = None,
) -> Stage:
    """Training of a new network under the floor, without augmentation; `leave`, `rule` and `order` as for `descend`.

    Without a `rule` SGD of Nesterov's kind at `isolation_rate`.
    """

    return train.descend(
        source,
        epochs=epochs,
        batch=batch,
        begin=anew(net),
        loss=descent(net, lambda losses, weight, settings: floored(losses, weight, settings["gamma"], floor)),
        rule=rule or train.sgd("isolation_rate", nesterov=True),
        leave=leave,
        order=order,
        full=True,
        augment=False,
    )
