"""ABL: trap what a network learns first, which is the poison, and unlearn it.

Li, Lyu, Koren, Lyu, Li, Ma, Anti-Backdoor Learning: Training Clean Models on Poisoned Data, NeurIPS 2021,
arXiv:2110.11571, section 3. Training keeps the loss near a floor gamma, below which only poisoned rows fall: local
gradient ascent, sign(loss - gamma) loss, which has the gradient of flooding, |loss - gamma| + gamma. Then the rows of
lowest loss are isolated, the network is trained on all others, and the isolated ones are unlearnt by gradient ascent.
"""

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.keys import stream
from bdjax.train.descend import LossFn
from bdjax.types import Array, Given, Net, Source, Trained, Weights

CARD = Card(
    name="abl",
    title="ABL",
    citation="Li, Lyu, Koren, Lyu, Li, Ma, Anti-Backdoor Learning: Training Clean Models on Poisoned Data, NeurIPS "
    "2021, arXiv:2110.11571",
    year=2021,
    version=1,
    kind="training with unlearning",
    stage="training",
    needs=("train",),
    changes="the training rule; no row is removed for good",
    settings={
        "isolation_epochs": Setting(20, "passes over all rows under the floor, without augmentation", "epochs", low=1),
        "epochs": Setting(60, "passes over the rows that are not isolated", "epochs", low=1),
        "unlearning_epochs": Setting(20, "passes over the isolated rows", "epochs", low=1),
        "batch": Setting(128, "rows a step; the whole source where that is smaller", "rows", low=1),
        "isolation_rate": Setting(0.1, "learning rate under the floor", low=0.0),
        "learning_rate": Setting(0.01, "after isolation", low=0.0),
        "drop_epoch": Setting(50, "after isolation, from which on the rate is a tenth", "epochs", low=0),
        "unlearning_rate": Setting(1e-3, "learning rate of the ascent", low=0.0),
        "momentum": Setting(0.9, "of Nesterov's kind", low=0.0, high=1.0),
        "weight_decay": Setting(1e-4, "coupled L2 on every parameter, those of BatchNorm included", low=0.0),
        "gamma": Setting(0.5, "the floor of the loss", "nats", low=0.0),
        "floor": Setting(
            "batch", "whether the mean loss of a batch or that of each row is floored", choices=("batch", "row")
        ),
        "one_in": Setting(100, "one row in so many is isolated, rounded down, at least one", low=2),
        "augment_unlearning": Setting(False, "whether isolated rows are augmented"),
        "keep_momentum": Setting(False, "whether unlearning goes on with the optimizer of the stage before"),
    },
    presets={
        "paper": {},
        "benchmark": {
            "batch": 256,
            "isolation_rate": 0.01,
            "drop_epoch": 40,
            "unlearning_rate": 1e-4,
            "augment_unlearning": True,
            "keep_momentum": True,
        },
    },
    departures=(
        "The paper floors the loss of each row; the released code floors the mean of a batch, as is the default here.",
        "The paper's rate is 0.1, divided by 10 at epochs 20 and 70 of 100. Batch and weight decay are those of the "
        "released code, whose default run is shorter: 10, 60 and 4 epochs, the last at rate 0.0005.",
        "The released code also cuts 3x3 squares out of images after isolation.",
    ),
)


_losses = optax.softmax_cross_entropy_with_integer_labels


def floored(losses: Array, weight: Array, gamma, floor: str) -> Array:
    """|L - gamma| + gamma of the mean loss of a batch, or its mean over rows. losses, weight float (b,)."""
    values = losses if floor == "row" else train.mean(losses, weight)
    # Written out, because the derivative of abs at 0 is 1 here and must be 0.
    sign = jax.lax.stop_gradient(jnp.sign(values - gamma))
    folded = sign * (values - gamma) + gamma
    return train.mean(folded, weight) if floor == "row" else folded


def ranked(net: Net, weights: Weights, source: Source, batch: int) -> Array:
    """The rows of a source by rising cross-entropy, int32 (n,), in inference mode; equal ones in their order."""
    losses = sources.each(source, lambda rows: _losses(net.apply(weights, rows.image)[0], rows.label), batch)
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


def make(net, shape, classes, *, epochs, batch, one_in, floor, drop_epoch, keep_momentum, **static):
    """Training under the floor, training on all but the isolated rows, and unlearning of the isolated ones."""
    del shape, classes
    falling = train.sgd(schedule=lambda clock: jnp.where(clock.epoch < drop_epoch, 1.0, 0.1), nesterov=True)

    def rows(isolated: bool):
        def source(given: Given) -> Source:
            few = max(1, given.train.size // one_in)
            ranking = given.carry["ranking"]
            return sources.subset(given.train, ranking[:few] if isolated else ranking[few:])

        return source

    def begin(key, given, weights):
        first = net.init(stream(key, "init")) if weights is None else weights
        held = (given.carry["opt_state"],) if "opt_state" in given.carry else ()
        return first.params, first.batch_stats, *held

    def isolate(_key, state, given):
        trained = Weights(state.moving, state.still)
        return Trained(trained, {"ranking": ranked(net, trained, given.train, batch)})

    def learn(_key, state, given):
        carry = {"ranking": given.carry["ranking"]} | ({"opt_state": state.opt_state} if keep_momentum else {})
        return Trained(Weights(state.moving, state.still), carry)

    def leave(_key, state, given):
        return Trained(Weights(state.moving, state.still), {"ranking": given.carry["ranking"]})

    shared = {"batch": batch, "begin": begin}
    return (
        train.descend(
            lambda given: given.train,
            epochs=static["isolation_epochs"],
            loss=descent(net, lambda losses, weight, settings: floored(losses, weight, settings["gamma"], floor)),
            rule=train.sgd("isolation_rate", nesterov=True),
            leave=isolate,
            augment=False,
            **shared,
        ),
        train.descend(
            rows(isolated=False),
            epochs=epochs,
            loss=descent(net, lambda losses, weight, settings: train.mean(losses, weight)),
            rule=falling,
            leave=learn,
            **shared,
        ),
        train.descend(
            rows(isolated=True),
            epochs=static["unlearning_epochs"],
            loss=descent(net, lambda losses, weight, settings: -train.mean(losses, weight)),
            rule=train.sgd("unlearning_rate", nesterov=True),
            leave=leave,
            augment=static["augment_unlearning"],
            **shared,
        ),
    )


ABL = Method(CARD, make)
