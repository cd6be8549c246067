"""A U-Net from images to images of the same size that enlarges by bilinear interpolation: it reprograms a network.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
https://arxiv.org/abs/1505.04597, figure 1, with padded convolutions, batch normalisation and, on the way up,
interpolation in place of transposed convolutions, as REFINE's authors have it. Convolutions that are normalised have no
bias, which normalisation would take away again.
"""

import flax.linen as nn
import jax.numpy as jnp

from bdjax.models.auxiliary.ink import Double, stretched
from bdjax.models.auxiliary.unet import Biased
from bdjax.models.parts.layers import Pass, halved
from bdjax.models.parts.network import network
from bdjax.types import Array, Net


class BilinearUNet(nn.Module):
    """As many blocks down as up, joined at every size; the smallest has no more channels than the one before it."""

    width: int
    halvings: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> the same shape, of any range."""
        channels, sides = x.shape[-1], []
        x = Double(self.width, self.width, name="input")(x, run)
        for number in range(1, self.halvings + 1):
            sides.append(x)
            features = self.width << min(number, self.halvings - 1)
            x = Double(features, features, name=f"down{number}")(halved(x), run)
        for number, side in enumerate(reversed(sides), 1):
            middle = side.shape[-1]
            x = jnp.concatenate([side, fitted(doubled(x), side)], -1)
            x = Double(middle, max(middle // 2, self.width), name=f"up{number}")(x, run)
        return Biased(channels, 1, name="output")(x, run)


def doubled(x: Array) -> Array:
    """X (b, height, width, channels) at twice its size, interpolated between its corners, which stay what they are."""
    return stretched(x, 2 * x.shape[1], 2 * x.shape[2])


def fitted(x: Array, side: Array) -> Array:
    """X (b, height, width, channels) with zeros below and to the right, as high and wide as `side`."""
    height, width = (side.shape[axis] - x.shape[axis] for axis in (1, 2))
    return jnp.pad(x, ((0, 0), (0, height), (0, width), (0, 0)))


def bilinear_unet(shape: tuple[int, int, int], width: int = 64, halvings: int = 4) -> Net:
    """The U-Net for images of `shape` (height, width, channels).

    As a `Net` it gives, where a classifier gives logits, images float (b, height, width, channels) of any range.

    Args:
        shape: of its images.
        width: channels of its first block; twice as many after each further halving.
        halvings: of the size, at most; fewer where a side would have less than one pixel.
    """
    return network(BilinearUNet(width, min(halvings, min(shape[:2]).bit_length() - 1)), shape)
