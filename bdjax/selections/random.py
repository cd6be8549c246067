"""Random selection: every row is as likely to be poisoned as any other; what all attacks' papers do by default."""

import jax

from bdjax.cards import Card, Method
from bdjax.types import Array, Selection, real

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


def uniform(key, net, attack, assets, given) -> Array:
    """Independent uniform priorities in [0, 1), float (n,)."""
    del net, attack, assets
    return jax.random.uniform(key, (given.train.size,), real())


def make(net, shape, classes) -> Selection:
    """A selection by independent uniform priorities."""
    del net, shape, classes
    return Selection(uniform)


RANDOM = Method(CARD, make)
