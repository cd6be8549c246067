"""A convolutional network from images to maps of the same size, without shortcuts: it generates patterns and masks.

Nguyen, Tran, Input-Aware Dynamic Backdoor Attack, NeurIPS 2020, https://arxiv.org/abs/2010.08138: the generators, as in
the authors' released code. Convolutions have no bias, which normalisation would take away again.
"""

import flax.linen as nn
import jax

from bdjax.models.parts.layers import BatchNorm, Conv, Pass, Relu, halved, normalize, pad_to_multiple
from bdjax.models.parts.network import network
from bdjax.types import Array, Net

MEAN, STD = 0.5, 0.25
"""What is taken from every channel of an image, and by what it is then divided."""

SLOW = 0.05
"""The share of a batch's own statistics that moving ones take."""


class Block(nn.Module):
    """Convolution, normalisation and, unless it is the last, a rectifier."""

    features: int
    last: bool = False

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, height, width, features)."""
        x = BatchNorm(SLOW, name="norm")(Conv(self.features, name="conv")(x, run), run)
        return x if self.last else Relu(name="relu")(x, run)


class Hourglass(nn.Module):
    """Two blocks before each halving of the size, one at the smallest, two after each doubling."""

    channels: int
    width: int
    halvings: int

    @nn.compact
    def __call__(self, image: Array, run: Pass) -> Array:
        """Image float (b, height, width, any channels) in [0, 1] -> (b, height, width, channels) of any range."""
        height, width = image.shape[1:3]
        x = normalize(image, (MEAN,) * image.shape[-1], (STD,) * image.shape[-1])
        x = pad_to_multiple(x, 2**self.halvings)
        for step in range(self.halvings):
            for number in (1, 2):
                x = Block(self.width << step, name=f"down{step}_{number}")(x, run)
            x = halved(x)
        x = Block(x.shape[-1], name="middle")(x, run)
        for step in reversed(range(self.halvings)):
            x, features = doubled(x), x.shape[-1]
            x = Block(features, name=f"up{step}_1")(x, run)
            x = Block(features // 2 if step else self.channels, last=not step, name=f"up{step}_2")(x, run)
        return x[:, :height, :width]


def doubled(x: Array) -> Array:
    """X (b, height, width, channels) at twice its height and width, by bilinear interpolation."""
    count, height, width, channels = x.shape
    return jax.image.resize(x, (count, 2 * height, 2 * width, channels), "bilinear")


def hourglass(shape: tuple[int, int, int], channels: int, width: int = 32, halvings: int = 3) -> Net:
    """The network for images of `shape` (height, width, channels).

    As a `Net` it gives, where a classifier gives logits, maps float (b, height, width, `channels`) of any range.

    Args:
        shape: of its images; where a side cannot be halved so often it is widened by zeros, and its map cut again.
        channels: of its maps.
        width: channels of its first blocks; twice as many after each halving, and half after each doubling.
        halvings: of the size.
    """
    return network(Hourglass(channels, width, halvings), shape)
