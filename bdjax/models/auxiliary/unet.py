"""A U-Net from images to images of the same size: the generator that inverts triggers.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
https://arxiv.org/abs/1505.04597, figure 1, with instance normalisation and leaky rectifiers (slope 0.01), padded
convolutions and transposed ones on the way up, as the generators of trigger inversion have them. Convolutions that are
normalised have no bias, which normalisation would take away again.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdjax.errors import InvalidInput
from bdjax.models.parts.batch_norm import EPSILON, beside
from bdjax.models.parts.layers import Conv, Pass, halved
from bdjax.models.parts.pure import Generator, pure
from bdjax.types import Array, real


class InstanceNorm(nn.Module):
    """Each channel of each image normalised by itself, then scaled and shifted by what is learned."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """X float (b, height, width, channels)."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], real())
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], real())
        centred = x - jnp.mean(x, (1, 2), keepdims=True)
        variance = jnp.mean(jnp.square(centred), (1, 2), keepdims=True)
        return centred * jax.lax.rsqrt(variance + EPSILON) * beside(x, scale) + beside(x, bias)


class Biased(nn.Module):
    """A convolution that keeps the size, with a bias."""

    features: int
    size: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, height, width, features)."""
        out = Conv(self.features, self.size, padding=self.size // 2, name="conv")(x, run)
        return out + beside(x, self.param("bias", run.uniform, (self.features,), self.size**2 * x.shape[-1]))


class Double(nn.Module):
    """Convolution, normalisation, leaky rectifier, twice."""

    features: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, height, width, features)."""
        for number in (1, 2):
            x = Conv(self.features, name=f"conv{number}")(x, run)
            x = nn.leaky_relu(InstanceNorm(name=f"norm{number}")(x))
        return x


class Up(nn.Module):
    """A transposed 3x3 convolution of stride 2: the image with zeros between its pixels, convolved."""

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, 2 height, 2 width, channels)."""
        spread = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 1, 1), (0, 1, 1), (0, 0, 0)])
        return nn.leaky_relu(Biased(x.shape[-1], 3, name="conv")(spread, run))


class UNet(nn.Module):
    """As many blocks down as up, joined at every size."""

    width: int
    blocks: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels), sides that can be halved `blocks` times."""
        channels, sides = x.shape[-1], []
        for block in range(self.blocks):
            x = Double(self.width << block, name=f"down{block}")(x, run)
            sides.append(x)
            x = halved(x)
        x = Double(self.width << self.blocks, name="bottom")(x, run)
        for block in reversed(range(self.blocks)):
            x = jnp.concatenate([Up(name=f"rise{block}")(x, run), sides[block]], -1)
            x = Double(self.width << block, name=f"up{block}")(x, run)
        return Biased(channels, 1, name="output")(x, run)


def depth(shape: tuple[int, int, int], most: int) -> int:
    """How often, up to `most`, images of `shape` (height, width, channels) can be halved and keep two pixels a side.

    Raises:
        InvalidInput: not once, though `most` is not 0.
    """
    height, width = shape[:2]
    found = 0
    while found < most and height % 2 == width % 2 == 0 and min(height, width) >= 4:
        height, width, found = height // 2, width // 2, found + 1
    if most and not found:
        given = f"a U-Net of {most} blocks for {height}x{width} images, which cannot be halved"
        raise InvalidInput(f"{given}; sides are even and at least 4, or blocks=0")
    return found


def unet(shape: tuple[int, int, int], width: int = 32, blocks: int = 4) -> Generator:
    """The U-Net for images of `shape` (height, width, channels).

    Args:
        shape: of its images.
        width: channels of the first block; every further one has twice as many.
        blocks: at most so many times the image is halved, see `depth`.

    Raises:
        InvalidInput: images of this size cannot be halved.
    """
    return pure(UNet(width, depth(shape, blocks)), shape)
