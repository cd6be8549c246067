"""VGG-19, with the numbers of torchvision but for dropout, for small images too.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
https://arxiv.org/abs/1409.1556, table 1, column E.
139,611,210 parameters at width 64 and 10 classes, of which 119,586,826 are in the hidden layers and the last.
"""

from bdjax.cards import Card, Method
from bdjax.models.parts.network import network
from bdjax.models.parts.visual_geometry import DEPARTURES, SETTINGS, Vgg
from bdjax.types import Net

CARD = Card(
    name="vgg19",
    title="VGG-19",
    citation="Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, "
    "https://arxiv.org/abs/1409.1556",
    year=2015,
    version=1,
    kind="convolutional network",
    smallest=8,
    settings=SETTINGS,
    departures=DEPARTURES,
)


def make(shape, classes, mean, std, width=64, head="imagenet", precision="float") -> Net:
    """The network for images of `shape` (height, width, channels), normalized by `mean` and `std` a channel."""
    return network(Vgg(False, width, head, classes, tuple(mean), tuple(std)), shape, precision)


VGG19 = Method(CARD, make)
