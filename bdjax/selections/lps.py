"""The learnable poisoning sample selection: a mask that makes a backdoor hard, against a model that learns it.

Zhu, Zhang, Wei, Shen, Fan, Wu, Boosting Backdoor Attack with a Learnable Poisoning Sample Selection Strategy, 2023,
https://arxiv.org/abs/2307.07328: min over the weights, max over a mask of `count` rows, of the loss on clean rows and
on the masked rows' stamped copies. The loss is linear in the mask, so the inner maximum takes the rows of largest loss:
of every class the same number, or without that constraint wherever they are.
"""

import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.selections.parts.rounds import POISONING, TRAINING, labels, log_odds, round_of
from bdjax.selections.random import uniform
from bdjax.train import State
from bdjax.types import Array, Given, Key, Selection, Weights

CARD = Card(
    name="lps",
    title="LPS",
    citation="Zhu, Zhang, Wei, Shen, Fan, Wu, Boosting Backdoor Attack with a Learnable Poisoning Sample Selection "
    "Strategy, 2023, https://arxiv.org/abs/2307.07328",
    year=2023,
    version=1,
    kind="selection by adversarial training of a mask",
    stage="pre-training",
    changes="which rows are poisoned",
    settings={
        "rounds": Setting(15, "times that the model learns and the mask is then set anew", low=1),
        "epochs": Setting(5, "passes in each round", "epochs", low=1),
        "batch": Setting(128, "rows a step", "rows", low=1),
        **TRAINING,
        "constraint": Setting(True, "whether every class gives the same number of rows"),
        "poisoning": Setting("replace", POISONING.about, choices=POISONING.choices),
    },
    departures=(
        "only the paper's abstract and its reviews could be read, and no code is public: rounds, epochs, batch, rates, "
        "their drops, what becomes of the originals in the search and that the constraint, of which reviews speak, is "
        "one of classes are assumed",
        "a round goes on with the weights of the round before and with new momentum, which is assumed",
        "the search's model is of the victim's architecture, and augmentation is the dataset's own",
        "where the number of rows is no multiple of that of classes, those with the hardest next row give one more",
        "attacks that keep labels have all rows that they may poison as candidates",
    ),
)


def classwise(value: Array, label: Array) -> Array:
    """A priority, float (n,), whose first rows are, for any count, as many from each class, those of largest value.

    Args:
        value: float (n,), -inf for rows that must not be taken; they stay so.
        label: int32 (n,); a class that runs out of rows leaves its turns to the others.
    """
    order = jnp.lexsort((-value, label))
    ordered = label[order]
    place = jnp.arange(label.size) - jnp.searchsorted(ordered, ordered)
    turn = jnp.zeros_like(place).at[order].set(place)
    rank = jnp.zeros_like(place).at[jnp.lexsort((-value, turn))].set(jnp.arange(label.size))
    return jnp.where(value > -jnp.inf, -rank.astype(value.dtype), -jnp.inf)


def make(net, shape, classes, rounds, constraint, **training) -> Selection:
    """A selection that trains one model in `rounds` rounds."""
    del shape, classes

    def arrange(value: Array, label: Array) -> Array:
        return classwise(value, label) if constraint else value

    def decide(_key: Key, state: State, given: Given) -> Array:
        # A model that diverged tells nothing of its rows, and its search is marked as diverged.
        weights = Weights(state.moving, state.still["batch_stats"])
        hard = jnp.nan_to_num(log_odds(net, weights, given.stamped))
        return arrange(jnp.where(state.still["priority"] > -jnp.inf, hard, -jnp.inf), labels(given.whole))

    def search(most: int):
        return (round_of(net, decide, arrange, most=most, warm=True, **training),) * rounds

    return Selection(uniform, search)


LPS = Method(CARD, make)
