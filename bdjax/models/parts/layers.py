"""Layers as PyTorch has them, and the pass that carries what every layer needs and taps what it gives.

Batch normalisation: Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift", ICML 2015, https://arxiv.org/abs/1502.03167, algorithms 1 and 2, with exponential running statistics
and the unbiased variance among them, as PyTorch keeps them.

Initialisation: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, https://arxiv.org/abs/1502.01852, with
the slope sqrt(5) that PyTorch takes by default, which is U(-1/sqrt(fan in), 1/sqrt(fan in)).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdjax.cards import Setting
from bdjax.models.parts.convolution import convolve
from bdjax.types import Array, Layer, real

MOMENTUM, EPSILON = 0.1, 1e-5
PRECISION = Setting(
    "float",
    "what convolutions compute in, and what is between them; weights, their gradients, statistics, features and logits "
    "are in the library's float type",
    choices=("float", "bfloat16"),
)
NO_EDIT: Mapping[str, Callable[[Array], Array]] = MappingProxyType({})
WITH_PARAMETERS = ("conv", "norm", "linear", "whiten")


class Pass:
    """One run through a network: how to run it, which activations to edit, and what was met on the way.

    Every layer hands its output to `tap` and goes on with what it gets back. `taps` are the activations by name, after
    the edit; `layers` lists the layers in forward order. To initialise, `noise` float (drawn,) holds numbers uniform in
    [-1, 1) for the whole network, of which every layer takes its share: one draw compiles ten times as fast as many.
    """

    def __init__(
        self,
        train: bool = False,
        weight: Array | None = None,
        edit=NO_EDIT,
        noise: Array | None = None,
        precision: str = "float",
    ):
        self.train, self.weight, self.edit, self.noise = train, weight, edit, noise
        self.working = jnp.bfloat16 if precision == "bfloat16" else real()  # what convolutions compute in
        self.taps: dict[str, Array] = {}
        self.layers: list[Layer] = []
        self.drawn = 0

    def uniform(self, key, shape: tuple[int, ...], inputs: int) -> Array:
        """A linen initializer: uniform within 1/sqrt(inputs), from `noise`; zeros where only the shape is asked for."""
        del key
        start, self.drawn = self.drawn, self.drawn + math.prod(shape)
        if self.noise is None:
            return jnp.zeros(shape, real())
        return self.noise[start : self.drawn].reshape(shape) * inputs**-0.5

    def tap(self, path: tuple[str, ...], kind: str, activation: Array, momentum: float = MOMENTUM) -> Array:
        """The activation, edited if asked for; the tap's name is the layer's path joined by dots."""
        name = ".".join(path)
        if name in self.edit:
            activation = self.edit[name](activation).astype(activation.dtype)
        self.taps[name] = activation
        self.layers.append(Layer(name, kind, path if kind in WITH_PARAMETERS else (), name, momentum))
        return activation


class Conv(nn.Module):
    """A square convolution without bias, with as much zero padding on every side as given.

    identity: whether it begins as one that hands its input channels on, in as many of its output channels.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    identity: bool = False

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels)."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self._drawn, run, shape)
        padding = ((self.padding, self.padding),) * 2
        x, kernel = x.astype(run.working), kernel.astype(run.working)
        return run.tap(self.path, "conv", convolve(x, kernel, (self.stride, self.stride), padding))

    def _drawn(self, key, run: Pass, shape: tuple[int, ...]) -> Array:
        kernel, middle = run.uniform(key, shape, math.prod(shape[:-1])), self.size // 2
        if not self.identity:
            return kernel
        kept = jnp.arange(min(shape[2:]))
        return kernel.at[..., kept].set(0).at[middle, middle, kept, kept].set(1)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last; rows of weight 0 do not count.

    momentum: the share of a batch's statistics that the moving ones take, PyTorch's momentum.
    """

    momentum: float = MOMENTUM

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, ..., channels)."""
        channels, given, x = x.shape[-1], x.dtype, x.astype(real())
        scale = self.param("scale", nn.initializers.ones, (channels,), real())
        bias = self.param("bias", nn.initializers.zeros, (channels,), real())
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), real())
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), real())
        mean, variance = running_mean.value, running_var.value
        if run.train:
            mean, variance, count = moments(x, run.weight)
            rate = self.momentum * (count > 0)
            unbiased = variance * count / jnp.maximum(count - 1, 1)
            running_mean.value += rate * (mean - running_mean.value)
            running_var.value += rate * (unbiased - running_var.value)
        factor = scale * jax.lax.rsqrt(variance + EPSILON)
        normal = (x - beside(x, mean)) * beside(x, factor) + beside(x, bias)
        return run.tap(self.path, "norm", normal.astype(given), self.momentum)


