"""ResNet-50 with the numbers of torchvision, for small images too.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385, table
1, 50 layers. 23,528,522 parameters at width 64 and 10 classes.
"""

from bdjax.cards import Card, Method
from bdjax.models.parts.network import network
from bdjax.models.parts.residual import SETTINGS, Bottleneck, ResNet
from bdjax.types import Net

CARD = Card(
    name="resnet50",
    title="ResNet-50",
    citation="He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016, "
    "https://arxiv.org/abs/1512.03385",
    year=2016,
    version=1,
    kind="convolutional network, residual",
    smallest=8,
    settings=SETTINGS,
    departures=(
        "the stride of a bottleneck is in its 3x3 convolution, as in torchvision, not in its first 1x1",
        "kernels begin with variance 2 / fan out, as in torchvision, where the paper takes fan in",
    ),
)


def make(shape, classes, mean, std, width=64, stem="imagenet", precision="float") -> Net:
    """The network for images of `shape` (height, width, channels), normalized by `mean` and `std` a channel."""
    module = ResNet(Bottleneck, (3, 4, 6, 3), width, stem, classes, tuple(mean), tuple(std))
    return network(module, shape, precision)


RESNET50 = Method(CARD, make)
