"""Networks that hide bits in images and read them again.

Tancik, Mildenhall, Ng, StegaStamp: Invisible Hyperlinks in Physical Photographs, CVPR 2020,
https://arxiv.org/abs/1904.05343, section 3: a U-Net sees the image beside the bits, spread over planes of its size; a
plain convolutional network reads the bits. `change` is StegaStamp itself, whose encoder gives what is added to the
image and whose decoder looks through a spatial transformer; `image` is the form of Yu, Skripniuk, Abdelnabi, Fritz,
Artificial Fingerprinting for Generative Models, ICCV 2021, https://arxiv.org/abs/2007.08457, whose encoder gives the
image. Weights begin as in StegaStamp's code: variance 2/inputs, biases 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdjax.data import warp
from bdjax.models.parts.batch_norm import beside
from bdjax.models.parts.convolution import convolve
from bdjax.models.parts.layers import Pass, pad_to_multiple
from bdjax.models.parts.pure import pure
from bdjax.types import Array, Key, PyTree, real

HALVINGS = 4
"""Of the image, in the encoder."""

GRID = 16
"""The side of the planes that bits are spread over, where they are not of the image's own size."""

MIDDLE = 0.5
"""What is taken from images and bits where they are centred."""


class Coder(NamedTuple):
    """A pair of networks as pure functions; images float (b, height, width, channels), bits float (b, bits) of 0 and 1.

    `init(key) -> {"encoder": params, "decoder": params}`; `hide(params of the encoder, image, bits)` gives images,
    which may leave [0, 1]; `read(params of the decoder, image)` gives logits (b, bits).
    """

    init: Callable[[Key], dict[str, PyTree]]
    hide: Callable[[PyTree, Array, Array], Array]
    read: Callable[[PyTree, Array], Array]


def he(run: Pass):
    """The initializer (key, shape, inputs) whose values are uniform with variance 2/inputs: He et al., ICCV 2015."""
    return lambda key, shape, inputs: 6**0.5 * run.uniform(key, shape, inputs)


