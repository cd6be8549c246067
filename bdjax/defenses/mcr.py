"""MCR: fine-tune the model, train a curve from it to the tuned one on clean rows, and take a point of that curve.

Zhao, Chen, Das, Ramamurthy, Lin, Bridging Mode Connectivity in Loss Landscapes and Adversarial Robustness, ICLR 2020,
arXiv:2005.00060, equation 1: phi(t) = (1 - t)^2 w_1 + 2 t (1 - t) theta + t^2 w_2, where theta alone descends the loss
at places t ~ U(0, 1). The paper finds that models on the way keep the accuracy of the ends but not their backdoors.
Statistics of batch normalization are estimated at the point that is taken. Steps and constants are those of the
authors' released code.
"""

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.keys import stream
from bdjax.models.parts.statistics import reestimated
from bdjax.train import curves
from bdjax.types import Given, Key, Net, Trained, Weights

CARD = Card(
    name="mcr",
    title="MCR",
    citation="Zhao, Chen, Das, Ramamurthy, Lin, Bridging Mode Connectivity in Loss Landscapes and Adversarial "
    "Robustness, ICLR 2020, arXiv:2005.00060",
    year=2020,
    version=1,
    kind="path between models",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all weights",
    settings={
        "place": Setting(0.1, "point of the curve that is taken: 0 the victim, 1 the tuned model", low=0.0, high=1.0),
        "tuning_epochs": Setting(100, "passes that tune the victim, the other end of the curve", "epochs", low=1),
        "tuning_rate": Setting(0.015, "learning rate of the tuning at the start", low=0.0),
        "tuning_decay": Setting(1e-4, "coupled L2 penalty on the tuned model", low=0.0),
        "epochs": Setting(100, "passes that train the bends", "epochs", low=1),
        "learning_rate": Setting(0.01, "learning rate of the bends at the start", low=0.0),
        "point_decay": Setting(1e-4, "L2 penalty on the point of the curve that a step has drawn", low=0.0),
        "weight_decay": Setting(0.0, "coupled L2 penalty on the bends", low=0.0),
        "momentum": Setting(0.9, "SGD momentum of both", low=0.0, high=1.0),
        "schedule": Setting(
            "late",
            "of both rates: constant for half of the epochs, then in a line to a hundredth; or a cosine, each epoch",
            choices=("late", "cosine"),
        ),
        "batch": Setting(128, "rows a step; the whole clean set in a plain pass, where that is smaller", "rows", low=1),
        "rows": Setting(
            10_000, "rows of an epoch, the clean ones again and again; 0: each of them once", "rows", low=0
        ),
        "augment": Setting(False, "whether images are augmented"),
        "curve": Setting("bezier", "Bezier curve or polygonal chain", choices=tuple(curves.CURVES)),
        "bends": Setting(1, "trained points between the ends", low=1),
        "accumulate": Setting(False, "whether gradients at the points of all steps so far are summed up"),
        "statistics": Setting(
            "estimated",
            "of batch normalization: the mean over the clean rows, or those of training moved on by one more pass",
            choices=("estimated", "moved"),
        ),
    },
    presets={
        "paper": {},
        "benchmark": {
            "tuning_rate": 0.01,
            "tuning_decay": 5e-4,
            "learning_rate": 3e-5,
            "point_decay": 0.0,
            "weight_decay": 5e-4,
            "schedule": "cosine",
            "rows": 0,
            "augment": True,
            "accumulate": True,
            "statistics": "moved",
        },
    },
    departures=(
        "The authors join two models that were trained on poisoned data. A defender who holds one of them tunes it for "
        "the other end, as in the benchmark; `paper` tunes as the authors' baseline of fine-tuning does.",
        "An epoch of the authors' code is 10,000 rows whatever the number of clean rows, the same as rows=10000.",
        "The benchmark never clears its gradients, without which its rate of 3e-5 hardly moves the bend: "
        "accumulate=true.",
        "The benchmark passes over the clean rows at the point that it tests after every epoch, and its statistics "
        "begin at 0 and 1; statistics=moved makes that pass once, at the end, and begins halfway between the ends. "
        "With 20 steps an epoch, 0.9^40 of what is left comes from there.",
        "With more than one bend the benchmark trains one model for all of them, and mixes the ends in reverse.",
    ),
)


def moved(net: Net, weights: Weights, key: Key, given: Given, batch: int, augment: bool) -> Weights:
    """The weights, their moving statistics moved on by a pass over the clean rows in training mode."""

    def step(batch_stats, drawn):
        row, key = drawn
        rows = given.clean.read(row)
        image = given.augment(key, rows.image) if augment else rows.image
        return net.apply(weights.replace(batch_stats=batch_stats), image, train=True, weight=rows.weight)[1], None

    order = train.shuffled(stream(key, "order"), given.clean.size, batch)
    keys = jax.random.split(stream(key, "augment"), len(order))
    return weights.replace(batch_stats=jax.lax.scan(step, weights.batch_stats, (order, keys))[0])


def make(
    net, shape, classes, *, tuning_epochs, epochs, schedule, batch, rows, augment, curve, bends, accumulate, statistics
):
    """Tuning of the other end, then training of the bends."""
    del shape, classes

    def again(key, _epoch, given, _still):
        order = train.shuffled(key, rows, batch)
        return jnp.where(order < 0, -1, order % given.clean.size)

    def ends(given):
        return given.victim, given.carry["end"]

    def carry(key, state, given):
        return Trained(given.victim, {"end": train.leave_weights(key, state, given).weights})

    def leave(key, state, given):
        found = curves.at(curves.CURVES[curve], ends(given), state.moving, given.settings["place"])
        if statistics == "estimated":
            return Trained(reestimated(net, found, sources.shuffled(given.clean), batch))
        found = found.replace(batch_stats=state.still["batch_stats"])
        return Trained(moved(net, found, key, given, batch, augment))

    fall = {"late": curves.late, "cosine": train.cosine()}[schedule]
    how = {"batch": batch, "order": again if rows else None, "augment": augment}
    return (
        train.supervised(
            net,
            lambda given: given.clean,
            epochs=tuning_epochs,
            rule=train.sgd("tuning_rate", decay="tuning_decay", schedule=fall),
            leave=carry,
            full=bool(rows),
            **how,
        ),
        curves.bending(
            net,
            lambda given: given.clean,
            ends,
            epochs=epochs,
            rule=train.sgd(schedule=fall),
            leave=leave,
            bends=bends,
            curve=curves.CURVES[curve],
            decay="point_decay",
            accumulate=accumulate,
            **how,
        ),
    )


MCR = Method(CARD, make)
