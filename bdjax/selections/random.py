"""Random selection: every row is as likely to be poisoned as any other; what all attacks' papers do by default."""

import jax

from bdjax.cards import Card, Method
from bdjax.types import real

CARD = Card(
    name="random",
    title="Random selection",
    citation="Gu, Dolan-Gavitt, Garg, BadNets, arXiv:1708.06733, 2017",
    year=2017,
    version=1,
    kind="selection",
    stage="pre-training",
    changes="which rows are poisoned",
)


def make(net, shape, classes):
    """A selection by independent uniform priorities."""
    del net, shape, classes

    def select(key, net, attack, assets, given):
        del net, attack, assets
        return jax.random.uniform(key, (given.train.size,), real())

    return select


RANDOM = Method(CARD, make)
