"""The networks of Oxford's Visual Geometry Group with 16 convolutions, with normalization behind them or without.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
https://arxiv.org/abs/1409.1556, table 1, column E. As in torchvision, the last maps are averaged to 7x7, so that the
two hidden layers have the sizes of the paper at any size of the image; at 32 pixels all 49 places are the same.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from bdjax.cards import Setting
from bdjax.models.parts.layers import PRECISION, BatchNorm, Conv, Linear, Pass, Pool, Relu, merge_pairs, normalize
from bdjax.types import Array, real

STAGES = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))
"""Of each stage its channels, counted in `width`, and its convolutions."""

PLACES = 7
"""Height and width of what the first hidden layer reads."""

DEVIATION = 0.01
"""Of the kernels of linear layers at the beginning."""

SETTINGS = {
    "width": Setting(
        64, "channels of the first stage; later ones have up to eight times as many, a hidden layer 64 times", low=1
    ),
    "head": Setting(
        "imagenet",
        "what comes before the last layer: `imagenet`, averages in 7x7 places and two hidden layers, as in torchvision "
        "and the field's benchmark; `small`, one average, which is another network with a seventh of the parameters",
        choices=("imagenet", "small"),
    ),
    "precision": PRECISION,
}
DEPARTURES = (
    "no dropout: the paper and torchvision drop half of what both hidden layers give in training; torchvision's with "
    "dropout=0 agrees in training too",
    "below 32 pixels, where torchvision refuses, a side of one pixel is left as it is where it would be halved",
    "kernels begin with variance 2 / fan out and linear layers with deviation 0.01, as in torchvision",
    "no initialization from shallower networks",
)


class Unit(nn.Module):
    """A 3x3 convolution with a bias, normalization where asked for, and a rectifier."""

    features: int
    normalized: bool

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, height, width, features)."""
        x = Conv(self.features, fan="out", bias=True, name="conv")(x, run)
        return Relu(name="relu")(BatchNorm(name="bn")(x, run) if self.normalized else x, run)


class Places(nn.Module):
    """The means over `PLACES` x `PLACES` parts of the image, which overlap where its sides are no multiples of that."""

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, PLACES, PLACES, channels)."""
        down, across = (jnp.asarray(shares(side), real()) for side in x.shape[1:3])
        return run.tap(self.path, "pool", jnp.einsum("ih,jw,bhwc->bijc", down, across, x.astype(real())))


def shares(side: int) -> np.ndarray:
    """How much each of `side` pixels counts in each of PLACES means, float (PLACES, side).

    Mean i is over the pixels from floor(i side / PLACES) to before ceil((i + 1) side / PLACES).
    """
    place, pixel = np.arange(PLACES)[:, None], np.arange(side)
    inside = (pixel >= place * side // PLACES) & (pixel < -(-(place + 1) * side // PLACES))
    return inside / inside.sum(1, keepdims=True)


class Vgg(nn.Module):
    """Five stages of convolutions, each ending in 2x2 max pooling; hidden layers, and a linear layer."""

    normalized: bool
    width: int
    head: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @nn.compact
    def __call__(self, image: Array, run: Pass) -> Array:
        """Image float (b, height, width, channels) in [0, 1] -> logits (b, classes)."""
        x = normalize(image, self.mean, self.std)
        for stage, (factor, count) in enumerate(STAGES, 1):
            for number in range(count):
                x = Unit(factor * self.width, self.normalized, name=f"layer{stage}_{number}")(x, run)
            x = merge_pairs(x, jnp.maximum)
        if self.head == "small":
            x = Pool(name="pool")(x, run)
        else:
            x = Places(name="pool")(x, run).transpose(0, 3, 1, 2).reshape(len(x), -1)
            for number in (1, 2):
                x = Linear(64 * self.width, DEVIATION, rectified=True, name=f"hidden{number}")(x, run)
        return Linear(self.classes, DEVIATION, name="linear")(x, run)
