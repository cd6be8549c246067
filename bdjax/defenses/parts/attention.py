"""Attention maps of a network's layers, how far two of them are apart, and where a network's stages end.

Zagoruyko, Komodakis, Paying More Attention to Attention, ICLR 2017, arXiv:1612.03928, section 3.1, the map F_sum^p.
"""

import re

import jax.numpy as jnp

from bdjax import train
from bdjax.errors import InvalidInput
from bdjax.types import Array, Net


def stage_ends(net: Net) -> list[str]:
    """The tap at the end of every stage before the pooling, in forward order.

    A stage is a run of blocks whose names differ in the number behind the underscore alone, `layer3_0` and `layer3_1`;
    outside blocks it is a convolution with what follows it.
    """
    ends, stage = {}, ""
    for layer in net.layers:
        block = layer.name.rpartition(".")[0]
        if block:
            stage = re.sub(r"_\d+$", "", block)
        elif layer.kind == "conv":
            stage = layer.name
        if stage and layer.kind not in ("pool", "linear"):
            ends[stage] = layer.tap
    return list(ends.values())


def resolved(net: Net, taps: str) -> list[str]:
    """Three taps, from low to high.

    Args:
        net: the network.
        taps: "stages", the ends of the last three; "pooled", those of the last two and the pooled features; or three
            taps joined by +.

    Raises:
        InvalidInput: there are not three of them, or the network has no such tap.
    """
    pools = [layer.tap for layer in net.layers if layer.kind == "pool"]
    named = {"stages": lambda: stage_ends(net)[-3:], "pooled": lambda: stage_ends(net)[-2:] + pools[-1:]}
    found = named.get(taps, lambda: taps.split("+"))()
    known = [layer.tap for layer in net.layers]
    if len(found) != 3 or not set(found) <= set(known):
        raise InvalidInput(f"taps={taps} is {' + '.join(found)}; join three of {', '.join(known)} by +")
    return found


def attention(activation: Array, power) -> Array:
    """The attention maps (b, positions), each of Euclidean length 1, of an activation (b, ..., channels)."""
    values = activation.reshape(len(activation), -1, activation.shape[-1])
    maps = jnp.sum(jnp.abs(values) ** power, axis=2)
    square = jnp.sum(maps**2, axis=1, keepdims=True)
    # The derivative of the root at 0 is infinite, and an image can leave a whole layer silent.
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return maps / (length + 1e-6)


def distance(student: Array, teacher: Array, weight: Array, power) -> Array:
    """The mean squared difference of the attention of two activations over positions and rows of weight (b,)."""
    gap = attention(student, power) - attention(teacher, power)
    return train.mean(jnp.mean(gap**2, axis=1), weight)
