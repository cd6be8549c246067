"""A small convolutional network for small images and for tests, 6,418 parameters at its defaults.

Three convolutions in the manner of LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document
recognition", Proceedings of the IEEE, 1998, https://doi.org/10.1109/5.726791, with batch normalisation, rectifiers and
global average pooling, as is usual today. It is no published architecture.
"""

import flax.linen as nn

from bdjax.cards import Card, Method, Setting
from bdjax.models.parts.layers import PRECISION, BatchNorm, Conv, Linear, Pass, Pool, Relu, normalize
from bdjax.models.parts.network import network
from bdjax.types import Array, Net

CARD = Card(
    name="small_cnn",
    title="Small CNN",
    citation="LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, Proceedings of "
    "the IEEE, 1998, https://doi.org/10.1109/5.726791 (the idea; this network is bdjax's own)",
    year=1998,
    version=2,
    kind="convolutional network",
    smallest=4,
    settings={
        "width": Setting(8, "channels of the first convolution; the others have two and four times as many", low=1),
        "stem_stride": Setting(1, "stride of the first convolution", unit="pixels", low=1),
        "precision": PRECISION,
    },
)


class SmallCnn(nn.Module):
    """Three times 3x3 convolution, batch normalisation, rectifier; then global average pooling and a linear layer."""

    width: int
    stem_stride: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @nn.compact
    def __call__(self, image: Array, run: Pass) -> Array:
        """Image float (b, height, width, channels) in [0, 1] -> logits (b, classes)."""
        x = normalize(image, self.mean, self.std)
        for number, stride in enumerate((self.stem_stride, 2, 2), 1):
            x = Conv(self.width << number - 1, stride=stride, name=f"conv{number}")(x, run)
            x = BatchNorm(name=f"bn{number}")(x, run)
            x = Relu(name=f"relu{number}")(x, run)
        return Linear(self.classes, name="linear")(Pool(name="pool")(x, run), run)


def make(shape, classes, mean, std, width=8, stem_stride=1, precision="float") -> Net:
    """The network for images of `shape` (height, width, channels), normalised by `mean` and `std` a channel."""
    return network(SmallCnn(width, stem_stride, classes, tuple(mean), tuple(std)), shape, precision)


SMALL_CNN = Method(CARD, make)