class Convolved(nn.Module):
    """A convolution with a bias; one of an even size has its larger half below and to the right."""

    features: int
    size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels)."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", he(run), shape, self.size**2 * x.shape[-1])
        bias = self.param("bias", nn.initializers.zeros, (self.features,), real())
        reach = self.size - 1
        around = (reach // 2, reach - reach // 2)
        return convolve(x, kernel, (self.stride, self.stride), (around, around)) + beside(x, bias)


class Dense(nn.Module):
    """A fully connected layer."""

    features: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, inputs)."""
        kernel = self.param("kernel", he(run), (x.shape[-1], self.features), x.shape[-1])
        bias = self.param("bias", nn.initializers.zeros, (self.features,), real())
        return x @ kernel + beside(x, bias)


def enlarged(x: Array, height: int, width: int) -> Array:
    """X (b, rows, columns, channels) at another size, every pixel the one that lies there."""
    return jax.image.resize(x, (len(x), height, width, x.shape[-1]), "nearest")


class Encoder(nn.Module):
    """A U-Net over an image and the planes of its bits, `width` channels at first, twice as many at smaller sizes."""

    width: int
    form: str

    @nn.compact
    def __call__(self, image: Array, bits: Array, run: Pass) -> Array:
        """Image (b, height, width, channels), bits (b, bits) -> the image with its bits."""
        _, height, width, channels = image.shape
        changing = self.form == "change"
        rows, columns = (height, width) if changing else (GRID, GRID)
        centre = MIDDLE if changing else 0.0
        planes = nn.relu(Dense(rows * columns * channels, name="secret")(bits - centre, run))
        planes = enlarged(planes.reshape(-1, rows, columns, channels), height, width)
        seen = pad_to_multiple(jnp.concatenate([planes, image - centre], -1), 2**HALVINGS)
        x = nn.relu(Convolved(self.width, name="down0")(seen, run))
        sides = [x]
        for step in range(HALVINGS):
            x = nn.relu(Convolved(self.width << step, stride=2, name=f"down{step + 1}")(x, run))
            sides.append(x)
        for step in reversed(range(HALVINGS)):
            side = sides[step]
            x = nn.relu(Convolved(side.shape[-1], size=2, name=f"rise{step}")(enlarged(x, *side.shape[1:3]), run))
            x = jnp.concatenate([side, x] if step else [side, x, seen], -1)
            x = nn.relu(Convolved(side.shape[-1], name=f"up{step}")(x, run))
        if not changing:
            x = nn.relu(Convolved(self.width, name="last")(x, run))
        x = Convolved(channels, 1, name="output")(x, run)[:, :height, :width]
        return image + x if changing else nn.sigmoid(x)


class Decoder(nn.Module):
    """Seven convolutions, five of them with stride 2, and two linear layers."""

    width: int
    bits: int
    form: str

    @nn.compact
    def __call__(self, image: Array, run: Pass) -> Array:
        """Image (b, height, width, channels) -> logits (b, bits)."""
        x = image
        if self.form == "change":
            x = Straightened(self.width, name="straightened")(image - MIDDLE, run)
        layers = ((1, 2), (1, 1), (2, 2), (2, 1), (2, 2), (4, 2), (4, 2))
        for number, (factor, stride) in enumerate(layers):
            x = nn.relu(Convolved(factor * self.width, stride=stride, name=f"conv{number}")(x, run))
        x = nn.relu(Dense(16 * self.width, name="dense")(x.reshape(len(x), -1), run))
        return Dense(self.bits, name="logits")(x, run)


class Straightened(nn.Module):
    """A spatial transformer: the image read through the affine map that a small network finds for it, at first none.

    Jaderberg, Simonyan, Zisserman, Kavukcuoglu, Spatial Transformer Networks, NeurIPS 2015,
    https://arxiv.org/abs/1506.02025, section 3.
    """

    width: int

    @nn.compact
    def __call__(self, image: Array, run: Pass) -> Array:
        """Image (b, height, width, channels) -> the same shape."""
        x = image
        for number, factor in enumerate((1, 2, 4)):
            x = nn.relu(Convolved(factor * self.width, stride=2, name=f"conv{number}")(x, run))
        x = nn.relu(Dense(4 * self.width, name="dense")(x.reshape(len(x), -1), run))
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], 6), x.dtype)
        bias = self.param("bias", lambda key, shape: jnp.eye(2, 3, dtype=x.dtype).reshape(shape), (6,))
        return jax.vmap(mapped)(image, (x @ kernel + beside(x, bias)).reshape(-1, 2, 3))


def mapped(image: Array, affine: Array) -> Array:
    """An image (height, width, channels) read at affine (2, 3) times (across, down, 1), which go from -1 to 1."""
    size = jnp.array(image.shape[:2], image.dtype)
    place = 2 * (warp.identity(*image.shape[:2], image.dtype) + 0.5) / size - 1
    source = place[..., ::-1] @ affine[:, :2].T + affine[:, 2]
    return warp.sample(image, (source[..., ::-1] + 1) * size / 2 - 0.5)


def coder(shape: tuple[int, int, int], bits: int, width: int, form: str) -> Coder:
    """The networks for images of `shape` (height, width, channels).

    Args:
        shape: of the images; where a side is no multiple of 16 the encoder widens it by zeros and cuts it again.
        bits: hidden in an image.
        width: channels of the first layers; the authors' 32.
        form: `change` or `image`, what the encoder gives.
    """
    encoder = pure(Encoder(width, form), shape, (bits,))
    decoder = pure(Decoder(width, bits, form), shape)

    def init(key: Key) -> dict[str, PyTree]:
        first, second = jax.random.split(key)
        return {"encoder": encoder.init(first), "decoder": decoder.init(second)}

    return Coder(init, encoder.apply, decoder.apply)
