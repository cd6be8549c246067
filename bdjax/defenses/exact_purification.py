"""Exact purification: fine-tune on clean rows of which some carry the true trigger and keep their true labels.

Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense, NeurIPS
2024, arXiv:2410.09838: the oracle that their audits compare defenses with.
"""

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.train import recipes
from bdjax.types import Array, Batch, Given, Source

CARD = Card(
    name="exact_purification",
    title="Exact Purification",
    citation="Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor "
    "Defense, NeurIPS 2024, arXiv:2410.09838",
    year=2024,
    version=1,
    kind="fine-tuning",
    stage="post-training",
    needs=("clean", "victim", "triggered"),
    changes="all weights",
    settings=recipes.RECIPE
    | {
        "epochs": Setting(30, "passes over the clean rows", "epochs", low=1),
        "weight_decay": Setting(0.0, "coupled L2 on every parameter, those of BatchNorm included", low=0.0),
        "schedule": Setting(
            "constant", "cosine advanced each epoch or step, or constant", choices=("epoch", "step", "constant")
        ),
        "triggered": Setting(0.2, "share of a batch that carries the trigger", low=0.0, high=1.0),
    },
    departures=(
        "The paper names the oracle and gives neither settings nor code: rate, epochs, batch and share of triggered "
        "images are those of its own purification by reversed triggers.",
        "Triggered images are those of the test-time trigger, and are augmented as the others are.",
        "The reference benchmark has no Exact Purification.",
    ),
)


def rows(given: Given) -> Source:
    """The clean rows, of which the first share `triggered` of the places in a batch is read with the trigger."""

    def read(row: Array) -> Batch:
        place = jnp.arange(row.size) < jnp.round(given.settings["triggered"] * row.size)

        def pick(one: Array, other: Array) -> Array:
            return jnp.where(place.reshape(-1, *[1] * (one.ndim - 1)), one, other)

        return jax.tree.map(pick, given.triggered.read(row), given.clean.read(row))

    return Source(given.clean.size, read)


def make(net, shape, classes, **recipe):
    """Fine-tuning of all weights on the mixed rows."""
    del shape, classes
    return (train.supervised(net, rows, **recipe),)


EXACT_PURIFICATION = Method(CARD, make)
