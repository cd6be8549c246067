"""ResNet-18 for small images.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385, table
1, 18 layers, with projection shortcuts where the shape changes (option B of section 4.1). 11,173,962 parameters at
width 64 and 10 classes.

Departure from the paper: the stem is a 3x3 convolution of stride 1 without pooling, as is usual on small images.
"""

import flax.linen as nn

from bdjax.cards import Card, Method, Setting
from bdjax.models.parts.layers import PRECISION, Add, BatchNorm, Conv, Linear, Pass, Pool, Relu, normalize, run_stages
from bdjax.models.parts.network import network
from bdjax.types import Array, Net

CARD = Card(
    name="resnet18",
    title="ResNet-18",
    citation="He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016, "
    "https://arxiv.org/abs/1512.03385",
    year=2016,
    version=2,
    kind="convolutional network, residual",
    smallest=8,
    settings={
        "width": Setting(64, "channels of the first stage; the others have two, four and eight times as many", low=1),
        "precision": PRECISION,
    },
    departures=("a 3x3 stem of stride 1 without pooling, for small images",),
)


class BasicBlock(nn.Module):
    """Two normalised convolutions, what came in, and a rectifier."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, height / stride, width / stride, features)."""
        inner = Conv(self.features, stride=self.stride, name="conv1")(x, run)
        inner = Relu(name="relu1")(BatchNorm(name="bn1")(inner, run), run)
        inner = BatchNorm(name="bn2")(Conv(self.features, name="conv2")(inner, run), run)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = Conv(self.features, size=1, stride=self.stride, padding=0, name="shortcut_0")(x, run)
            x = BatchNorm(name="shortcut_1")(x, run)
        return Relu(name="relu2")(Add(name="add")(inner, x, run), run)


class ResNet18(nn.Module):
    """A stem, four stages of two blocks, global average pooling and a linear layer."""

    width: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @nn.compact
    def __call__(self, image: Array, run: Pass) -> Array:
        """Image float (b, height, width, channels) in [0, 1] -> logits (b, classes)."""
        x = Conv(self.width, name="conv1")(normalize(image, self.mean, self.std), run)
        x = Relu(name="relu1")(BatchNorm(name="bn1")(x, run), run)
        x = run_stages(BasicBlock, (2, 2, 2, 2), self.width, x, run)
        return Linear(self.classes, name="linear")(Pool(name="pool")(x, run), run)


def make(shape, classes, mean, std, width=64, precision="float") -> Net:
    """The network for images of `shape` (height, width, channels), normalised by `mean` and `std` a channel."""
    return network(ResNet18(width, classes, tuple(mean), tuple(std)), shape, precision)


RESNET18 = Method(CARD, make)
