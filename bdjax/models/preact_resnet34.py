"""PreActResNet34 for small images, the deeper one of the two pre-activation networks of the field's benchmark.

He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016, https://arxiv.org/abs/1603.05027, figure
4(e), with the widths and depths of ResNet-34 and a 3x3 stem of stride 1. 21,279,306 parameters at width 64 and 10
classes. It departs from the paper where preact_resnet18 does.
"""

from bdjax.cards import Card, Method
from bdjax.models import preact_resnet18
from bdjax.models.parts.network import network
from bdjax.models.preact_resnet18 import PreActResNet
from bdjax.types import Net

CARD = Card(
    name="preact_resnet34",
    title="PreActResNet34",
    citation="He, Zhang, Ren, Sun, Identity Mappings in Deep Residual Networks, ECCV 2016, "
    "https://arxiv.org/abs/1603.05027",
    year=2016,
    version=1,
    kind="convolutional network, residual",
    smallest=8,
    settings=preact_resnet18.CARD.settings,
    departures=preact_resnet18.CARD.departures,
)


def make(shape, classes, mean, std, width=64, precision="float") -> Net:
    """The network for images of `shape` (height, width, channels), normalized by `mean` and `std` a channel."""
    return network(PreActResNet((3, 4, 6, 3), width, classes, tuple(mean), tuple(std)), shape, precision)


PREACT_RESNET34 = Method(CARD, make)
