"""PreActResNet18 for small images, the network on which most backdoor defenses are compared.

He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016, https://arxiv.org/abs/1603.05027, figure
4(e), with the widths and depths of ResNet-18 and a 3x3 stem of stride 1. 11,171,146 parameters at width 64 and 10
classes.

Departures from the paper, as in the network that the field compares on: a shortcut that changes shape is a 1x1
convolution of the rectified input; there is no normalisation after the stem and no normalisation or rectifier before
the pooling, so that features may be negative.
"""

import flax.linen as nn

from bdjax.cards import Card, Method, Setting
from bdjax.models.parts.layers import PRECISION, Add, BatchNorm, Conv, Linear, Pass, Pool, Relu, normalize, run_stages
from bdjax.models.parts.network import network
from bdjax.types import Array, Net

CARD = Card(
    name="preact_resnet18",
    title="PreActResNet18",
    citation="He, Zhang, Ren, Sun, Identity Mappings in Deep Residual Networks, ECCV 2016, "
    "https://arxiv.org/abs/1603.05027",
    year=2016,
    version=2,
    kind="convolutional network, residual",
    smallest=8,
    settings={
        "width": Setting(64, "channels of the first stage; the others have two, four and eight times as many", low=1),
        "precision": PRECISION,
    },
    departures=(
        "a 3x3 stem of stride 1 without pooling, for small images",
        "a shortcut that changes shape convolves the rectified input and is not normalised",
        "no normalisation and no rectifier before the pooling",
    ),
)


class PreActBlock(nn.Module):
    """Normalisation, rectifier, convolution, twice, and what came in."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, height / stride, width / stride, features)."""
        active = Relu(name="relu1")(BatchNorm(name="bn1")(x, run), run)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = Conv(self.features, size=1, stride=self.stride, padding=0, name="shortcut_0")(active, run)
        inner = Conv(self.features, stride=self.stride, name="conv1")(active, run)
        inner = Relu(name="relu2")(BatchNorm(name="bn2")(inner, run), run)
        return Add(name="add")(Conv(self.features, name="conv2")(inner, run), x, run)


class PreActResNet(nn.Module):
    """A stem, four stages of so many blocks, global average pooling and a linear layer."""

    blocks: tuple[int, ...]
    width: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @nn.compact
    def __call__(self, image: Array, run: Pass) -> Array:
        """Image float (b, height, width, channels) in [0, 1] -> logits (b, classes)."""
        x = Conv(self.width, name="conv1")(normalize(image, self.mean, self.std), run)
        x = run_stages(PreActBlock, self.blocks, self.width, x, run)
        return Linear(self.classes, name="linear")(Pool(name="pool")(x, run), run)


def make(shape, classes, mean, std, width=64, precision="float") -> Net:
    """The network for images of `shape` (height, width, channels), normalised by `mean` and `std` a channel."""
    return network(PreActResNet((2, 2, 2, 2), width, classes, tuple(mean), tuple(std)), shape, precision)


PREACT_RESNET18 = Method(CARD, make)
