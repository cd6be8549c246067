"""A layer inserted into a trained network: a 1x1 convolution without bias, at first the identity, and normalisation.

Zhu, Wei, Zha, Wu, Neural Polarizer, NeurIPS 2023, https://arxiv.org/abs/2306.16697, section 3. It is a layer like any
other: its parameters and statistics are under `polarizer`, its halves can be tapped and edited as `polarizer.conv` and
`polarizer.norm`, and the network's own taps give what they gave before, `tap` what goes into the layer.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdjax.errors import InvalidInput
from bdjax.models.parts.layers import NO_EDIT, BatchNorm, Pass
from bdjax.types import Array, Layer, Net, Weights, real

OWN = "polarizer"


class Pointwise(nn.Module):
    """A 1x1 convolution as a matrix product, at first the identity."""

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, ..., channels)."""
        channels = x.shape[-1]
        kernel = self.param("kernel", lambda key: jnp.eye(channels, dtype=real())[None, None])
        return run.tap(self.path, "conv", jnp.einsum("...i,io->...o", x, kernel[0, 0]))


class Polarizer(nn.Module):
    """The convolution and its normalisation."""

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, ..., channels)."""
        return BatchNorm(name="norm")(Pointwise(name="conv")(x, run), run)


class Inserted(nn.Module):
    """Gives the layer its name."""

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, ..., channels)."""
        return Polarizer(name=OWN)(x, run)


def channels_at(net: Net, tap: str, shape: tuple[int, int, int]) -> int:
    """Channels of the activation at a tap, for images of `shape` (height, width, channels).

    Raises:
        InvalidInput: the network has no such tap.
    """
    image = jax.ShapeDtypeStruct((1, *shape), real())
    taps = jax.eval_shape(lambda image: net.apply(net.init(jax.random.key(0)), image)[2], image)
    if tap not in taps:
        raise InvalidInput(f"no tap {tap!r} to insert a layer after; choose one of {', '.join(taps)}")
    return taps[tap].shape[-1]


def polarized(weights: Weights, channels: int) -> Weights:
    """The weights with an inserted layer that changes nothing yet but for the epsilon of its normalisation."""
    own = Inserted().init(jax.random.key(0), jnp.zeros((1, channels), real()), Pass())
    return Weights(weights.params | own["params"], weights.batch_stats | own["batch_stats"])


def forward(net: Net, tap: str, learn: bool, weights: Weights, image, train=False, weight=None, edit=NO_EDIT):
    """What `Net.apply` gives, with the inserted layer after `tap`; `learn` is training mode for that layer alone."""
    rest = Weights(*(_without(tree, OWN) for tree in (weights.params, weights.batch_stats)))
    own = {"params": {OWN: weights.params[OWN]}, "batch_stats": {OWN: weights.batch_stats[OWN]}}
    run, statistics, before = Pass(learn, weight, edit), {}, {}

    def insert(x: Array) -> Array:
        before[tap] = edit[tap](x) if tap in edit else x
        after, changed = Inserted().apply(own, before[tap], run, mutable=["batch_stats"])
        statistics.update(changed["batch_stats"])
        return after

    outer = {name: change for name, change in edit.items() if not name.startswith(OWN + ".")} | {tap: insert}
    logits, batch_stats, taps = net.apply(rest, image, train=train, weight=weight, edit=outer)
    return logits, batch_stats | statistics, taps | before | run.taps


def _without(tree: dict, name: str) -> dict:
    return {key: value for key, value in tree.items() if key != name}


def inserted(net: Net, tap: str, channels: int) -> Net:
    """The network with the layer after `tap`, where activations have so many channels."""
    run = Pass()
    jax.eval_shape(lambda x: Inserted().init(jax.random.key(0), x, run), jax.ShapeDtypeStruct((1, channels), real()))
    place = [layer.tap for layer in net.layers].index(tap) + 1

    def apply(weights, image, train=False, weight=None, edit=NO_EDIT):
        return forward(net, tap, train, weights, image, train, weight, edit)

    layers: tuple[Layer, ...] = (*net.layers[:place], *run.layers, *net.layers[place:])
    return Net(lambda key: polarized(net.init(key), channels), apply, layers)
