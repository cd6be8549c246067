"""Layers as PyTorch has them, and the pass that carries what every layer needs and taps what it gives.

Batch normalisation: Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift", ICML 2015, https://arxiv.org/abs/1502.03167, algorithms 1 and 2, with exponential running statistics
and the unbiased variance among them, as PyTorch keeps them.

Initialisation: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, https://arxiv.org/abs/1502.01852, with
the slope sqrt(5) that PyTorch takes by default, which is U(-1/sqrt(fan in), 1/sqrt(fan in)); or, where a layer is told
so, the paper's own equations 10 and 14, N(0, 2/fan in) and N(0, 2/fan out).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdjax.cards import Setting
from bdjax.models.parts.batch_norm import batch_norm, beside, standardize
from bdjax.models.parts.convolution import convolve
from bdjax.types import Array, Layer, real

MOMENTUM = 0.1
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

    def normal(self, key, shape: tuple[int, ...], variance: float) -> Array:
        """A linen initializer: normal of mean 0, from `noise`; zeros where only the shape is asked for."""
        uniform = self.uniform(key, shape, 1)
        inside = jnp.nextafter(jnp.asarray(-1, uniform.dtype), jnp.asarray(0, uniform.dtype))  # at -1 it is infinite
        return (2 * variance) ** 0.5 * jax.lax.erf_inv(jnp.maximum(uniform, inside))

    def tap(self, path: tuple[str, ...], kind: str, activation: Array, momentum: float = MOMENTUM) -> Array:
        """The activation, edited if asked for; the tap's name is the layer's path joined by dots."""
        name = ".".join(path)
        if name in self.edit:
            activation = self.edit[name](activation).astype(activation.dtype)
        self.taps[name] = activation
        self.layers.append(Layer(name, kind, path if kind in WITH_PARAMETERS else (), name, momentum))
        return activation


class Conv(nn.Module):
    """A square convolution with as much zero padding on every side as given.

    identity: whether it begins as one that hands its input channels on, in as many of its output channels.
    fan: "in" or "out": the kernel begins normal, of variance 2 / fan; "": uniform, as PyTorch begins by default.
    bias: whether a bias is added, which begins at 0.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    identity: bool = False
    fan: str = ""
    bias: bool = False

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, height, width, channels)."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self._drawn, run, shape)
        padding = ((self.padding, self.padding),) * 2
        x, kernel = x.astype(run.working), kernel.astype(run.working)
        x = convolve(x, kernel, (self.stride, self.stride), padding)
        if self.bias:
            x += beside(x, self.param("bias", nn.initializers.zeros, (self.features,), real()).astype(x.dtype))
        return run.tap(self.path, "conv", x)

    def _drawn(self, key, run: Pass, shape: tuple[int, ...]) -> Array:
        if self.fan:
            return run.normal(key, shape, 2 / (self.size**2 * shape[2 if self.fan == "in" else 3]))
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
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), real())
        bias = self.param("bias", nn.initializers.zeros, (channels,), real())
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), real())
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), real())
        if not run.train:
            normal = standardize(x.astype(real()), running_mean.value, running_var.value, scale, bias)
            return run.tap(self.path, "norm", normal.astype(x.dtype), self.momentum)
        weight = jnp.ones(len(x), real()) if run.weight is None else run.weight
        normal, mean, variance, count = batch_norm(x, weight, scale, bias)
        rate = self.momentum * (count > 0)
        unbiased = variance * count / jnp.maximum(count - 1, 1)
        running_mean.value += rate * (mean - running_mean.value)
        running_var.value += rate * (unbiased - running_var.value)
        return run.tap(self.path, "norm", normal, self.momentum)


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
    """A fully connected layer.

    deviation: the kernel begins normal, of this standard deviation; 0: uniform, as PyTorch begins by default.
    zero_bias: whether the bias begins at 0; it does with a normal kernel.
    rectified: whether a rectifier follows that belongs to the layer, so that the tap is what the rectifier gives.
    """

    features: int
    deviation: float = 0.0
    zero_bias: bool = False
    rectified: bool = False

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, channels)."""
        shape = (x.shape[-1], self.features)
        if self.deviation:
            kernel = self.param("kernel", run.normal, shape, self.deviation**2)
        else:
            kernel = self.param("kernel", run.uniform, shape, shape[0])
        if self.deviation or self.zero_bias:
            bias = self.param("bias", nn.initializers.zeros, shape[1:], real())
        else:
            bias = self.param("bias", run.uniform, shape[1:], shape[0])
        x = x @ kernel + beside(x, bias)
        return run.tap(self.path, "linear", nn.relu(x) if self.rectified else x)


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


def merge_pairs(x: Array, merge: Callable[[Array, Array], Array]) -> Array:
    """Every two rows merged into one, then every two columns; a last odd one is left out, a single one stays.

    Args:
        x: float (b, height, width, channels).
        merge: such as jnp.maximum: see `halved` for why pairs.
    """
    for axis in (1, 2):
        even = x.shape[axis] // 2 * 2
        if even:
            x = merge(*(jax.lax.slice_in_dim(x, first, even, 2, axis) for first in (0, 1)))
    return x


def max_pool3(x: Array) -> Array:
    """The largest of every 3x3 pixels at stride 2, the image padded by one pixel on every side, also found by pairs."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=jnp.finfo(x.dtype).min)
    for axis in (1, 2):
        stop = (x.shape[axis] - 1) // 2 * 2
        first, second, third = (jax.lax.slice_in_dim(x, low, stop - 1 + low, 2, axis) for low in (0, 1, 2))
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x
