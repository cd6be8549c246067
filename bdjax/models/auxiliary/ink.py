"""The networks of Poison Ink: one that injects a picture of ink into an image, one that extracts it again.

Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, Poison Ink: Robust and Invisible Backdoor Attack, IEEE Transactions on
Image Processing 31, 2022, https://arxiv.org/abs/2108.02488, section IV, as in the authors' released code: a U-Net, and
a residual network with dilated convolutions. Convolutions that are normalised have no bias, which that takes away. What
the injector gives is added to the image and what the extractor gives to white paper, and both begin at 0: the authors'
networks give whole pictures, which takes them many more steps to learn.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bdjax.models.auxiliary.unet import InstanceNorm
from bdjax.models.parts.layers import BatchNorm, Conv, Pass, Relu, halved, pad_to_multiple
from bdjax.models.parts.network import network
from bdjax.types import Array, Net, real

HALVINGS = 4
"""Of the image, in the injector."""

DILATIONS = (2, 2, 2, 4, 4, 4, 1)
"""Of the extractor's residual blocks."""


class Double(nn.Module):
    """Convolution, normalisation, rectifier, twice."""

    middle: int
    features: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, height, width, features)."""
        for number, features in enumerate((self.middle, self.features), 1):
            x = BatchNorm(name=f"norm{number}")(Conv(features, name=f"conv{number}")(x, run), run)
            x = Relu(name=f"relu{number}")(x, run)
        return x


class Injector(nn.Module):
    """A U-Net of four halvings, `width` channels at first, twice as many after each halving but the last."""

    channels: int
    width: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """Image and ink side by side, (b, height, width, 2 channels) -> (b, height, width, channels) of any range."""
        height, width = x.shape[1:3]
        image = x[..., : self.channels]
        x = pad_to_multiple(x, 2**HALVINGS)
        x = Double(self.width, self.width, name="down0")(x, run)
        sides = []
        for step in range(1, HALVINGS + 1):
            sides.append(x)
            features = self.width << min(step, HALVINGS - 1)
            x = Double(features, features, name=f"down{step}")(halved(x), run)
        for step in reversed(range(HALVINGS)):
            side = sides[step]
            x = jnp.concatenate([side, stretched(x, *side.shape[1:3])], -1)
            x = Double(x.shape[-1] // 2, self.width << max(step - 1, 0), name=f"up{step}")(x, run)
        return (
            image
            + nn.Dense(self.channels, kernel_init=nn.initializers.zeros, param_dtype=real(), name="output")(x)[
                :, :height, :width
            ]
        )


def stretched(x: Array, height: int, width: int) -> Array:
    """X (b, rows, columns, channels) at another size, linearly, its corners at the corners."""
    down, across = (linear(new, old).astype(x.dtype) for new, old in ((height, x.shape[1]), (width, x.shape[2])))
    return jnp.einsum("brsc,hr,ws->bhwc", x, down, across, precision="highest")


def linear(size: int, points: int) -> np.ndarray:
    """The matrix float64 (size, points) that interpolates `points` values linearly, first and last at the ends."""
    place = np.arange(size) * (points - 1) / max(size - 1, 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(points)))


class Residual(nn.Module):
    """Two dilated convolutions, each normalised, beside the way past them."""

    dilation: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> the same shape."""
        y = apart(x, self.dilation)
        y = together(Conv(x.shape[-1], name="conv1")(y, run), x, self.dilation)
        y = apart(nn.relu(InstanceNorm(name="norm1")(y)), self.dilation)
        y = together(Conv(x.shape[-1], name="conv2")(y, run), x, self.dilation)
        return nn.relu(x + InstanceNorm(name="norm2")(y))


def apart(x: Array, step: int) -> Array:
    """Every `step`-th pixel down and across as an image of its own: (b, height, width, channels) to more, smaller ones.

    A convolution of these is one of x with dilation `step`. Sides that are no multiple are widened by zeros.
    """
    x = pad_to_multiple(x, step)
    count, height, width, channels = x.shape
    x = x.reshape(count, height // step, step, width // step, step, channels).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, height // step, width // step, channels)


def together(x: Array, like: Array, step: int) -> Array:
    """The way back from `apart`, to the size of `like`."""
    count, (_, height, width, channels) = len(like), x.shape
    x = x.reshape(count, step, step, height, width, channels).transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(count, step * height, step * width, channels)[:, : like.shape[1], : like.shape[2]]


class Extractor(nn.Module):
    """Three convolutions, the last of stride 2, seven residual blocks, and back to the image's size."""

    channels: int
    width: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X (b, height, width, channels) -> the same shape, at least 0."""
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, 2)
        for number, stride in enumerate((1, 1, 2), 1):
            x = Conv(self.width, stride=stride, name=f"conv{number}")(x, run)
            x = nn.relu(InstanceNorm(name=f"norm{number}")(x))
        for number, dilation in enumerate(DILATIONS, 1):
            x = Residual(dilation, name=f"residual{number}")(x, run)
        spread = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (2, 2, 1), (2, 2, 1), (0, 0, 0)])
        x = Conv(self.width, size=4, padding=0, name="rise")(spread, run)
        x = nn.relu(InstanceNorm(name="norm4")(x))
        x = nn.relu(InstanceNorm(name="norm5")(Conv(self.width, name="conv5")(x, run)))
        x = nn.Dense(self.channels, kernel_init=nn.initializers.zeros, param_dtype=real(), name="output")(x)
        return nn.relu(1 + x[:, :height, :width])


def injector(shape: tuple[int, int, int], width: int) -> Net:
    """The injector for images of `shape` (height, width, channels): image and ink side by side in, image out.

    As a `Net` it gives images where a classifier gives logits. width: channels of its first block, the authors' 64.
    """
    height, across, channels = shape
    return network(Injector(channels, width), (height, across, 2 * channels))


def extractor(shape: tuple[int, int, int], width: int) -> Net:
    """The extractor for images of `shape` (height, width, channels): image in, ink out. width: the authors' 128."""
    return network(Extractor(shape[2], width), shape)
