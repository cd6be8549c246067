"""What pruning defenses share: thresholds on masks of channels, and a stage of one step without batches."""

from collections.abc import Callable, Mapping
from functools import partial

import jax.numpy as jnp

from bdjax.data import sources
from bdjax.defenses.parts import thresholds
from bdjax.models.parts.norms import entries, scaled
from bdjax.train import start
from bdjax.types import Array, Layer, Net, PyTree, Stage, Trained, Weights, real

MILDEST = 10.0
"""The largest number of deviations that is tried where one is chosen."""


def share(layers: tuple[Layer, ...], before: Weights, after: Weights) -> Array:
    """The share of all channels of these normalisation layers whose scale has changed, float ()."""
    old, new = (entries(layers, weights.params, "scale") for weights in (before, after))
    return jnp.mean(jnp.concatenate([(old[name] != new[name]).astype(real()) for name in old]))


def prune_scales(net: Net, weights: Weights, mask: Mapping[str, Array], threshold: Array) -> Weights:
    """The weights with the scales 0 of neurons whose mask is at most `threshold`; biases stay.

    mask: name of a layer -> float (channels,).
    """
    keep = {name: (value > threshold).astype(value.dtype) for name, value in mask.items()}
    return weights.replace(params=scaled(net, weights.params, keep, {}))


def clip_mask(mask: dict[str, Array], still: PyTree, _rows, _given, _clock) -> tuple[dict[str, Array], PyTree]:
    """For `train.descend`: a mask brought back to [0, 1] after a step."""
    return {name: jnp.clip(value, 0, 1) for name, value in mask.items()}, still


def by_mask(net: Net, layers: tuple[Layer, ...], choose: str, tried: int, relative: bool) -> Stage:
    """The stage that prunes the victim by the `mask` that the stage before left: see `thresholds.SETTINGS`."""

    def change(_key, given, _weights):
        mask = given.carry["mask"]
        strengths = thresholds.towards(0.0, given.settings["threshold"], tried)
        prune = partial(prune_scales, net, given.victim, mask)
        weights = thresholds.strongest(net, given, strengths, prune, choose, relative)
        info = {"pruned": share(layers, given.victim, weights)}
        # A mask that diverged says nothing of its neurons, and the cell is to be seen as diverged.
        lost = {name: jnp.where(jnp.isnan(value), jnp.nan, 1) for name, value in mask.items()}
        return weights.replace(params=scaled(net, weights.params, lost, {})), info

    return once(change)


def kept(measure: Array, u: Array) -> Array:
    """Which channels of a layer are at most u (sample) standard deviations above its mean, 1 or 0."""
    return (~(measure > jnp.mean(measure) + u * jnp.std(measure, ddof=1))).astype(measure.dtype)


def by_outliers(
    net: Net,
    layers: tuple[Layer, ...],
    measure: Callable[..., dict[str, Array]],
    choose: str,
    tried: int,
    relative: bool,
    biases: bool,
) -> Stage:
    """The stage that prunes the victim's channels that lie more than `u` deviations above their layer's mean.

    Args:
        net: the network.
        layers: of normalization.
        measure: (key, given, victim) -> name of a layer -> float (channels,).
        choose, tried, relative: see `thresholds.SETTINGS`; where u is chosen, `MILDEST` is the largest that is tried.
        biases: whether a pruned channel loses its bias too.
    """

    def change(key, given, victim):
        found = measure(key, given, victim)

        def prune(u: Array) -> Weights:
            keep = {name: kept(value, u) for name, value in found.items()}
            return victim.replace(params=scaled(net, victim.params, keep, keep if biases else {}))

        strengths = thresholds.towards(MILDEST, given.settings["u"], tried)
        weights = thresholds.strongest(net, given, strengths, prune, choose, relative)
        largest = jnp.max(jnp.stack([jnp.max(value) for value in found.values()]))
        return weights, {"pruned": share(layers, given.victim, weights), "largest": largest}

    return once(change)


def once(change: Callable[..., tuple[Weights, dict[str, Array]]], carry: Callable | None = None) -> Stage:
    """A stage of one step that reads no batch: change(key, given, weights) -> (weights, info).

    carry: (weights, given) -> what is carried on; None for what the stage before carried.
    """

    def order(_key, _weights, _epoch, _given):
        return jnp.full((1, 1), -1, jnp.int32)

    def step(key, weights, _rows, given):
        return change(key, given, weights)

    return Stage(
        source=lambda given: sources.numbers(1),
        epochs=1,
        init=lambda key, given, weights: start(given, weights),
        order=order,
        step=step,
        finish=lambda key, weights, given: Trained(weights, carry(weights, given) if carry else dict(given.carry)),
    )
