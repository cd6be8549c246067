"""DenseNet-161, and 121, 169, 201 or 21 layers as a setting, with the numbers of torchvision, for small images too.

Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", CVPR 2017,
https://arxiv.org/abs/1608.06993, table 1: the DenseNet-BC networks for ImageNet. 26,494,090 parameters with 161 layers
and 6,964,106 with 121, at 10 classes.

`denseblock1_2.concat` is all that a block has after its second layer: what came in and the new channels behind it.
"""

import flax.linen as nn
import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.models.parts.layers import (
    PRECISION,
    BatchNorm,
    Conv,
    Linear,
    Pass,
    Pool,
    Relu,
    max_pool3,
    merge_pairs,
    normalize,
)
from bdjax.models.parts.network import network
from bdjax.models.parts.residual import STEM
from bdjax.types import Array, Net

DEPTHS = {
    "21": (12, (2, 2, 2, 2)),
    "121": (32, (6, 12, 24, 16)),
    "161": (48, (6, 12, 36, 24)),
    "169": (32, (6, 12, 32, 32)),
    "201": (32, (6, 12, 48, 32)),
}
"""The growth rate and the layers of each block, by the number of layers in all; with 21 it is of no publication."""

CARD = Card(
    name="densenet161",
    title="DenseNet-161",
    citation="Huang, Liu, van der Maaten, Weinberger, Densely Connected Convolutional Networks, CVPR 2017, "
    "https://arxiv.org/abs/1608.06993",
    year=2017,
    version=1,
    kind="convolutional network, densely connected",
    smallest=8,
    settings={
        "width": Setting(
            0,
            "channels that each layer adds, the growth rate; the stem has twice as many, a bottleneck four times; 0: "
            "as published, 48 with 161 layers, else 32, and 12 with 21",
            low=0,
        ),
        "depth": Setting(
            "161", "layers with weights; 21: a small network of bdjax's own, for two cores", choices=tuple(DEPTHS)
        ),
        "stem": STEM,
        "precision": PRECISION,
    },
    departures=(
        "kernels begin with variance 2 / fan in and the last bias at 0, as in torchvision",
        "below 29 pixels, where torchvision refuses, a side of one pixel is left as it is where it would be halved",
    ),
)


class DenseLayer(nn.Module):
    """Normalization, rectifier and convolution, 1x1 to four times `growth` channels, then 3x3; beside what came in."""

    growth: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, height, width, channels + growth)."""
        inner = Relu(name="relu1")(BatchNorm(name="norm1")(x, run), run)
        inner = Conv(4 * self.growth, size=1, padding=0, fan="in", name="conv1")(inner, run)
        inner = Relu(name="relu2")(BatchNorm(name="norm2")(inner, run), run)
        inner = Conv(self.growth, fan="in", name="conv2")(inner, run)
        return Concat(name="concat")(x, inner, run)


class Concat(nn.Module):
    """The channels of one array behind those of another."""

    @nn.compact
    def __call__(self, x: Array, more: Array, run: Pass) -> Array:
        """Two arrays of one shape but for the channels."""
        return run.tap(self.path, "concat", jnp.concatenate([x, more], -1))


class Transition(nn.Module):
    """Normalization, rectifier, 1x1 convolution to half of the channels, and the mean of every 2x2 pixels."""

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, height // 2, width // 2, channels // 2)."""
        inner = Relu(name="relu")(BatchNorm(name="norm")(x, run), run)
        inner = Conv(x.shape[-1] // 2, size=1, padding=0, fan="in", name="conv")(inner, run)
        return merge_pairs(inner, lambda one, other: (one + other) / 2)


class DenseNet(nn.Module):
    """A stem, blocks of dense layers with transitions between, global average pooling and a linear layer."""

    growth: int
    blocks: tuple[int, ...]
    stem: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @nn.compact
    def __call__(self, image: Array, run: Pass) -> Array:
        """Image float (b, height, width, channels) in [0, 1] -> logits (b, classes)."""
        x, large = normalize(image, self.mean, self.std), self.stem == "imagenet"
        first = {"size": 7, "stride": 2, "padding": 3} if large else {}
        x = Conv(2 * self.growth, fan="in", name="conv0", **first)(x, run)
        x = Relu(name="relu0")(BatchNorm(name="norm0")(x, run), run)
        x = max_pool3(x) if large else x
        for block, count in enumerate(self.blocks, 1):
            for number in range(1, count + 1):
                x = DenseLayer(self.growth, name=f"denseblock{block}_{number}")(x, run)
            if block < len(self.blocks):
                x = Transition(name=f"transition{block}")(x, run)
        x = Relu(name="relu5")(BatchNorm(name="norm5")(x, run), run)
        return Linear(self.classes, zero_bias=True, name="linear")(Pool(name="pool")(x, run), run)


def make(shape, classes, mean, std, width=0, depth="161", stem="imagenet", precision="float") -> Net:
    """The network for images of `shape` (height, width, channels), normalized by `mean` and `std` a channel."""
    growth, blocks = DEPTHS[depth]
    return network(DenseNet(width or growth, blocks, stem, classes, tuple(mean), tuple(std)), shape, precision)


DENSENET161 = Method(CARD, make)