def beside(x: Array, vector: Array) -> Array:
    """A number a channel (channels,) with as many axes as x (..., channels)."""
    return vector.reshape(*[1] * (x.ndim - 1), -1)


def moments(x: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    """Mean and biased variance a channel (channels,) of x (b, ..., channels), and how many values each was made of.

    weight: float (b,), 0 for rows that do not count; None counts all.
    """
    inner = tuple(range(1, x.ndim - 1))
    weight = jnp.ones(len(x), x.dtype) if weight is None else weight
    rows = jnp.sum(weight)
    share = (weight / jnp.maximum(rows, 1))[:, None]
    mean = jnp.sum(share * jnp.mean(x, inner), 0)
    variance = jnp.sum(share * jnp.mean(jnp.square(x - beside(x, mean)), inner), 0)
    return mean, variance, rows * (x[0].size // x.shape[-1])


class Relu(nn.Module):
    """The rectifier."""

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X of any shape."""
        return run.tap(self.path, "relu", nn.relu(x))


class Add(nn.Module):
    """The end of a residual block."""

    @nn.compact
    def __call__(self, x: Array, shortcut: Array, run: Pass) -> Array:
        """Two arrays of one shape."""
        return run.tap(self.path, "add", x + shortcut)


class Pool(nn.Module):
    """The mean over the whole image."""

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels)."""
        return run.tap(self.path, "pool", jnp.mean(x.astype(real()), (1, 2)))


class Linear(nn.Module):
    """A fully connected layer."""

    features: int

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, channels)."""
        inputs = x.shape[-1]
        kernel = self.param("kernel", run.uniform, (inputs, self.features), inputs)
        bias = self.param("bias", run.uniform, (self.features,), inputs)
        return run.tap(self.path, "linear", x @ kernel + beside(x, bias))


def run_stages(block: Callable[..., nn.Module], blocks: Sequence[int], width: int, x: Array, run: Pass) -> Array:
    """A residual network's blocks; stages after the first halve height and width and double the channels.

    Args:
        block: (features, stride, name=name) -> a module.
        blocks: in each stage.
        width: channels of the first stage.
        x: float (b, height, width, channels).
        run: the pass.
    """
    for stage, count in enumerate(blocks):
        for number in range(count):
            stride, name = 2 if stage and not number else 1, f"layer{stage + 1}_{number}"
            x = block(width << stage, stride, name=name)(x, run)
    return x


def normalize(image: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """Images in [0, 1] less `mean`, by `std`, a number a channel."""
    mean, std = jnp.asarray(mean, image.dtype), jnp.asarray(std, image.dtype)
    return (image - beside(image, mean)) / beside(image, std)


def pad_to_multiple(x: Array, step: int) -> Array:
    """X (b, height, width, channels), zeros below and to the right of it, so that its sides are multiples of `step`."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % step), (0, -x.shape[2] % step), (0, 0)))


def halved(x: Array) -> Array:
    """The largest of every 2x2 pixels; a last odd row or column is left out."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    # Pairs are compared, for a maximum over an axis finds its gradient by asking which values equal it; computed anew
    # and rounded otherwise, as fused programs do, none may.
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])
