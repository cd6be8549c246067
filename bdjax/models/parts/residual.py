"""Residual blocks of convolutions followed by normalization, and the networks that torchvision makes of them.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385: figure
5 and table 1, with projection shortcuts where the shape changes (option B of section 4.1). As in torchvision, a
bottleneck has its stride in the 3x3 convolution, and kernels begin normal, of variance 2 / fan out.
"""

from collections.abc import Callable

import flax.linen as nn

from bdjax.cards import Setting
from bdjax.models.parts.layers import (
    PRECISION,
    Add,
    BatchNorm,
    Conv,
    Linear,
    Pass,
    Pool,
    Relu,
    max_pool3,
    normalize,
    run_stages,
)
from bdjax.types import Array

STEM = Setting(
    "imagenet",
    "the first layers: `imagenet`, a 7x7 convolution of stride 2 and 3x3 max pooling of stride 2, as in torchvision "
    "and at 32 pixels too in the field's benchmark; `small`, a 3x3 convolution of stride 1 alone",
    choices=("imagenet", "small"),
)
SETTINGS = {
    "width": Setting(64, "channels of the first stage; the others have two, four and eight times as many", low=1),
    "stem": STEM,
    "precision": PRECISION,
}


class BasicBlock(nn.Module):
    """Two normalized 3x3 convolutions, what came in, and a rectifier."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, height / stride, width / stride, features)."""
        inner = Conv(self.features, stride=self.stride, fan="out", name="conv1")(x, run)
        inner = Relu(name="relu1")(BatchNorm(name="bn1")(inner, run), run)
        inner = BatchNorm(name="bn2")(Conv(self.features, fan="out", name="conv2")(inner, run), run)
        x = _shortcut(x, self.features, self.stride, run)
        return Relu(name="relu2")(Add(name="add")(inner, x, run), run)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each normalized, what came in, and a rectifier; four times `features` go out."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels) -> (b, height / stride, width / stride, 4 features)."""
        inner = Conv(self.features, size=1, padding=0, fan="out", name="conv1")(x, run)
        inner = Relu(name="relu1")(BatchNorm(name="bn1")(inner, run), run)
        inner = Conv(self.features, stride=self.stride, fan="out", name="conv2")(inner, run)
        inner = Relu(name="relu2")(BatchNorm(name="bn2")(inner, run), run)
        inner = Conv(4 * self.features, size=1, padding=0, fan="out", name="conv3")(inner, run)
        inner = BatchNorm(name="bn3")(inner, run)
        x = _shortcut(x, 4 * self.features, self.stride, run)
        return Relu(name="relu3")(Add(name="add")(inner, x, run), run)


def _shortcut(x: Array, features: int, stride: int, run: Pass) -> Array:
    """What came in, brought to the shape of what goes out; called within a block."""
    if stride == 1 and x.shape[-1] == features:
        return x
    x = Conv(features, size=1, stride=stride, padding=0, fan="out", name="shortcut_0")(x, run)
    return BatchNorm(name="shortcut_1")(x, run)


class ResNet(nn.Module):
    """A stem, four stages of blocks, global average pooling and a linear layer.

    block: (features, stride, name=name) -> a module. blocks: in each stage. stem: see `STEM`.
    """

    block: Callable[..., nn.Module]
    blocks: tuple[int, ...]
    width: int
    stem: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @nn.compact
    def __call__(self, image: Array, run: Pass) -> Array:
        """Image float (b, height, width, channels) in [0, 1] -> logits (b, classes)."""
        x, large = normalize(image, self.mean, self.std), self.stem == "imagenet"
        first = {"size": 7, "stride": 2, "padding": 3} if large else {}
        x = Conv(self.width, fan="out", name="conv1", **first)(x, run)
        x = Relu(name="relu1")(BatchNorm(name="bn1")(x, run), run)
        x = run_stages(self.block, self.blocks, self.width, max_pool3(x) if large else x, run)
        return Linear(self.classes, name="linear")(Pool(name="pool")(x, run), run)
