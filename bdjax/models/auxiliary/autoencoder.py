"""A convolutional network that halves an image several times and doubles it again: it generates imperceptible noise.

Doan, Lao, Zhao, Li, LIRA: Learnable, Imperceptible and Robust Backdoor Attacks, ICCV 2021: the generator, as in the
authors' released code. Convolutions that are normalised have no bias, which normalisation would take away again.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdjax.models.auxiliary.hourglass import MEAN, STD
from bdjax.models.auxiliary.unet import Biased
from bdjax.models.parts.layers import BatchNorm, Conv, Pass, Relu, normalize, pad_to_multiple
from bdjax.models.parts.network import network
from bdjax.types import Array, Net

SIDE = 4
"""Pixels: the side of every kernel."""


class Autoencoder(nn.Module):
    """Convolutions of stride 2, each with twice as many channels, as many transposed ones, a hyperbolic tangent."""

    channels: int
    width: int
    halvings: int

    @nn.compact
    def __call__(self, image: Array, run: Pass) -> Array:
        """Image float (b, height, width, any channels) in [0, 1] -> (b, height, width, channels) in (-1, 1)."""
        height, width = image.shape[1:3]
        x = normalize(image, (MEAN,) * image.shape[-1], (STD,) * image.shape[-1])
        x = pad_to_multiple(x, 2**self.halvings)
        for step in range(self.halvings):
            x = Conv(self.width << step, SIDE, 2, 1, name=f"down{step}_conv")(x, run)
            x = Relu(name=f"down{step}_relu")(BatchNorm(name=f"down{step}_norm")(x, run), run)
        for step in reversed(range(1, self.halvings)):
            x = Conv(self.width << step - 1, SIDE, padding=SIDE // 2, name=f"up{step}_conv")(spread(x), run)
            x = Relu(name=f"up{step}_relu")(BatchNorm(name=f"up{step}_norm")(x, run), run)
        return jnp.tanh(Biased(self.channels, SIDE, name="output")(spread(x), run))[:, :height, :width]


def spread(x: Array) -> Array:
    """X with zeros between its pixels, (b, 2 height - 1, 2 width - 1, channels): what transposed convolutions see."""
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, 0)])


def autoencoder(shape: tuple[int, int, int], channels: int, width: int = 16, halvings: int = 4) -> Net:
    """The network for images of `shape` (height, width, channels).

    As a `Net` it gives, where a classifier gives logits, maps float (b, height, width, `channels`) in (-1, 1).

    Args:
        shape: of its images; where a side cannot be halved so often it is widened by zeros, and its map cut again.
        channels: of its maps.
        width: channels of its first convolution; twice as many after each further halving.
        halvings: of the size.
    """
    return network(Autoencoder(channels, width, halvings), shape)
