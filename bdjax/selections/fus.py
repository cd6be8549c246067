"""The filtering-and-updating strategy: keep the poisoned samples that a model forgets most often, draw the rest anew.

Xia, Li, Zhang, Li, Data-Efficient Backdoor Attacks, IJCAI 2022, https://arxiv.org/abs/2204.12281, with the constants of
the authors' released code (xpf/Data-Efficient-Backdoor-Attacks). In each round a new model is trained on clean rows and
the pool; filtering keeps the share `alpha` of the pool with the most forgetting events, updating fills it up with
random candidates.
"""

import jax
import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.data import poison
from bdjax.keys import stream
from bdjax.selections.parts.rounds import POISONING, TRAINING, round_of
from bdjax.selections.random import uniform
from bdjax.train import State
from bdjax.types import Array, Given, Key, Selection, real

CARD = Card(
    name="fus",
    title="FUS",
    citation="Xia, Li, Zhang, Li, Data-Efficient Backdoor Attacks, IJCAI 2022, https://arxiv.org/abs/2204.12281",
    year=2022,
    version=1,
    kind="selection by forgetting events",
    stage="pre-training",
    changes="which rows are poisoned",
    settings={
        "rounds": Setting(10, "models trained one after the other, each filtering and updating the pool", low=1),
        "epochs": Setting(70, "passes in each round", "epochs", low=1),
        "batch": Setting(256, "rows a step", "rows", low=1),
        **TRAINING,
        "alpha": Setting(0.5, "share of the pool that filtering keeps, rounded down", low=0.0, high=1.0),
        "poisoning": POISONING,
    },
    departures=(
        "the search's model is of the victim's architecture, and augmentation is the dataset's own",
        "the victim's poisoned rows replace their originals, as in all attacks here; the authors append them there too",
        "updating draws from candidates that were not kept; in the authors' code it may draw kept ones a second time",
        "among equal numbers of forgetting events chance decides; in the authors' code the sorting does",
        "attacks that keep labels, which the authors do not treat, have all rows that they may poison as candidates",
    ),
)


def filtered(key: Key, forgotten: Array, pool: Array, candidate: Array, kept: Array) -> Array:
    """The next priority, float (n,): first the `kept` rows of the pool forgotten most often, then other candidates.

    Args:
        key: of the order of rows that are alike.
        forgotten: int32 (n,), forgetting events of the pool's rows.
        pool, candidate: bool (n,), the first among the second.
        kept: int32 (), at most as many as the pool has.
    """
    tie, chance = (jax.random.uniform(stream(key, name), forgotten.shape, real()) for name in ("filter", "update"))
    first = poison.rank(forgotten + tie, pool) < kept
    return jnp.where(candidate, chance + first, -jnp.inf)


def make(net, shape, classes, rounds, **training) -> Selection:
    """A selection that trains `rounds` models, each from its own initialisation."""
    del shape, classes

    def decide(key: Key, state: State, given: Given) -> Array:
        kept, still = jnp.floor(given.settings["alpha"] * given.carry["count"]).astype(jnp.int32), state.still
        return filtered(key, still["forgotten"], still["pool"], still["priority"] > -jnp.inf, kept)

    def search(most: int):
        stage = round_of(net, decide, lambda priority, label: priority, most=most, warm=False, **training)
        return (stage,) * rounds

    return Selection(uniform, search)


FUS = Method(CARD, make)
